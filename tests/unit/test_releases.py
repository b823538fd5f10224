"""Numbered releases of an instance: which is next, which runs, which one is gone back to, which are kept."""

import json
import os
import re

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import releases, units
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import instances
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.layout import new_release_files, new_releases, unit_jobs
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress
from ansible_collections.ownmetal.codex.plugins.module_utils.release_gate import row
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track
from ansible_collections.ownmetal.codex.plugins.module_utils.units import UnitState, work

LAYOUT = {
    "server": "gpu1",
    "config": "/etc/vllm",
    "instances": "/var/lib/vllm",
    "models": "/m",
    "environments": {"cpu-py311": "/opt/vllm/environments/e"},
    "devices": {"cpu-py311": "cpu"},
    "shared": ["/unit"],
}
HOME = "/var/lib/vllm/coder"


def test_the_gate_is_asked_for_what_a_release_says_of_itself(tmp_path):
    place = tmp_path / "releases/2"
    place.mkdir(parents=True)
    assert row(str(tmp_path), "big", 2) is None  # on the CPU
    (place / "config.yaml").write_text(
        "# Ansible managed\nmodel: /m\ntensor-parallel-size: 2\ndisable-custom-all-reduce: true\ngpu-memory-utilization: 0.8\n"
    )
    (place / "variables.env").write_text(
        '#\nHOME="/x"\nCUDA_DEVICE_ORDER="PCI_BUS_ID"\nCUDA_VISIBLE_DEVICES="2,3"\nNCCL_P2P_DISABLE="1"\nOWN="a \\"b\\""\nKV=1\n'
    )
    assert row(str(tmp_path), "big", 2) == {
        "name": "big",
        "gpus": [2, 3],
        "group": 2,
        "share": 0.8,
        "environment": {"NCCL_P2P_DISABLE": "1"},
        "args": {"disable-custom-all-reduce": True},
        "python": str(place / "environment/bin/python"),
    }


def coder(**keys):
    return instances([[{"name": "coder", "model": "/srv/coder", "tool_call_parser": "hermes", **keys}]], track("cpu-py311"))


@pytest.fixture
def home(tmp_path):
    """An instance with five releases: all but 4 have served, 5 runs."""
    for number in range(1, 6):
        (tmp_path / "releases" / str(number)).mkdir(parents=True)
        os.symlink("/opt/vllm/environments/e", tmp_path / "releases" / str(number) / "environment")
        os.symlink("/m/x", tmp_path / "releases" / str(number) / "model")
        releases.switch(str(tmp_path), number)
        if number != 4:
            releases.mark_served(str(tmp_path), number, "a tool call")
    return str(tmp_path)


NUMBERS = [
    # seen    pending  what differs                                next
    ([], None, [f"{HOME}/current/config.yaml"], {"coder": 1}),
    ([1, 2], None, [f"{HOME}/current/variables.env"], {"coder": 3}),
    ([1, 7], None, [f"{HOME}/current/model"], {"coder": 8}),
    ([1, 7], 7, [f"{HOME}/current/model"], {"coder": 7}),  # it was written, perhaps by half, and nothing was switched to it
    ([1], None, [], {}),
    ([1], None, ["/etc/vllm/coder.yaml", "/unit"], {}),  # what is not in a release makes none
    ([1], None, ["/var/lib/vllm/coder-2/current/config.yaml"], {}),
]


@pytest.mark.parametrize(("numbers", "pending", "changed", "expected"), NUMBERS)
def test_a_release_is_made_of_what_differs(numbers, pending, changed, expected):
    assert new_releases(coder(), LAYOUT, {HOME: {"numbers": numbers, "pending": pending}}, changed) == expected


def test_a_release_is_pending_until_something_is_switched_to_it(home):
    assert releases.read(home)["pending"] is None
    os.mkdir(f"{home}/releases/6")
    assert releases.read(home)["pending"] == 6
    releases.switch(home, 6)
    releases.switch(home, 5)  # it failed, and its number is used up
    assert releases.read(home)["pending"] is None


