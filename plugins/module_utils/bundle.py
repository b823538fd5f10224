# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One archive that carries a pool into a network without a way out: finished environments, models, and the installer.

It is a plain tar of what is packed already. The list of its files with their digests comes last: without it the bundle was cut short.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from . import environment_manifest
from .environment_build import check_space
from .errors import Refused
from .pool import packed
from .progress import Progress

LIST = "ownmetal-bundle.json"
FORMAT = 1
Roots = Mapping[str, str]  # "environments", "models", "uv" -> directory


class _Counted:
    """A stream that knows the digest of what was read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self.stream.read(size)
        self.digest.update(block)
        return block


def contents(roots: Roots, environments: list[str]) -> Iterator[str]:
    """Yield the names (ROOT/PATH) of what a bundle holds: these environments, all models, the installer's program."""
    for name in environments:
        found = packed(os.path.dirname(roots["environments"]), name)
        if found is None:
            raise Refused("vllm_pool_directory", f"the pool has no archive of {name}.", "Run playbooks/bundle.yml again: it packs it.")
        yield f"environments/{found['file']}"
        yield f"environments/{name}.json"
    for root, wanted in (("models", re.compile(r"[^.].*")), ("uv", re.compile(r"[^./]+[^/]*/bin/uv"))):
        for folder, folders, files in os.walk(roots[root]):
            folders[:] = sorted(one for one in folders if folder != roots[root] or not one.startswith("."))  # unfinished ones
            for file in sorted(files):
                path = os.path.relpath(os.path.join(folder, file), roots[root])
                if wanted.fullmatch(path) and ("/" in path):
                    yield f"{root}/{path}"


def write(path: str, roots: Roots, environments: list[str], progress: Progress) -> list[str]:
    """Make a bundle; return what is in it."""
    names = list(contents(roots, environments))
    total = sum(os.path.getsize(_place(roots, name)) for name in names)
    check_space("bundle_file", os.path.dirname(path), total * 1.02, "the bundle")
    if not environments:
        why = "no server of this run needs an environment, so there is nothing to carry."
        raise Refused("bundle_file", why, "Look at vllm_instances, and at --limit.")
    if unnamed := [name for name in names if not _named(name, roots)]:
        raise Refused("bundle_file", f"{unnamed[0]!r} has a name that no bundle can hold.", "Rename it, or keep it out of the pool.")
    try:
        return _write(path, names, total, roots, progress)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(f"{path}.part")
        raise Refused("bundle_file", f"{path} cannot be written: {error}.", "Look for a full disk, or name another place.") from error


