"""A bundle carries a pool: whole, and nothing but a pool."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import bundle
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress

NAME = "cpu-1"
ROOT = Path(__file__).resolve().parents[2]


def roots(folder):
    return {"environments": str(folder / "pool/environments"), "models": str(folder / "models"), "uv": str(folder / "uv")}


@pytest.fixture
def pool(tmp_path):
    found = roots(tmp_path / "here")
    for path, content in {
        f"environments/{NAME}.tar.gz": b"archive",
        f"environments/{NAME}.json": json.dumps({"id": NAME, "file": f"{NAME}.tar.gz", "size": 7, "sha256": "", "bytes": 9}).encode(),
        "environments/other.tar.gz": b"not asked for",
        "models/abc/config.json": b"{}",
        "models/abc/.manifest.json": b"[]",
        "models/.half.part/weights": b"half",
        "uv/1.0/bin/uv": b"program",
        "uv/1.0/lib/python": b"not needed",
    }.items():
        root, _, rest = path.partition("/")
        place = os.path.join(found[root], rest)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as stream:
            stream.write(content)
    return found


@pytest.fixture
def archive(pool, tmp_path):
    bundle.write(str(tmp_path / "b.tar"), pool, [NAME], Progress())
    return tmp_path / "b.tar"


def files(found):
    return sorted(
        f"{root}/{os.path.relpath(os.path.join(folder, file), directory)}"
        for root, directory in found.items()
        for folder, _folders, names in os.walk(directory)
        for file in names
    )


def test_what_is_packed_arrives_and_a_second_time_changes_nothing(archive, tmp_path):
    there = roots(tmp_path / "there")
    foretold = bundle.look(str(archive), there)
    assert not (tmp_path / "there").exists()
    new = bundle.read(str(archive), there, Progress())
    assert new == [f"environments/{NAME}.json", f"environments/{NAME}.tar.gz", "models/abc", "uv/1.0"]
    assert foretold == new
    carried = [*new[:2], "models/abc/.manifest.json", "models/abc/config.json", "uv/1.0/bin/uv"]
    assert files(there) == carried
    assert bundle.look(str(archive), there) == bundle.read(str(archive), there, Progress()) == []
    assert files(there) == carried
    assert os.access(f"{there['uv']}/1.0/bin/uv", os.X_OK)
    assert os.stat(f"{there['models']}/abc").st_mode & 0o222 == 0


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content.replace(b"archive", b"Archive"))


def foreign(name, kind=tarfile.REGTYPE):
    def change(path):
        with tarfile.open(path, "a") as archive:
            row = tarfile.TarInfo(name)
            row.type, row.linkname = kind, "/etc"
            archive.addfile(row, io.BytesIO(b""))

    return change


CASES = {
    "cut short": (cut, "bundle_file: .*cut short"),
    "changed": (flip, r"is damaged: environments/cpu-1\.tar\.gz is not what it was"),
    "no tar": (lambda path: path.write_bytes(b"hello"), "is no bundle"),
    "not there": (lambda path: path.unlink(), "is not on the pool host"),
    "a path that leads out": (foreign("models/../../etc/passwd"), "which no bundle does"),
    "an absolute path": (foreign("/etc/passwd"), "which no bundle does"),
    "a link": (foreign("models/link", tarfile.SYMTYPE), "which no bundle does"),
    "a file that is not in its list": (foreign("models/abc/more"), "is damaged: models/abc/more"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_whole_bundle_puts_nothing_in_place(name, archive, tmp_path):
    change, words = CASES[name]
    change(archive)
    there = roots(tmp_path / "there")
    with pytest.raises(Refused, match=words):
        bundle.read(str(archive), there, Progress())
    assert files(there) == []


@pytest.mark.parametrize("name", [name for name in CASES if name != "changed"])
def test_a_look_at_what_is_no_whole_bundle_says_so(name, archive, tmp_path):
    """All but a byte that changed: a look does not read what may be hundreds of gigabytes."""
    change, words = CASES[name]
    change(archive)
    with pytest.raises(Refused, match=words):
        bundle.look(str(archive), roots(tmp_path / "there"))
    assert not (tmp_path / "there").exists()


def test_an_archive_that_was_packed_anew_is_foretold(archive, tmp_path):
    there = roots(tmp_path / "there")
    bundle.read(str(archive), there, Progress())
    path = f"{there['environments']}/{NAME}.tar.gz"
    os.chmod(path, 0o644)
    with open(path, "wb") as stream:
        stream.write(b"Archive")
    assert bundle.look(str(archive), there) == bundle.read(str(archive), there, Progress()) == [f"environments/{NAME}.tar.gz"]


CHECKS = [("b.tar", True), ("away.tar", None)]


@pytest.mark.parametrize(("file", "changed"), CHECKS)
def test_the_play_foretells_it_in_check_mode(file, changed, archive, tmp_path):
    options = {"state": "unpacked", "path": str(tmp_path / file), "pool": str(tmp_path / "there/pool")}
    words = json.dumps({**options, "models": str(tmp_path / "there/models"), "installer": str(tmp_path / "there/uv")})
    program = str(Path(sys.executable).parent / "ansible")
    command = [
        program,
        "localhost",
        "-m",
        "ownmetal.codex.vllm_bundle",
        "-a",
        words,
        "--check",
        "-e",
        f"ansible_python_interpreter={sys.executable}",
    ]
    for again in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if changed is None:
            assert "bundle_file:" in said, said
            assert "is not on the pool host" in said
        else:
            assert ("CHANGED" in said) == (not again), said
            bundle.read(str(archive), roots(tmp_path / "there"), Progress())


def test_an_environment_that_was_not_packed_is_named(pool, tmp_path):
    with pytest.raises(Refused, match="the pool has no archive of cpu-2"):
        bundle.write(str(tmp_path / "b.tar"), pool, ["cpu-2"], Progress())
    assert not (tmp_path / "b.tar").exists()
