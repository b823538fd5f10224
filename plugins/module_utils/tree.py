# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Look at, and write, a list of files on the machine that this runs on.

The controller renders the files and decides; this half, sent to the managed host, answers two
calls: :func:`inspect` (what is there) and :func:`apply` (write what differs). Files are staged
beside their destination, validated, and only when every one is valid renamed into place: a refused
file leaves all of them as they were.
"""

from __future__ import annotations

import base64
import contextlib
import grp
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

from .errors import Refused

STATES = ("file", "directory", "link", "absent")


@dataclass(frozen=True)
class Entry:
    """One path and what it should be.

    A ``dest`` that starts with ``~user/`` lies in that user's home: it is read and written with
    that user's rights, so that a symbolic link in a home cannot lead root anywhere.
    ``sha256`` is of the wanted content, ``content`` its bytes in base64 (sent only when it differs).
    ``original`` is where a copy of a file goes before its first change. ``notes`` are files whose content is wanted too.
    """

    dest: str
    state: str = "file"
    mode: Optional[str] = None
    owner: Optional[str] = None
    group: Optional[str] = None
    target: Optional[str] = None
    sha256: Optional[str] = None
    content: Optional[str] = None
    want_content: bool = False
    original: Optional[str] = None
    notes: Optional[list[str]] = None
    validate: Optional[list[str]] = None

    @property
    def user(self) -> Optional[str]:
        """The user whose home this is in, or None."""
        if not self.dest.startswith("~"):
            return None
        return self.dest[1:].split("/", 1)[0]


def home_of(user: str) -> str:
    """Return a user's home; raise Refused for a user that the machine does not have."""
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        raise Refused(f"user {user}", "this machine has no such user.", "Create it, or correct the name.") from None


def expand(path: str) -> str:
    """Turn a leading ``~user`` into that user's home."""
    if not path.startswith("~"):
        return path
    user, _slash, rest = path[1:].partition("/")
    return os.path.join(home_of(user), rest)


