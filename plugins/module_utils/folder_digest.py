# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The digest of model files on the controller: of a folder, or of an archive."""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib

from .errors import Refused

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip")


def folder_digest(path: str) -> str:
    """Return 12 hexadecimal digits of SHA-256 over the names and contents of a folder's files.

    Raises Refused for a path that is no folder or has no config.json, as every model folder has.
    """
    folder = pathlib.Path(path)
    if not (folder / "config.json").is_file():
        instead = "Write the path of a folder on the controller with config.json, the tokenizer and the weights."
        raise Refused("model_source", f"{path} holds no model: it has no config.json.", instead)
    total = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        with file.open("rb") as stream:
            inner = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{inner}  {file.relative_to(folder)}\n".encode())
    return total.hexdigest()[:12]


def archive_digest(path: str) -> str:
    """Return the SHA-256 of an archive. Read once while it stays as it is: it may be large. Raises Refused for no file."""
    try:
        seen = os.stat(path)
    except OSError as error:
        raise Refused("model_source", f"{path}: {error.strerror}.", "Write the path of a folder or archive on the controller.") from error
    return _archive_digest(path, seen.st_size, seen.st_mtime_ns, seen.st_ino)


@functools.lru_cache(maxsize=64)
def _archive_digest(path: str, *_seen: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def archive_kind(path: str) -> str:
    """Return the ending of an archive's name, empty for what is none."""
    return next((kind for kind in ARCHIVES if path.endswith(kind)), "") if not os.path.isdir(path) else ""


def source_digest(path: str) -> str:
    """Return the name of a model that the controller has: 12 digits of its digest."""
    return archive_digest(path)[:12] if archive_kind(path) else folder_digest(path)
