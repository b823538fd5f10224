# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a finished environment consists of, so that a look can tell in a moment whether it is still whole.

The manifest lies in the environment: each file with size, time and SHA-256, each link with its target. The quick check
compares sizes and times, as `git status` does; the full one reads every byte.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Optional

from .errors import Refused

NAME = "ownmetal-manifest.json"
PYTHON = "bin/python"
SHOWN = 3  # paths that a sentence names
WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
BLOCK = 1 << 20


def _walk(root: str, folder: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield relative path and entry of all that is no directory."""
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(root, path)
            else:
                yield path, entry


def sha256(path: str) -> str:
    """Return the digest of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _seconds(found: os.stat_result) -> int:
    """Return when a file was changed, as an archive has it: st_mtime is a float, which makes a whole second of 0.99999999."""
    return found.st_mtime_ns // 10**9


def make(root: str, known: Optional[Mapping[str, str]] = None) -> dict[str, Any]:
    """Return the manifest of what is in ``root``: files (path -> size, time, SHA-256), links (path -> target) and bytes.

    ``known`` are digests of files that were just read, and are not read again.
    """
    files: dict[str, Any] = {}
    links: dict[str, str] = {}
    for path, entry in _walk(root):
        if path == NAME:
            continue
        if entry.is_symlink():
            links[path] = os.readlink(entry.path)
        else:
            found = entry.stat(follow_symlinks=False)
            files[path] = (found.st_size, _seconds(found))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter's lock
        new = [path for path in files if path not in (known or {})]
        digests = {**(known or {}), **dict(zip(new, pool.map(lambda path: sha256(os.path.join(root, path)), new)))}
    rows = {path: [*files[path], digests[path]] for path in sorted(files)}
    return {"files": rows, "links": dict(sorted(links.items())), "bytes": sum(row[0] for row in rows.values())}


def write(root: str, manifest: Mapping[str, Any]) -> None:
    """Put the manifest into its environment."""
    with open(os.path.join(root, NAME), "w", encoding="utf-8") as stream:
        json.dump(manifest, stream, separators=(",", ":"))


def read(root: str) -> dict[str, Any]:
    """Return an environment's manifest; raise OSError or ValueError where it has none."""
    with open(os.path.join(root, NAME), encoding="utf-8") as stream:
        found: dict[str, Any] = json.load(stream)
    return found


def damage(root: str, full: bool = False) -> Optional[str]:
    """Return what an environment has that its manifest has not, or the other way round; None when it is whole."""
    try:
        manifest = read(root)
    except (OSError, ValueError):
        return "its manifest is missing or unreadable"
    files, links = manifest["files"], manifest["links"]
    seen: dict[str, Any] = {}
    for path, entry in _walk(root):
        if entry.is_symlink():
            seen[path] = os.readlink(entry.path)
        elif path != NAME:
            found = entry.stat(follow_symlinks=False)
            seen[path] = (found.st_size, _seconds(found))
    wanted = {**links, **{path: (row[0], row[1]) for path, row in files.items()}}
    wrong = sorted({path for path in wanted.keys() | seen.keys() if wanted.get(path) != seen.get(path)})
    if not wrong and full:
        wrong = [path for path, row in files.items() if sha256(os.path.join(root, path)) != row[2]]
    if not wrong and PYTHON in links and not os.access(os.path.join(root, PYTHON), os.X_OK):
        return f"its interpreter {links[PYTHON]} is missing"
    return _sentence(wrong)


def _sentence(wrong: list[str]) -> Optional[str]:
    if not wrong:
        return None
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return f"{', '.join(wrong[:SHOWN])}{more}: missing, changed or foreign"


def check_records(root: str, site: str, manifest: Mapping[str, Any]) -> None:
    """Compare what lies in ``site`` (relative to ``root``) with what each wheel says of its own files; raise Refused if it differs.

    The installer compares a wheel with the lock when it fetches it. What it hard-links later comes from its cache, where a file
    may have been changed since.
    """
    wrong = []
    # those of packages: some carry others' within them, whose files are elsewhere
    mine = re.compile(re.escape(site) + r"/[^/]+\.dist-info/RECORD")
    for record in filter(mine.fullmatch, manifest["files"]):
        with open(os.path.join(root, record), encoding="utf-8", newline="") as stream:
            for path, digest, *_size in (row for row in csv.reader(stream) if row):
                found = manifest["files"].get(os.path.normpath(f"{site}/{path}"))
                if digest.startswith("sha256=") and (found is None or digest[7:] != _encoded(found[2])):
                    wrong.append(path)
    if sentence := _sentence(sorted(wrong)):
        why = f"what was installed is not what its wheels hold ({sentence})."
        raise Refused("vllm_cache_directory", why, "Remove that directory on the server: its wheels are fetched again.")


def _encoded(digest: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode()


def freeze(root: str) -> None:
    """Take all write bits away.

    Files are hard links into the installer's cache, so this reaches there, and shall: an edit in place would change every
    environment that shares the file. The installer itself never writes into a cached file, it makes a new one.
    """
    for folder, folders, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in [*folders, *files])]:
            found = os.lstat(path)
            if found.st_mode & WRITE and not stat.S_ISLNK(found.st_mode):
                os.chmod(path, stat.S_IMODE(found.st_mode) & ~WRITE)


def remove(root: str) -> None:
    """Remove a directory, read-only or not, whatever is in it."""
    if os.path.islink(root) or os.path.isfile(root):
        os.unlink(root)
        return
    for folder, _folders, _files in os.walk(root):
        os.chmod(folder, 0o700)
    for folder, folders, files in os.walk(root, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        for name in folders:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                os.unlink(path)
            else:
                os.rmdir(path)
    if os.path.isdir(root):
        os.rmdir(root)