@contextlib.contextmanager
def acting_as(user: Optional[str]) -> Iterator[None]:
    """Give up root's rights for ``user``'s, for files and child processes' start, then take them back."""
    if user is None or os.geteuid() != 0:
        yield
        return
    record = pwd.getpwnam(user)
    groups = os.getgroups()
    os.setgroups(os.getgrouplist(user, record.pw_gid))
    os.setegid(record.pw_gid)
    os.seteuid(record.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def read_state(path: str) -> dict[str, Any]:
    """Return exists, type, mode ("0644"), owner, group, target and modified (epoch seconds) of the path itself.

    A link is not followed.
    """
    try:
        info = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {"exists": False}
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
    return {
        "exists": True,
        "type": kind,
        "mode": f"{stat.S_IMODE(info.st_mode):04o}",
        "owner": _name(pwd.getpwuid, info.st_uid),
        "group": _name(grp.getgrgid, info.st_gid),
        "target": os.readlink(path) if kind == "link" else None,
        "modified": info.st_mtime,
    }


def _name(look_up: Any, number: int) -> str:
    try:
        return str(look_up(number)[0])
    except KeyError:
        return str(number)


def inspect(entries: list[Entry]) -> list[dict[str, Any]]:
    """Return, for each entry, what is there now.

    A dict per entry: the keys of :func:`read_state`, ``path`` (expanded), ``sha256`` of a file, and
    where the entry wants it and the content differs ``content`` (base64), ``original_content`` and ``notes``.
    """
    return [_inspect_one(entry) for entry in entries]


def _inspect_one(entry: Entry) -> dict[str, Any]:
    path = expand(entry.dest)
    with _readable(entry), acting_as(entry.user):
        found: dict[str, Any] = {"path": path, **read_state(path)}
        if entry.user and found.get("type") == "link" and entry.state == "file":
            # a home's file may live in a dotfiles repository: it is the file behind the link that counts
            path = os.path.realpath(path)
            found = {"path": path, **read_state(path)}
        elif entry.user and found.get("type") == "link" and entry.state == "directory" and _own_folder(path, entry.user):
            # so may a whole folder of theirs; one that is elsewhere is refused as the link that it is
            found = {"path": path, **read_state(os.path.realpath(path))}
        if found.get("type") == "file":
            with open(path, "rb") as stream:
                data = stream.read()
            found["sha256"] = hashlib.sha256(data).hexdigest()
            if entry.want_content and found["sha256"] != entry.sha256:
                found["content"] = base64.b64encode(data).decode()
        if entry.original:
            found["original_content"] = _read_optional(expand(entry.original))
        if entry.notes:
            found["notes"] = [_read_optional(expand(note)) for note in entry.notes]
    return found


def _own_folder(path: str, user: str) -> bool:
    """Tell whether a link leads to a folder in the user's home that is the user's own."""
    there = os.path.realpath(path)
    inside = os.path.commonpath([there, os.path.realpath(home_of(user))]) == os.path.realpath(home_of(user))
    return inside and os.path.isdir(there) and os.stat(there).st_uid == pwd.getpwnam(user).pw_uid


@contextlib.contextmanager
def _readable(entry: Entry) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        whose = f"by {entry.user}, whose home it is in" if entry.user else "by this user"
        instead = f"Look with ls -l, and give it back: chown {entry.user or 'USER'}."
        raise Refused(str(error.filename or entry.dest), f"cannot be read {whose}.", instead) from error


def _read_optional(path: str) -> Optional[str]:
    try:
        with open(path, "rb") as stream:
            return base64.b64encode(stream.read()).decode()
    except FileNotFoundError:
        return None


def apply(entries: list[Entry]) -> None:
    """Make every entry so; raise Refused, with nothing replaced, when one cannot be or is not valid."""
    made: list[str] = []
    staged: list[tuple[Entry, str, str]] = []
    try:
        for entry in entries:
            with explained(entry.dest), acting_as(entry.user):
                if entry.state == "directory":
                    _make_directory(entry, made)
                elif entry.state == "file" and entry.content is not None:
                    staged.append(_stage(entry))
        places = "\n".join(f"{path}\t{temporary}" for _entry, temporary, path in staged)
        for entry, temporary, _path in staged:
            _validate(entry, temporary, places)
    except BaseException:
        _clear(staged)
        for path in reversed(made):
            os.rmdir(path)
        raise
    try:
        for entry, temporary, path in staged:
            with explained(entry.dest), acting_as(entry.user):
                _keep_original(entry, path)
                os.replace(temporary, path)
        for entry in entries:
            with explained(entry.dest), acting_as(entry.user):
                _finish(entry)
    finally:
        _clear(staged)


def _clear(staged: list[tuple[Entry, str, str]]) -> None:
    for entry, temporary, _path in staged:
        with acting_as(entry.user):
            shutil.rmtree(os.path.dirname(temporary), ignore_errors=True)


@contextlib.contextmanager
def explained(dest: str) -> Iterator[None]:
    """Turn an owner that is unknown, and what the system refuses, into a Refused that names ``dest``."""
    try:
        yield
    except KeyError as error:
        raise Refused(dest, f"cannot be given its owner: {error.args[0]}.", "Create that user or group first.") from error
    except OSError as error:
        why = f"cannot be written: {error.strerror or error}."
        raise Refused(dest, why, "Nothing was half-written; mend that and run again.") from error


def _make_directory(entry: Entry, made: list[str]) -> None:
    path = expand(entry.dest)
    if not os.path.isdir(path):
        os.mkdir(path, 0o700)
        made.append(path)
    _own(path, entry)


def _stage(entry: Entry) -> tuple[Entry, str, str]:
    path = expand(entry.dest)
    if entry.user:
        path = os.path.realpath(path)
    # a folder of its own: the file keeps its name, which validators go by, and is on the same file system
    folder = tempfile.mkdtemp(prefix=".ownmetal-", dir=os.path.dirname(path))
    temporary = os.path.join(folder, os.path.basename(path))
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(base64.b64decode(entry.content or ""))
            stream.flush()
            os.fsync(stream.fileno())
        _own(temporary, entry)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return entry, temporary, path


def _own(path: str, entry: Entry) -> None:
    # as a user in a home, ownership is that user's already and chown may not be allowed
    if os.geteuid() == 0:
        owner = pwd.getpwnam(entry.owner).pw_uid if entry.owner else -1
        group = grp.getgrnam(entry.group).gr_gid if entry.group else -1
        os.chown(path, owner, group)
    if entry.mode:
        os.chmod(path, int(entry.mode, 8))


def _validate(entry: Entry, temporary: str, places: str) -> None:
    if not entry.validate:
        return
    command = [word.replace("%s", temporary) for word in entry.validate]
    options: dict[str, Any] = {"env": {**os.environ, "OWNMETAL_STAGED": places}}
    if entry.user and os.geteuid() == 0:
        record = pwd.getpwnam(entry.user)
        options = {
            "user": record.pw_uid,
            "group": record.pw_gid,
            "extra_groups": os.getgrouplist(entry.user, record.pw_gid),
            "env": {"HOME": record.pw_dir, "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
            "cwd": "/",
        }
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(entry.dest, f"its validator did not run: {error}.", "Nothing was replaced.") from error
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split())[:1500]
        raise Refused(entry.dest, f"its validator refused it: {said}.", "Nothing was replaced.")


def _keep_original(entry: Entry, path: str) -> None:
    if not entry.original or not os.path.exists(path):
        return
    kept = expand(entry.original)
    if not os.path.exists(kept):
        shutil.copy2(path, f"{kept}.part")
        os.chmod(f"{kept}.part", 0o600)
        os.replace(f"{kept}.part", kept)


def _finish(entry: Entry) -> None:
    path = expand(entry.dest)
    if entry.state == "absent":
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.isdir(path):
            shutil.rmtree(path)
    elif entry.state == "link":
        # made aside and renamed over: there is no moment without the link
        aside = f"{path}.ownmetal-new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        os.symlink(entry.target or "", aside)
        os.replace(aside, path)
    elif entry.state == "file":
        _own(os.path.realpath(path) if entry.user else path, entry)
