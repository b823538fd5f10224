"""A model on the controller is read once, and again when it is another one."""

import os
import subprocess
import sys

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import folder_digest

ASK = (
    "import sys; from ansible_collections.ownmetal.codex.plugins.module_utils import folder_digest as one; one.SETTLED = 0; "
    "read = one._sha256; one._sha256 = lambda file: print('read', file.name) or read(file); print(one.source_digest(sys.argv[1]))"
)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "weights").write_bytes(b"12345")
    (tmp_path / "model.tar").write_bytes(b"an archive")
    return folder


def ask(path):
    """Ask as a task of a play does, in a process of its own; return what was read, and the name."""
    command = [sys.executable, "-c", ASK, str(path)]
    *read, name = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ).stdout.split("\n")[:-1]
    return read, name


@pytest.mark.parametrize(("what", "read"), [("model", ["read config.json", "read weights"]), ("model.tar", ["read model.tar"])])
def test_it_is_read_once_whichever_process_asks(what, read, model, tmp_path):
    first = ask(tmp_path / what)
    assert first[0] == read
    assert ask(tmp_path / what) == ([], first[1])


def keep_times(path):
    """The same size and the same time of change: what is left is the time that nobody can set."""
    seen = path.stat()
    path.write_bytes(b"54321")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


CHANGES = {
    "a file is longer": lambda folder: (folder / "weights").write_bytes(b"123456"),
    "a file has the same size and time": lambda folder: keep_times(folder / "weights"),
    "a file has another name": lambda folder: (folder / "weights").rename(folder / "other"),
    "a file is new": lambda folder: (folder / "more").touch(),
    "what was kept is no JSON": lambda folder: next((folder.parent / "cache/ownmetal.codex/digests").iterdir()).write_text("{"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_is_read_again(name, model):
    before = ask(model)
    CHANGES[name](model)
    read, after = ask(model)
    assert read
    assert (after == before[1]) == ("JSON" in name)


def test_what_was_just_written_is_not_kept(model, tmp_path):
    folder_digest.source_digest(str(model))
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_done_without(model, monkeypatch):
    monkeypatch.setattr(folder_digest, "SETTLED", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    assert folder_digest.source_digest(str(model)) == folder_digest.source_digest(str(model))
