"""Bytecode that environments of a host share, made by a real Python and imported by it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import bytecode
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress

TAG = sys.implementation.cache_tag
ONE = "def where():\n    return where.__code__.co_filename\n"


class Host:
    """A folder with environments, of which each has its modules by name, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"

    def make(self, name, modules):
        """Make an environment's sources and their bytecode; return what came."""
        root = self.folder / name
        (root / "bin").mkdir(parents=True)
        (root / "bin/python").symlink_to(sys.executable)
        sources = {}
        for module, text in modules.items():
            path = root / "lib" / f"{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            sources[f"lib/{module}.py"] = hashlib.sha256(text.encode()).hexdigest()
        return bytecode.add(str(root / "bin/python"), f"/opt/{name}", sources, str(self.cache), name, Progress())

    def compiled(self, name, module):
        """The file beside a module."""
        folder, _, base = f"{name}/lib/{module}".rpartition("/")
        return self.folder / folder / "__pycache__" / f"{base}.{TAG}.pyc"

    def stored(self):
        """The files that are stored."""
        return sorted(self.cache.glob("bytecode/*/*"))

    def says(self, name, program):
        """What a program prints that imports from an environment, without a right to write bytecode."""
        command = [sys.executable, "-B", "-c", f"import sys; sys.path.insert(0, {str(self.folder / name / 'lib')!r}); {program}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_an_equal_source_is_compiled_once_wherever_it_lies(host):
    host.make("a", {"one": ONE, "deep/other": ONE, "two": "x = 1\n"})
    host.make("b", {"deep/one": ONE, "two": "x = 2\n"})
    files = {os.stat(host.compiled(*at)).st_ino for at in (("a", "one"), ("a", "deep/other"), ("b", "deep/one"))}
    assert len(files) == 1
    assert len(host.stored()) == 3


def test_it_is_what_is_imported_and_names_the_file_that_it_was_imported_from(host):
    host.make("a", {"one": ONE})
    host.make("b", {"one": ONE})
    source = host.folder / "b/lib/one.py"
    source.write_text("raise SystemExit('the source was compiled')\n")
    assert host.says("b", "import one; print(one.where())") == str(source)


def test_what_came_is_told_with_its_digest(host):
    found = host.make("a", {"one": ONE, "bad": "def\n"})
    path = f"lib/__pycache__/one.{TAG}.pyc"
    assert found == {path: hashlib.sha256((host.folder / "a" / path).read_bytes()).hexdigest()}
    assert not host.compiled("a", "bad").exists()


def test_a_stored_file_that_changed_is_made_again(host):
    host.make("a", {"one": "x = 1\n"})
    (stored,) = host.stored()
    stored.write_bytes(stored.read_bytes()[:-1] + b"?")
    host.make("b", {"one": "x = 1\n"})
    assert host.says("b", "import one; print(one.x)") == "1"
    assert os.stat(host.compiled("b", "one")).st_ino == os.stat(host.stored()[0]).st_ino != os.stat(host.compiled("a", "one")).st_ino


def test_what_a_wheel_brings_is_replaced(host):
    beside = host.compiled("a", "one")
    beside.parent.mkdir(parents=True)
    beside.write_bytes(b"of another source")
    host.make("a", {"one": "x = 1\n"})
    assert host.says("a", "import one; print(one.x)") == "1"


def test_what_no_environment_has_any_more_is_dropped_by_the_next_build(host):
    host.make("a", {"one": "x = 1\n"})
    host.compiled("a", "one").unlink()
    assert len(host.stored()) == 1  # an environment that is built anew finds it
    host.make("b", {"one": "x = 2\n"})
    assert [path.name.partition(".")[0] for path in host.stored()] == [hashlib.sha256(b"x = 2\n").hexdigest()]


def test_without_hard_links_it_is_copied(host, monkeypatch):
    def refused(*_paths):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    host.make("a", {"one": "x = 1\n", "two": "x = 1\n"})
    assert host.says("a", "import one, two; print(one.x, two.x)") == "1 1"
    assert host.stored() == []
