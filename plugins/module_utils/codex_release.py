# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Releases of Codex in their places: of the machine or of each user, from an archive or from what npm fetched.

A release is made aside, proved from there by --version, and renamed when it is whole. What lies in a home is made with its user's
rights: nothing there is root's, and a symbolic link there leads root nowhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import posixpath
import pwd
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Optional

from .errors import Refused
from .tree import acting_as, expand, explained

MACHINE, COMMAND = "/opt/codex", "/usr/local/bin/codex"
HOME, HOME_COMMAND = ".local/share/codex", ".local/bin/codex"
SPACE = 900 << 20  # bytes: a release, beside what it is unpacked from
TRIPLES = {"x86_64": "x86_64-unknown-linux-musl", "aarch64": "aarch64-unknown-linux-musl"}
NAME = re.compile(r"\.?\d+\.\d+\.\d+[\w.-]*?(\.part)?")
WHERE, SUM = "codex_archive", "codex_archive_sha256"
INSTEAD = "Give npm's package for the platform, or a .tar.gz of the release page of Codex."


def places(scope: str, users: Sequence[Mapping[str, Any]], version: str) -> list[dict[str, str]]:
    """Return where a release goes: user ('' for the machine), directory (of all releases), release, link (the command) and target."""
    if scope == "machine":
        release = f"{MACHINE}/{version}"
        return [{"user": "", "directory": MACHINE, "release": release, "link": COMMAND, "target": f"{release}/codex"}]
    return [
        {
            "user": user["name"],
            "directory": f"~{user['name']}/{HOME}",
            "release": f"~{user['name']}/{HOME}/{version}",
            "link": f"~{user['name']}/{HOME_COMMAND}",
            "target": f"../share/codex/{version}/codex",  # a home that is moved keeps its Codex
        }
        for user in users
    ]


def archive_problems(path: str, sha256: str, version: str, machine: str) -> Iterator[Refused]:
    """Yield why an archive on the controller is not the one: read before a host is changed, and only where it is needed."""
    try:
        with open(path, "rb") as stream:
            found = digest(stream)
            if found != sha256.lower():
                yield Refused(SUM, f"is not that of {path}, which has {found}.", "Fetch the file again, or correct the digest.")
                return
            with tarfile.open(fileobj=stream) as packed:
                names = {_within(member.name): member for member in packed.getmembers() if member.isfile()}
                said = _packed_version(packed, names.get("package.json"))
    except OSError as why:
        yield Refused(WHERE, f"{path} cannot be read on the controller: {why.strerror}.", INSTEAD)
    except (tarfile.TarError, EOFError) as why:
        yield Refused(WHERE, f"{path} cannot be unpacked: {why}.", INSTEAD)
    else:
        if not any(name in names for name in programs(machine)):
            yield Refused(WHERE, f"{path} holds no Codex for the processor {machine}.", INSTEAD)
        elif said and said != version:
            yield Refused("codex_version", f"is {version}, and {path} holds {said}.", f'Write codex_version: "{said}".')


def _packed_version(packed: tarfile.TarFile, member: Optional[tarfile.TarInfo]) -> str:
    """Return the version that npm's package says; '' where it is none of npm's, and only the program can say it."""
    stream = packed.extractfile(member) if member else None
    found = re.search(rb'"version": *"(\d+\.\d+\.\d+(?:-(?:alpha|beta)[\w.]*)?)', stream.read()) if stream else None
    return found[1].decode() if found else ""


def digest(stream: IO[bytes]) -> str:
    """Return the sha256 of a file, which is at its beginning again."""
    found = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        found.update(block)
    stream.seek(0)
    return found.hexdigest()


def programs(machine: str) -> list[str]:
    """Return where the program may be in a release: npm's package, newer and older, and the archive of a release page."""
    triple = TRIPLES.get(machine)
    return [f"vendor/{triple}/bin/codex", f"vendor/{triple}/codex/codex", f"codex-{triple}", "bin/codex"] if triple else []