def test_nothing_is_stopped_for_a_release_that_is_not_whole(home, monkeypatch):
    asked = []
    monkeypatch.setattr(units, "systemctl", lambda *words: asked.append(words))
    jobs = work([{"name": "coder", "home": home, "release": 6}], [], {"vllm@coder.service": UP})
    with pytest.raises(Refused, match=r"vllm_instances coder: release 6, which is to run, has no .*/6/environment: the phase"):
        units.deploy(jobs, None, Progress(None), keep=5)
    assert asked == []


def test_a_new_release_is_written_beside_the_current_one():
    paths = [entry["dest"] for entry in new_release_files(coder(), LAYOUT, {"coder": 3})]
    assert f"{HOME}/releases/3/config.yaml" in paths
    assert not [path for path in paths if path.startswith(f"{HOME}/current")]
    assert not [path for path in (entry["dest"] for entry in new_release_files(coder(), LAYOUT, {})) if "releases/" in path]


def test_who_cannot_call_tools_is_not_asked_to():
    for keys, url in (({}, "http://127.0.0.1:8000/v1"), ({"tool_call_parser": None}, None)):
        entries = {entry["dest"]: entry for entry in new_release_files(coder(**keys), LAYOUT, {"coder": 3})}
        proof = json.loads(entries[f"{HOME}/releases/3/proof.json"]["content"])
        assert (proof and proof["base_url"]) == url


def test_the_link_is_switched_and_the_history_told(home):
    releases.switch(home, 2)
    rows = releases.history(home)
    assert [row["number"] for row in rows if row["current"]] == [2]
    assert [row["number"] for row in rows if row["served"]] == [1, 2, 3, 5]
    assert rows[0]["environment"] == "/opt/vllm/environments/e"
    assert os.readlink(f"{home}/current") == "releases/2"
    assert sorted(os.listdir(home)) == ["current", "releases"]


BACK = [
    # switched to   what is gone back to
    ([], 3),  # 5 replaced 4, which never served
    ([2], 1),
    ([1], None),
    ([2, 5], 3),  # a rollback and forward again changes nothing about what 5 replaced
]


@pytest.mark.parametrize(("switches", "back"), BACK)
def test_what_is_gone_back_to_has_served(home, switches, back):
    for number in switches:
        releases.switch(home, number)
    assert releases.to_go_back_to(home) == back


def test_a_release_after_a_rollback_goes_back_to_what_it_replaced(home):
    releases.switch(home, 2)
    os.mkdir(f"{home}/releases/6")
    releases.switch(home, 6)
    assert releases.to_go_back_to(home) == 2


KEPT = [
    # kept  current   what is left
    (5, 5, [1, 2, 3, 4, 5]),
    (2, 5, [3, 4, 5]),  # 3 is what 5 goes back to
    (1, 2, [1, 2, 5]),
    (1, 5, [3, 5]),
]


@pytest.mark.parametrize(("keep", "current", "left"), KEPT)
def test_old_releases_go_but_never_the_one_to_go_back_to(home, keep, current, left):
    releases.switch(home, current)
    releases.prune(home, keep)
    assert releases.read(home)["numbers"] == left


def test_no_home_is_no_releases(tmp_path):
    assert releases.read(str(tmp_path / "none")) == {"numbers": [], "current": None, "served": [], "pending": None, "listens": []}


UP, DOWN, NOT_ENABLED = UnitState("active", "enabled"), UnitState("failed", "enabled"), UnitState("active", "disabled")
STARTING = UnitState("activating", "enabled")
WORK = [
    # wanted release   unit          restart   current   what is done
    (None, UP, False, 5, None),
    (None, NOT_ENABLED, False, 5, "enable"),
    (None, DOWN, False, 5, "start"),
    (None, UP, True, 5, "restart"),
    (None, DOWN, True, 5, "start"),
    (None, STARTING, False, 5, "start"),
    (None, STARTING, True, 5, "restart"),  # it has read the old files
    (5, UP, False, 5, None),  # it is the current one already
    (3, UP, False, 5, "switch"),
    (3, DOWN, True, 5, "switch"),
    (None, UP, False, 4, "prove"),  # an earlier run ended between the switch and the proof
]


@pytest.mark.parametrize(("release", "state", "restart", "current", "verb"), WORK)
def test_what_is_done_with_an_instance(home, release, state, restart, current, verb):
    releases.switch(home, current)
    unit = "vllm@coder.service"
    jobs = work([{"name": "coder", "home": home, "release": release}], [unit] if restart else [], {unit: state})
    assert [job.verb for job in jobs] == ([verb] if verb else [])