def _write(path: str, names: list[str], total: int, roots: Roots, progress: Progress) -> list[str]:
    rows: dict[str, Any] = {}
    done = 0
    with tarfile.open(f"{path}.part", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in names:
            progress.say(f"bundle: {100 * done // max(total, 1)} %")
            with open(_place(roots, name), "rb") as stream:
                counted = _Counted(stream)
                row = tarfile.TarInfo(name)
                found = os.fstat(stream.fileno())
                row.size, row.mode, row.mtime = found.st_size, 0o755 if name.startswith("uv/") else 0o444, int(found.st_mtime)
                archive.addfile(row, counted)
            rows[name] = {"size": row.size, "sha256": counted.digest.hexdigest()}
            done += row.size
        text = json.dumps({"format": FORMAT, "files": rows}, indent=1).encode()
        last = tarfile.TarInfo(LIST)
        last.size = len(text)
        archive.addfile(last, io.BytesIO(text))
    os.rename(f"{path}.part", path)
    return names


def read(path: str, roots: Roots, progress: Progress) -> list[str]:
    """Put what a bundle holds into its places; nothing of it is there before all of it is proved. Return what was new."""
    if not os.path.isfile(path):
        raise Refused("bundle_file", f"{path} is not on the pool host.", "Copy it there, or correct the path.")
    for root in roots.values():
        os.makedirs(root, exist_ok=True)
    check_space("vllm_pool_directory", roots["environments"], os.path.getsize(path), "unpacking the bundle")
    aside = {root: f"{directory}/.bundle.part" for root, directory in roots.items()}
    try:
        _clear(aside)
        rows, listed = _extract(path, aside, progress)
        _compare(path, rows, listed)
        return sorted(name for root in roots for name in _place_all(root, roots[root], aside[root]))
    finally:
        _clear(aside)


def look(path: str, roots: Roots) -> list[str]:
    """Return what :func:`read` would put into its places, by the bundle's list and the files' sizes. Digests are proved when it is read."""
    if not os.path.isfile(path):
        raise Refused("bundle_file", f"{path} is not on the pool host.", "Copy it there, or correct the path.")
    rows: dict[str, Any] = {}
    listed: Any = None
    try:
        with tarfile.open(path) as archive:
            for row in archive:
                stream = _content(archive, row, roots, path)
                if row.name == LIST:
                    listed = json.load(stream)
                else:
                    rows[row.name] = {"size": row.size}
    except (tarfile.TarError, ValueError) as error:
        raise error if isinstance(error, Refused) else _no_bundle(path, error) from None
    files = listed["files"] if isinstance(listed, dict) and listed.get("format") == FORMAT else {}
    _compare(path, rows, listed and {**listed, "files": {name: {"size": row.get("size")} for name, row in files.items()}})
    new = set()
    for name in rows:
        root, first = name.split("/")[:2]
        target = f"{roots[root]}/{first}"
        same = os.path.lexists(target) and (root != "environments" or environment_manifest.sha256(target) == files[name].get("sha256"))
        new |= set() if same else {f"{root}/{first}"}
    if new:
        check_space("vllm_pool_directory", roots["environments"], os.path.getsize(path), "unpacking the bundle")
    return sorted(new)


def _content(archive: tarfile.TarFile, row: tarfile.TarInfo, roots: Roots, path: str) -> IO[bytes]:
    stream = archive.extractfile(row) if row.isreg() else None
    if stream is None or not (row.name == LIST or _named(row.name, roots)):
        raise Refused("bundle_file", f"{path} holds {row.name!r}, which no bundle does.", "Use one that bundle.yml made.")
    return stream


def _no_bundle(path: str, error: Exception) -> Refused:
    return Refused("bundle_file", f"{path} is no bundle, or was cut short: {error}.", "Copy it again.")


def _clear(aside: Roots) -> None:
    for folder in aside.values():
        if os.path.lexists(folder):
            environment_manifest.remove(folder)


def _extract(path: str, aside: Roots, progress: Progress) -> tuple[dict[str, Any], Any]:
    rows: dict[str, Any] = {}
    total, listed = os.path.getsize(path), None
    try:
        with tarfile.open(path) as archive:
            for row in archive:
                stream = _content(archive, row, aside, path)
                if row.name == LIST:
                    listed = json.load(stream)
                    continue
                progress.say(f"bundle: unpacking, {100 * row.offset // total} %")
                counted, place = _Counted(stream), _place(aside, row.name)
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with open(place, "wb") as out:
                    while block := counted.read(1 << 20):
                        out.write(block)
                os.chmod(place, row.mode & 0o555)
                rows[row.name] = {"size": row.size, "sha256": counted.digest.hexdigest()}
    except (tarfile.TarError, ValueError) as error:
        if isinstance(error, Refused):
            raise
        raise _no_bundle(path, error) from None
    return rows, listed


def _compare(path: str, rows: Mapping[str, Any], listed: Any) -> None:
    if listed is None:
        raise Refused("bundle_file", f"{path} was cut short: its list of files is missing.", "Copy it again.")
    if listed.get("format") != FORMAT:
        why = f"{path} was made by another release of this collection (format {listed.get('format')!r})."
        raise Refused("bundle_file", why, "Make it and unpack it with the same one.")
    wrong = sorted(name for name in rows.keys() | listed["files"].keys() if rows.get(name) != listed["files"].get(name))
    if wrong:
        raise Refused("bundle_file", f"{path} is damaged: {', '.join(wrong[:3])} is not what it was.", "Copy it again.")


def _place_all(root: str, final: str, aside: str) -> Iterator[str]:
    """Move what is new: files of environments (records last: they make an archive count), folders of models and of the installer."""
    names = sorted(os.listdir(aside), key=lambda name: name.endswith(".json")) if os.path.isdir(aside) else []
    for name in names:
        target = f"{final}/{name}"
        if os.path.lexists(target) and (root != "environments" or _same(target, f"{aside}/{name}")):
            continue  # a model or a release of the installer is the same under its name; an archive may have been packed anew
        if root == "models":
            environment_manifest.freeze(f"{aside}/{name}")
        os.rename(f"{aside}/{name}", target)
        yield f"{root}/{name}"


def _same(one: str, other: str) -> bool:
    return os.path.getsize(one) == os.path.getsize(other) and environment_manifest.sha256(one) == environment_manifest.sha256(other)


def _named(name: str, roots: Roots) -> bool:
    root, *parts = name.split("/")
    return root in roots and bool(parts) and all(part.isprintable() and part not in ("", ".", "..") for part in parts)


def _place(roots: Roots, name: str) -> str:
    root, _, path = name.partition("/")
    return os.path.join(roots[root], path)