def install(source: str, sha256: Optional[str], version: str, path: str, user: Optional[str], command: str) -> None:
    """Make the release ``path`` from an archive, or from the folder of npm's package, and the folder that ``command`` will be in.

    Raise Refused, with nothing left behind but empty folders, where that is not possible. In a home, all of it is ``user``'s.
    """
    final = expand(path)
    part = os.path.join(os.path.dirname(final), f".{os.path.basename(final)}.part")
    with contextlib.ExitStack() as stack:
        # root's file, which the user need not be able to read
        archive = None if os.path.isdir(source) else stack.enter_context(open(source, "rb"))
        try:
            with explained(path), acting_as(user):
                os.makedirs(os.path.dirname(final), exist_ok=True)
                os.makedirs(os.path.dirname(expand(command)), exist_ok=True)
                shutil.rmtree(part, ignore_errors=True)
                os.mkdir(part, 0o755)
                if archive:
                    _unpack(archive, sha256 or "", part)
                else:
                    shutil.copytree(os.path.join(source, "vendor"), os.path.join(part, "vendor"))
                _link(part)
                os.mkdir(os.path.join(part, ".home"), 0o700)
            _prove(part, version, user)
            with explained(path), acting_as(user):
                shutil.rmtree(os.path.join(part, ".home"))
                os.rename(part, final)
        finally:
            with acting_as(user):
                shutil.rmtree(part, ignore_errors=True)


def _unpack(archive: IO[bytes], sha256: str, part: str) -> None:
    if digest(archive) != sha256.lower():
        raise Refused(SUM, "is not that of what came to the machine.", "Run it again.")
    try:
        with tarfile.open(fileobj=archive) as packed:
            packed.extractall(part, members=_checked(packed.getmembers()))  # noqa: S202 - they are checked
    except (tarfile.TarError, EOFError) as why:
        raise Refused(WHERE, f"cannot be unpacked: {why}.", INSTEAD) from why


def _checked(members: list[tarfile.TarInfo]) -> Iterator[tarfile.TarInfo]:
    """Yield files and folders, writable by their owner alone; raise Refused for what a release has no use for."""
    for member in members:
        name = _within(member.name)
        if name is None or not (member.isfile() or member.isdir()):
            raise Refused(WHERE, f"has {member.name!r}, which leads out of it, or is no file.", INSTEAD)
        member.name = name
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & stat.S_IXUSR else 0o644
        yield member


def _within(name: str) -> Optional[str]:
    """Return a path without the folder that npm packs everything in, None where it leads out."""
    path = posixpath.normpath(name)
    if posixpath.isabs(path) or path.split("/")[0] == "..":
        return None
    return path[len("package/") :] if path.startswith("package/") else path


def _link(part: str) -> None:
    """Lead ``codex`` to the program for this processor."""
    machine = platform.machine()
    for name in programs(machine):
        if os.path.isfile(os.path.join(part, name)):
            os.symlink(name, os.path.join(part, "codex"))
            return
    raise Refused(WHERE, f"holds no Codex for the processor {machine}.", INSTEAD)


def _prove(part: str, version: str, user: Optional[str]) -> None:
    home = os.path.join(part, ".home")
    environment = {"HOME": home, "CODEX_HOME": home, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    options: dict[str, Any] = {}
    if user and os.geteuid() == 0:  # a file of theirs never runs as root
        record = pwd.getpwnam(user)
        options = {"user": record.pw_uid, "group": record.pw_gid, "extra_groups": os.getgrouplist(user, record.pw_gid)}
    command = [os.path.join(part, "codex"), "--version"]
    try:
        done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=60, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as why:
        raise Refused(WHERE, f"holds a Codex that does not run here: {why}.", INSTEAD) from why
    if done.returncode or version not in done.stdout.split():
        said = " ".join((done.stdout + done.stderr).split())[-200:]
        raise Refused("codex_version", f"is {version}, and what came says: {said or done.returncode}.", "Write its version.")


def _ours(folder: Path) -> bool:
    return (folder / "codex").is_symlink() or (folder.name.startswith(".") and folder.name.endswith(".part"))


def remove(directory: str, command: str, user: str, check: bool = False) -> list[str]:
    """Take a user's releases away, and return what goes; other things in those folders are somebody else's, and stay."""
    place, link = Path(expand(directory)), Path(expand(command))
    gone: list[Path] = []
    with acting_as(user):
        if link.is_symlink() and os.readlink(link).startswith("../share/codex/"):
            gone.append(link)
        if place.is_dir() and not place.is_symlink():
            gone += [one for one in sorted(place.iterdir()) if NAME.fullmatch(one.name) and _ours(one)]
        if not check:
            for one in gone:
                one.unlink() if one.is_symlink() else shutil.rmtree(one)
            with contextlib.suppress(OSError):  # something else is in it, or there is none
                place.rmdir()
    return [str(one) for one in gone]
