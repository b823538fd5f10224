"""Only what nothing links to goes, and the space that is promised is what comes back."""

import contextlib
import fcntl
import os

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.collect import find, remove, report


@pytest.fixture
def server(tmp_path):
    models = ("used", "old", "wanted", ".half.part", ".busy.part")
    others = ("environments/e1", "environments/e2", "environments/.e3.part", "pool/environments", "locks", "srv/operators")
    for path in (*(f"models/{name}" for name in models), *others, "instances/coder/releases/3"):
        (tmp_path / path).mkdir(parents=True)
    for path in ("models/used/w", "models/old/w", "models/.half.part/w", "environments/e2/w", "srv/operators/w"):
        (tmp_path / path).write_bytes(b"x" * 100_000)
    for name in ("e1.tar.gz", "e1.json", "e2.tar.gz"):
        (tmp_path / "pool/environments" / name).write_bytes(b"x" * 5000)
    (tmp_path / "instances/coder/releases/3/model").symlink_to(tmp_path / "models/used")
    (tmp_path / "instances/coder/releases/3/environment").symlink_to(tmp_path / "environments/e1")
    os.link(tmp_path / "environments/e2/w", tmp_path / "cached")
    return tmp_path


def look(server, keep=()):
    places = [str(server / name) for name in ("instances", "models", "environments", "pool")]
    found = find(*places, [str(server / path) for path in keep], str(server / "locks"))
    return {os.path.relpath(row["path"], server): row["bytes"] for row in found}, found


def test_what_nothing_links_to_is_found(server):
    with contextlib.ExitStack() as locks:
        for thing in ("model-busy", "vllm-environments"):
            held = locks.enter_context(open(server / f"locks/ownmetal-{thing}", "w", encoding="ascii"))
            fcntl.flock(held, fcntl.LOCK_EX)
        paths, _ = look(server, ["models/wanted"])
    assert set(paths) == {"models/old", "models/.half.part", "environments/e2", "pool/environments/e2.tar.gz"}
    assert paths["environments/e2"] == 0, "its file has another name, in the installer's cache"
    assert 100_000 <= paths["models/old"] < 110_000


def test_it_goes_and_the_rest_stays(server):
    (server / "models/old/w").chmod(0o444)
    (server / "models/old").chmod(0o555)
    paths, found = look(server)
    remove(row["path"] for row in found)
    assert not any((server / path).exists() for path in paths)
    for path in ("models/used/w", "environments/e1", "srv/operators/w", "cached", "pool/environments/e1.tar.gz"):
        assert (server / path).exists(), path
    assert not (server / "environments/.e3.part").exists(), "nobody works at it"
    assert look(server)[0] == {}


def test_a_release_whose_model_is_a_folder_of_the_operator(server):
    (server / "instances/coder/releases/4").mkdir()
    (server / "instances/coder/releases/4/model").symlink_to(server / "srv/operators")
    assert not [path for path in look(server)[0] if "srv" in path]


def test_an_end_in_the_middle_leaves_no_half_model(server):
    """What a removal that was killed leaves has no model's name, and the next run takes it away."""
    (server / "models/old").rename(server / "models/.old.removed")
    paths, found = look(server)
    assert "models/.old.removed" in paths
    remove(row["path"] for row in found)
    assert not (server / "models/.old.removed").exists()


def test_a_report_says_how_much():
    rows = [{"path": "/m/a", "kind": "model", "bytes": 140_000_000_000}]
    assert report(rows, False)[-1] == "140.0 GB would be freed: -e collect=true removes this"
    assert report(rows, True)[-1] == "140.0 GB freed"
    assert report([], False) == ["nothing is left over: a release links to every model and environment"]
