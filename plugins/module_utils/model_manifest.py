# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a model at one revision consists of: every file with its size and digest, and which of them are wanted.

As JSON: {"repository", "revision", "files": [{"path", "size", "sha256" or "git_sha1", or both}]}.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Refused

NAME = ".ownmetal-manifest.json"  # beside the model's files
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGESTS = {"sha256": re.compile(r"[0-9a-f]{64}"), "git_sha1": COMMIT}

# what vLLM never reads, and what it does not read when there are safetensors files: the same weights for other programs
NEVER = (
    ".gitattributes",
    "*.png",
    "*.jpg",
    "*.jpeg",
    "*.gif",
    "*.mp4",
    "*.pdf",
    "*.tflite",
    "*.mlmodel",
    "coreml/*",
    "openvino/*",
    "onnx/*",
)
OTHER_WEIGHTS = ("original/*", "*.gguf", "*.onnx", "*.onnx_data", "*.pth", "*.pt", "*.bin", "*.h5", "*.msgpack", "*.ot", "*.ckpt")


@dataclass(frozen=True)
class File:
    """A file of a model. One of the digests may be empty."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        digests = {name: value for name, value in (("sha256", self.sha256), ("git_sha1", self.git_sha1)) if value}
        return {"path": self.path, "size": self.size, **digests}


@dataclass(frozen=True)
class Manifest:
    """The files of a repository at a revision."""

    repository: str
    revision: str
    files: tuple[File, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(file.size for file in self.files)

    def text(self) -> str:
        """Return it as it is written to a file, the same for the same content."""
        rows = ",\n".join("  " + json.dumps(file.as_dict()) for file in sorted(self.files, key=lambda file: file.path))
        head = f' "repository": {json.dumps(self.repository)},\n "revision": {json.dumps(self.revision)},\n'
        return f'{{\n{head} "files": [\n{rows}\n ]\n}}\n'


def model_id(repository: str, revision: str, patterns: Sequence[str] = ()) -> str:
    """Return the name of a model's folder: what is in it decides."""
    total = hashlib.sha256(json.dumps([repository, revision, list(patterns)]).encode()).hexdigest()
    words = re.sub(r"[^a-z0-9.]+", "-", repository.rpartition("/")[2].lower()).strip("-.")[:60]
    return f"{words}-{total[:12]}" if words else total[:12]


def parse(text: str, where: str) -> Manifest:
    """Return the manifest that a text holds; raise Refused for what is none, or names files outside the model's folder."""
    instead = "Write it anew with playbooks/lock_model.yml."
    try:
        data = json.loads(text)
        files = tuple(_file(row) for row in data["files"])
        found = Manifest(str(data["repository"]), str(data["revision"]), files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(where, f"is no manifest of a model: {error}.", instead) from error
    return checked(found, where)


def _file(row: Mapping[str, Any]) -> File:
    size = row["size"]
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 50:
        raise ValueError(f"{size!r} is no size")
    digests = {name: str(row.get(name) or "").lower() for name in DIGESTS}
    if not any(digests.values()) or any(value and not DIGESTS[name].fullmatch(value) for name, value in digests.items()):
        raise ValueError(f"{row['path']} has no digest")
    return File(str(row["path"]), size, **digests)


def checked(manifest: Manifest, where: str) -> Manifest:
    """Return a manifest whose paths stay in the folder and in nobody's way."""
    paths = [file.path for file in manifest.files]
    taken = {NAME, *(f"{path}.part" for path in paths)}
    folders = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
    for path in paths:
        parts = path.split("/")
        if not path or len(path) > 1000 or any(part in ("", ".", "..") for part in parts) or not path.isprintable():
            raise Refused(where, f"names the file {path!r}, which leads out of the model's folder.", "Do not use this model.")
        if path in taken or path in folders or paths.count(path) > 1:
            raise Refused(where, f"names the file {path!r}, which is in the way of another.", "Leave it out with model_files.")
    return manifest


def chosen(files: Iterable[File], patterns: Sequence[str], where: str) -> list[File]:
    """Return the files that are fetched. ``patterns``: what is wanted, and what is not with "!" in front; empty: what vLLM reads."""
    every = list(files)
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    if not patterns:
        whole = any(file.path.endswith(".safetensors") and "/" not in file.path for file in every)
        unwanted = [*NEVER, *(OTHER_WEIGHTS if whole else ())]
    found = [
        file
        for file in every
        if (not wanted or _matches(file.path, wanted)) and not _matches(file.path, unwanted)
    ]  # fmt: skip
    if not any(file.path in ("config.json", "params.json") for file in found):
        raise Refused(
            where, "has no config.json, so vLLM cannot load it.", "Name a model in the format of transformers, or correct model_files."
        )
    return found


def _matches(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def agree(found: Iterable[File], locked: Manifest, where: str) -> None:
    """Raise Refused where the files that are offered are not those that the team has pinned."""
    pinned = {file.path: file for file in locked.files}
    for file in found:
        lock = pinned.get(file.path)
        same = lock and lock.size == file.size and all(
            not getattr(lock, name) or not getattr(file, name) or getattr(lock, name) == getattr(file, name) for name in DIGESTS
        )  # fmt: skip
        if not same:
            raise Refused(where, f"{file.path} is not the file that the manifest pins.", "Do not use it before you know why.")
