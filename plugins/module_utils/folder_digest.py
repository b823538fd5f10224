# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The digest of model files on the controller: of a folder, or of an archive.

They may be large, and each task of each server asks in a process of its own. So what was read is kept in a file of the user's
cache, and holds as long as nothing of the files' sizes, times and inodes has changed, as `git status` has it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence

from .errors import Refused

SETTLED = 2.0  # seconds: what was written since could be written again within the same tick of the file system's clock
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip")


def folder_digest(path: str) -> str:
    """Return 12 hexadecimal digits of SHA-256 over the names and contents of a folder's files.

    Raises Refused for a path that is no folder or has no config.json, as every model folder has.
    """
    folder = pathlib.Path(path)
    if not (folder / "config.json").is_file():
        instead = "Write the path of a folder on the controller with config.json, the tokenizer and the weights."
        raise Refused("model_source", f"{path} holds no model: it has no config.json.", instead)

    def files() -> list[pathlib.Path]:
        return sorted(file for file in folder.rglob("*") if file.is_file())

    def read() -> str:
        total = hashlib.sha256()
        for file in files():
            total.update(f"{_sha256(file)}  {file.relative_to(folder)}\n".encode())
        return total.hexdigest()[:12]

    return _once(path, files, read)


def archive_digest(path: str) -> str:
    """Return the SHA-256 of an archive. Raises Refused for no file."""
    try:
        os.stat(path)
    except OSError as error:
        raise Refused("model_source", f"{path}: {error.strerror}.", "Write the path of a folder or archive on the controller.") from error
    file = pathlib.Path(path)
    return _once(path, lambda: [file], lambda: _sha256(file))


def _sha256(file: pathlib.Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _once(path: str, files: Callable[[], Sequence[pathlib.Path]], read: Callable[[], str]) -> str:
    """Return what ``read`` says of ``files``, without reading them again while they are what they were."""
    place = os.path.abspath(path)
    note = os.path.join(_memory(), hashlib.sha256(place.encode()).hexdigest()[:24])
    with _locked(place):  # servers are worked at side by side: one reads, the others wait for what it finds
        state, newest = _state(files())
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(note, encoding="utf-8") as stream:
            known = json.load(stream)
            if known["state"] == state:
                return str(known["digest"])
        began = time.time()
        digest = read()
        if newest < began - SETTLED and _state(files())[0] == state:
            _keep(note, {"path": place, "state": state, "digest": digest})
        return digest


def _state(files: Sequence[pathlib.Path]) -> tuple[str, float]:
    """Return a digest of all that says whether files have changed, and when the last of them did."""
    rows, newest = hashlib.sha256(), 0.0
    for file in files:
        seen = file.stat()
        rows.update(f"{file} {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns} {seen.st_dev} {seen.st_ino}\n".encode())
        newest = max(newest, seen.st_ctime)
    return rows.hexdigest(), newest


def _memory() -> str:
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ownmetal.codex", "digests")


def _keep(note: str, known: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # it is read again, then
        os.makedirs(os.path.dirname(note), mode=0o700, exist_ok=True)
        with open(f"{note}.{os.getpid()}", "w", encoding="utf-8") as stream:
            json.dump(known, stream)
        os.replace(f"{note}.{os.getpid()}", note)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems lock nothing that is open for reading: then each reads
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def archive_kind(path: str) -> str:
    """Return the ending of an archive's name, empty for what is none."""
    return next((kind for kind in ARCHIVES if path.endswith(kind)), "") if not os.path.isdir(path) else ""


def source_digest(path: str) -> str:
    """Return the name of a model that the controller has: 12 digits of its digest."""
    return archive_digest(path)[:12] if archive_kind(path) else folder_digest(path)
