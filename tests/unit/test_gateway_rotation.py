"""Rotation: an overlap that ends by itself, an end at once, a run that was ended, and what is refused."""

import hashlib
import json

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import api_key, gateway_keys, gateway_rotation, gateway_state
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

ANNA, BEN = {"team": "red", "name": "anna"}, {"team": "blue", "name": "ben"}
LIMITS = {"requests_per_minute": 600, "burst": 40, "concurrency": 16}
HOUR = 3600
NOW = 1_800_000_000


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def file(tmp_path):
    """Return anna's file, with a key in it."""
    path = gateway_keys.path(str(tmp_path), ANNA)
    api_key.read_or_make(path)
    return path


@pytest.fixture
def ends(tmp_path):
    """Return the function that gives the ends of all keys that a gateway knows of, by digest."""
    return lambda entry=ANNA: {key: row["expires"] for key, row in gateway_keys.table([entry], str(tmp_path), LIMITS, True).items()}


def test_the_old_key_ends_by_itself_and_the_new_one_does_not(file, ends):
    old = api_key.read_or_make(file)
    assert gateway_rotation.rotate([file], "first", NOW, 24 * HOUR) == [file]
    new = api_key.read_or_make(file)
    assert new != old
    assert ends() == {digest(new): None, digest(old): NOW + 24 * HOUR}
    assert ends() == ends()  # nothing changes with time, so a later run of the role finds nothing to do


def test_a_key_never_outlives_its_last_day(file, ends):
    gateway_rotation.rotate([file], "first", NOW, 1000 * 24 * HOUR)
    last = {**ANNA, "expires": "2027-02-01"}
    assert set(ends(last).values()) == {gateway_keys.expiry(last)}


@pytest.mark.parametrize(("overlap", "left"), [(24 * HOUR, [NOW + 24 * HOUR, NOW + 25 * HOUR]), (0, [NOW + HOUR, NOW + HOUR])])
def test_a_second_rotation_keeps_both_old_keys_or_ends_both(file, ends, overlap, left):
    gateway_rotation.rotate([file], "first", NOW, 24 * HOUR)
    gateway_rotation.rotate([file], "second", NOW + HOUR, overlap)
    assert sorted(end for end in ends().values() if end is not None) == left


def test_what_has_ended_is_forgotten_by_the_next_rotation(file, ends):
    gateway_rotation.rotate([file], "first", NOW, HOUR)
    gateway_rotation.rotate([file], "second", NOW + 2 * HOUR, HOUR)
    assert sorted(end for end in ends().values() if end is not None) == [NOW + 3 * HOUR]


def test_one_rotation_is_made_once(file):
    gateway_rotation.rotate([file], "first", NOW, HOUR)
    key = api_key.read_or_make(file)
    assert gateway_rotation.rotate([file], "first", NOW + 60, HOUR) == []
    assert api_key.read_or_make(file) == key


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_end_in_the_middle_leaves_keys_that_the_gateway_knows(file, ends, monkeypatch, call):
    """At each of the three times when something takes its final place."""
    old, calls, replace = api_key.read_or_make(file), [], gateway_rotation.os.replace

    def ended(*words):
        calls.append(words)
        if len(calls) == call:
            raise KeyboardInterrupt
        replace(*words)

    with monkeypatch.context() as patch:
        patch.setattr(gateway_rotation.os, "replace", ended)
        with pytest.raises(KeyboardInterrupt):
            gateway_rotation.rotate([file], "first", NOW, HOUR)
    held = api_key.read_or_make(file)
    known = ends()
    assert known[digest(held)] is None  # what is handed out is good
    assert digest(old) in known
    gateway_rotation.rotate([file], "first", NOW, HOUR)
    assert ends()[digest(api_key.read_or_make(file))] is None
    assert digest(old) in ends()


