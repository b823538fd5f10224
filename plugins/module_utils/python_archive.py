# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A Python unpacked from an operator's archive: aside, proved to work from where it lies, and renamed when it is whole."""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Optional

from .errors import Refused

WHERE = "python_archive"
INSTEAD = "Pack a Python that works wherever it is unpacked, with its standard library, OpenSSL and ensurepip."
PROOF = "import ensurepip, ssl, sys, venv; print('%d.%d' % sys.version_info[:2]); print(sys.prefix)"
LIMIT = 300  # seconds, for a proof


def install(archive: str, sha256: str, version: str, path: str) -> None:
    """Unpack ``archive`` to ``path``, which must not exist; raise Refused, with nothing left behind, where it is no such Python."""
    found = _digest(archive)
    if found != sha256:
        raise Refused("python_archive_sha256", f"is not that of what came to the server, which has {found}.", "Run it again.")
    part = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _unpack(archive, part)
        _prove(part, version)
        os.rename(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _unpack(archive: str, part: str) -> None:
    try:
        with tarfile.open(archive) as packed:
            members = packed.getmembers()
            top = _top(members)
            os.mkdir(part, 0o755)
            # links to files of the archive are written as it has them: what it names lies within (_checked)
            packed.extractall(part, members=_checked(members, top))  # noqa: S202 - they are checked
    except (tarfile.TarError, EOFError) as why:
        raise Refused(WHERE, f"cannot be unpacked: {why}.", INSTEAD) from why


def _top(members: list[tarfile.TarInfo]) -> str:
    """Return the one folder that everything lies in; empty where bin/ is at the top."""
    heads = {posixpath.normpath(member.name).split("/")[0] for member in members} - {"."}
    return next(iter(heads)) if len(heads) == 1 and heads != {"bin"} else ""


def _checked(members: list[tarfile.TarInfo], top: str) -> Iterator[tarfile.TarInfo]:
    """Yield what is to be unpacked, root's and writable by root alone; raise Refused for what would lead out of the folder."""
    for member in members:
        name = _within(member.name, top)
        if name in (None, "."):
            if name is None:
                raise Refused(WHERE, f"has {member.name!r}, which leads out of it.", INSTEAD)
            continue
        member.name = name or ""
        if member.isdev() or not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
            raise Refused(WHERE, f"has {member.name!r}, which is no file, folder or link.", INSTEAD)
        if member.issym() and _within(posixpath.join(posixpath.dirname(member.name), member.linkname), "") is None:
            raise Refused(WHERE, f"has {member.name!r}, a link that leads out of it.", INSTEAD)
        if member.islnk():
            member.linkname = _within(member.linkname, top) or ""
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        runs = member.isdir() or member.mode & stat.S_IXUSR
        member.mode = 0o755 if runs else 0o644
        yield member


def _within(name: str, top: str) -> Optional[str]:
    """Return a path below the top folder, None where it leads out."""
    path = posixpath.normpath(name)
    if posixpath.isabs(path) or path.split("/")[0] == "..":
        return None
    if path == top:
        return "."
    return path[len(top) + 1 :] if top else path


def _prove(part: str, version: str) -> None:
    python = os.path.join(part, "bin", f"python{version}")
    said = _run([python, "-I", "-c", PROOF]).splitlines()
    if said != [version, part]:
        raise Refused(WHERE, f"is no Python {version} that works where it is unpacked: it says {' '.join(said)}.", INSTEAD)
    trial = os.path.join(part, ".trial")
    _run([python, "-I", "-m", "venv", trial])
    _run([os.path.join(trial, "bin", "python"), "-I", "-m", "pip", "--version"])
    shutil.rmtree(trial)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as why:
        raise Refused(WHERE, f"does not work here: {why}.", INSTEAD) from why
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Refused(WHERE, f"does not work here: {' '.join(told) or f'exit {done.returncode}'}.", INSTEAD)
    return done.stdout