def test_a_release_that_goes_back_after_the_look_is_tried_again(home):
    """The play was cut off, its job went on: the next run looks while the job still proves the new release, and waits for its end."""
    os.mkdir(f"{home}/releases/6")
    releases.switch(home, 6)
    seen = {HOME: releases.read(home), "/var/lib/vllm/other": releases.read(f"{home}/none")}
    releases.switch(home, 5)  # the job ends
    (job,) = unit_jobs(coder(), LAYOUT, {}, seen)
    assert job == {"name": "coder", "home": HOME, "release": 6, "server": "gpu1"}
    (todo,) = work([{**job, "home": home}], [], {"vllm@coder.service": UP})
    assert (todo.verb, todo.release, todo.server) == ("switch", 6, "gpu1")
    assert unit_jobs(coder(), LAYOUT, {"coder": 7}, seen)[0]["release"] == 7
    assert unit_jobs(coder(), LAYOUT, {}, {HOME: releases.read(f"{home}/none")})[0]["release"] is None  # a first release is in numbers


def test_the_mark_says_what_was_proved(home):
    with open(f"{home}/releases/5/served.json") as stream:
        assert json.load(stream)["proof"] == "a tool call"


CHOSEN = [
    # asked for             chosen, or the words of the refusal
    (("home", None), 3),
    (("home", 1), 1),
    (("home", 4), 4),
    (("home", 5), 5),  # a rollback that was cut off after the switch is finished
    (("home", 9), "release 9 is not there. It has: 1, 2, 3, 4."),
    (("home", 2), "release 2 needs /gone, which is gone."),
    (("home", 3), "3/config.yaml, which is gone."),
]


@pytest.mark.parametrize(("asked", "expected"), CHOSEN)
def test_a_release_to_roll_back_to_is_chosen(tmp_path, home, asked, expected):
    place = tmp_path / "home"
    place.mkdir()
    (tmp_path / "there").mkdir()
    os.rename(f"{home}/releases", place / "releases")
    os.rename(f"{home}/current", place / "current")
    for number in range(1, 6):
        for part in ("environment", "model"):
            os.unlink(place / f"releases/{number}/{part}")
            os.symlink("/gone" if number == 2 else tmp_path / "there", place / f"releases/{number}/{part}")
        for part in ("config.yaml", "variables.env", "unit.conf"):
            (place / f"releases/{number}/{part}").touch()
    os.unlink(place / "releases/3/config.yaml") if asked[1] == 3 else None
    if isinstance(expected, int):
        assert releases.choose(str(place), *asked) == expected
    else:
        with pytest.raises(Refused, match=re.escape(expected)):
            releases.choose(str(place), *asked)


GONE_BACK = [
    # switches        it has gone back   what is chosen without a number
    ([], False, 3),
    ([3], True, 3),
    ([3, 5], False, 3),
    ([4, 3], True, 3),
]


@pytest.mark.parametrize(("switches", "gone", "number"), GONE_BACK)
def test_a_rollback_that_is_repeated_does_not_go_back_twice(home, switches, gone, number, monkeypatch):
    monkeypatch.setattr(releases, "missing", lambda *_: None)
    for one in switches:
        releases.switch(home, one)
    assert (releases.gone_back(home), releases.choose(home, "coder", None)) == (gone, number)


def test_an_upgrade_that_failed_has_not_gone_back(home, monkeypatch):
    monkeypatch.setattr(releases, "missing", lambda *_: None)
    os.mkdir(f"{home}/releases/6")
    releases.switch(home, 6)
    releases.switch(home, 5)
    assert (releases.gone_back(home), releases.choose(home, "coder", None)) == (False, 3)


def test_where_the_releases_listen_is_read_from_their_configurations(tmp_path):
    texts = ["model: x\nhost: 0.0.0.0\nport: 8002\n", "host: '::'\nport: 8003\n", "host: 0.0.0.0\nport: 8002\n", "not one of ours\n"]
    for number, text in enumerate(texts, 1):
        place = tmp_path / "releases" / str(number)
        place.mkdir(parents=True)
        (place / "config.yaml").write_text(text)
    assert releases.read(str(tmp_path))["listens"] == [["0.0.0.0", 8002], ["::", 8003]]