def test_the_files_are_their_owners_and_hold_no_old_key(file, tmp_path):
    old = api_key.read_or_make(file)
    gateway_rotation.rotate([file], "first", NOW, HOUR)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("anna.*")} == {0o600}
    assert not any(old in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_in_check_mode_it_is_said_and_not_done(file):
    key = api_key.read_or_make(file)
    assert gateway_rotation.rotate([file], "first", NOW, HOUR, make=False) == [file]
    assert api_key.read_or_make(file) == key


def test_a_key_file_that_is_none_stops_all_before_the_first(file, tmp_path):
    key, other = api_key.read_or_make(file), tmp_path / "keys/red/other.key"
    other.write_text("short")
    other.chmod(0o600)
    with pytest.raises(Refused, match=r"other.key"):
        gateway_rotation.rotate([file, str(other)], "first", NOW, HOUR)
    assert api_key.read_or_make(file) == key


CHOSEN = [
    # team     name     keys, or words of the refusal
    (None, None, ["anna", "ben"]),
    ("red", None, ["anna"]),
    ("blue", "ben", ["ben"]),
    ("rad", None, "-e key_team: gateway_keys has no rad. Did you mean red?"),
    ("red", "ben", "-e key_name: gateway_keys has no red/ben."),
    (None, "ben", "Write -e key_team=TEAM too."),
]


@pytest.mark.parametrize(("team", "name", "found"), CHOSEN)
def test_whose_keys_are_rotated(team, name, found):
    entries = [ANNA, BEN, {"team": "blue", "name": "gone", "state": "absent"}]
    if isinstance(found, list):
        assert [entry["name"] for entry in gateway_rotation.chosen(entries, team, name)] == found
    else:
        with pytest.raises(Refused, match=found):
            gateway_rotation.chosen(entries, team, name)


def test_the_servers_key_of_before_is_known_until_all_have_the_new_one(tmp_path):
    file = str(tmp_path / "vllm_api_key")
    old = api_key.read_or_make(file)
    known = {"inventory_dir": str(tmp_path), "vllm_api_key_file": file}
    assert gateway_state.key_before(known) == ""
    assert gateway_rotation.rotate_servers([file]) == [file]
    new = gateway_state.server_key(known, True)
    assert (gateway_state.key_before(known), new != old) == (old, True)
    assert gateway_rotation.rotate_servers([file]) == []  # a run that was ended goes on with the same key
    assert gateway_state.server_key(known, True) == new
    assert gateway_rotation.finish_servers([file]) == [file]
    assert gateway_state.key_before(known) == ""


def test_a_servers_key_in_the_inventory_is_the_operators():
    with pytest.raises(Refused, match="vllm_api_key: of gpu1 is written in the inventory"):
        gateway_state.key_files({"gpu1": {"vllm_api_key": "x" * 20, "inventory_dir": "/srv"}})


def test_a_broken_file_of_old_keys_is_named(file):
    with open(gateway_rotation.old_path(file), "w") as stream:
        json.dump({"keys": 1}, stream)
    with pytest.raises(Refused, match=r"anna.old: cannot be read"):
        gateway_rotation.before(file)


def test_a_rotation_without_a_gateway_that_has_the_same_keys_is_known():
    known = {
        "gw1": {"inventory_dir": "/inv"},
        "gw2": {"inventory_dir": "/inv", "gateway_secrets": "/inv/.secrets/gateway"},
        "gw3": {"inventory_dir": "/inv", "gateway_secrets": "/srv/others"},
    }
    rows = [(["gw1", "gw2", "gw3"], []), (["gw1"], ["gw2"]), (["gw2", "dev1"], ["gw1"]), (["gw3"], ["gw1", "gw2"])]
    assert [gateway_rotation.left_out("/inv/.secrets/gateway", known, present) for present, _ in rows] == [out for _, out in rows]
    assert gateway_rotation.left_out("/srv/others", known, ["gw3"]) == []
    assert gateway_rotation.left_out("/srv/x/../others/", known, []) == ["gw3"]


def test_a_folder_of_keys_by_a_link_is_the_same(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "keys")
    assert gateway_rotation.left_out(str(tmp_path / "link"), {"gw2": {"gateway_secrets": f"{tmp_path}/keys/"}}, ["gw1"]) == ["gw2"]
