"""Pythons: where a server's come from, what an archive must be, and that nothing is left of one that is refused."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import python_archive
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.pythons import MANAGED, PACKAGES, Source, problems, source, wanted
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import tracks

UV = Path(sys.executable).parent / "uv"
DEBIAN = {"name": "debian", "version": "12"}
ARCHIVE = Source("archive", archived="3.10", digest="ab" * 32)


def pack(path, members):
    """Write an archive; a member is its text, or (type, link)."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            row = tarfile.TarInfo(name)
            if isinstance(text, tuple):
                row.type, row.linkname = text
                archive.addfile(row)
                continue
            file = path.parent / "member"
            file.write_text(text)
            row.size, row.mode = len(text), 0o4777
            with file.open("rb") as stream:
                archive.addfile(row, stream)
    return {"source": "archive", "archive": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


SOURCES = [
    # source                              version  interpreter                                                       packages
    (PACKAGES, "3.11", "/usr/bin/python3.11", ["python3.11", "python3.11-venv"]),
    (ARCHIVE, "3.10", "/opt/python/3.10-abababababab/bin/python3.10", []),
    (ARCHIVE, "3.11", "/usr/bin/python3.11", ["python3.11", "python3.11-venv"]),  # the archive has another one
    (
        Source("managed", "/srv/py"),
        "3.12",
        f"/srv/py/managed/cpython-{MANAGED['3.12']}-linux-x86_64-gnu/bin/python3.12",
        ["python3-venv"],
    ),
]


@pytest.mark.parametrize(("where", "version", "interpreter", "packages"), SOURCES)
def test_an_interpreter_has_its_place(where, version, interpreter, packages):
    assert where.interpreter(version) == interpreter
    found = wanted([version], where)
    assert found["packages"] == packages
    assert [tree["interpreter"] for tree in found["trees"]] == ([] if interpreter.startswith("/usr") else [interpreter])


HOSTS = [
    (PACKAGES, "3.10", "gpu1 runs debian 12, whose packages have 3.11."),
    (ARCHIVE, "3.10", None),
    (ARCHIVE, "3.12", "whose packages have 3.11."),
    (Source("managed"), "3.10", None),
    (Source("managed"), "3.9", "there is no managed build of Python 3.9: 3.10, 3.11,"),
    (PACKAGES, "", "python_version: is not set"),
]


@pytest.mark.parametrize(("where", "version", "words"), HOSTS)
def test_what_a_host_cannot_have_is_refused(where, version, words):
    said = "".join(str(refused) for refused in problems(version, "gpu1", DEBIAN, where))
    assert bool(said) == bool(words)
    assert not words or words in said


def test_every_track_has_a_managed_build():
    assert {track.python for track in tracks().values()} <= set(MANAGED)


def test_the_locked_uv_knows_the_managed_builds():
    """A build that it does not know would not be found on any server. Its list is its own: nothing is downloaded."""
    command = [UV, "python", "list", "--all-versions", "--only-downloads", "--output-format", "json", "--no-config"]
    known = {row["key"] for row in json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)}
    assert {f"cpython-{release}-linux-x86_64-gnu" for release in MANAGED.values()} <= known


WRONG = [
    ({"source": "mangaed"}, "python_source: 'mangaed' is no source. Did you mean managed?"),
    ({"source": "archive"}, "python_archive: is no absolute path."),
    ({"source": "archive", "archive": "/none.tar.gz", "sha256": "x"}, "python_archive_sha256: is not 64 hexadecimal digits."),
    ({"source": "archive", "archive": "/none.tar.gz", "sha256": "a" * 64}, "/none.tar.gz cannot be read on the controller"),
    ({"directory": "opt"}, "python_directory: 'opt' is no absolute path."),
]


@pytest.mark.parametrize(("said", "words"), WRONG)
def test_a_wrong_source_is_refused(said, words):
    with pytest.raises(Refused) as caught:
        source(said)
    assert words in str(caught.value)


def test_an_archive_is_known_by_what_is_in_it(tmp_path):
    said = pack(tmp_path / "own.tar.gz", {"python/bin/python3.10": "x", "python/lib/python3.10/os.py": ""})
    assert source(said) == Source("archive", archived="3.10", digest=said["sha256"])
    with pytest.raises(Refused, match=f"which has {said['sha256']}"):
        source({**said, "sha256": "a" * 64})
    with pytest.raises(Refused, match=r"has no bin/python3\.N"):
        source(pack(tmp_path / "other.tar.gz", {"lib/os.py": ""}))


BAD = [
    (
        {"bin/python3.11": "#!/bin/sh\necho 3.12\necho x\n", "lib/x": ""},
        "is no Python 3.11 that works where it is unpacked: it says 3.12 x",
    ),
    ({"bin/python3.11": "#!/bin/sh\necho libssl.so.3 is missing >&2; exit 1\n", "lib/x": ""}, "does not work here: libssl.so.3 is missing"),
    ({"bin/python3.11": "no program", "lib/x": ""}, "does not work here"),
    ({"bin/../../../escaped": "x"}, "leads out of it"),
    ({"/escaped": "x", "bin/python3.11": "x"}, "leads out of it"),
    ({"bin/python3.11": (tarfile.SYMTYPE, "/usr/bin/python3"), "lib/x": ""}, "a link that leads out of it"),
    ({"bin/python3.11": (tarfile.SYMTYPE, "../../x"), "lib/x": ""}, "a link that leads out of it"),
    ({"bin/python3.11": (tarfile.CHRTYPE, ""), "lib/x": ""}, "is no file, folder or link"),
]


@pytest.mark.parametrize(("members", "words"), BAD)
def test_an_archive_that_does_not_work_leaves_nothing(members, words, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    said = pack(tmp_path / "in/own.tar.gz", members)
    with pytest.raises(Refused) as caught:
        python_archive.install(said["archive"], said["sha256"], "3.11", str(tmp_path / "out/3.11-x"))
    assert words in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "escaped").exists()


def test_what_changed_on_the_way_is_refused(tmp_path):
    said = pack(tmp_path / "own.tar.gz", {"bin/python3.11": "x"})
    with pytest.raises(Refused, match="is not that of what came to the server"):
        python_archive.install(said["archive"], "a" * 64, "3.11", str(tmp_path / "3.11-x"))
