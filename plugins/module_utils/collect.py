# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Models and environments that no release of any instance links to. Found by looking, removed only when asked to.

Python 3.9, standard library alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Optional

from .download import in_bytes
from .progress import LOCKS

ASIDE = re.compile(r"\.(.+)\.(part|archive|removed)")  # what runs that were ended leave


def find(instances: str, models: str, environments: str, pool: str, keep: Iterable[str], locks: str = LOCKS) -> list[dict[str, Any]]:
    """Return what nothing uses: path, kind and bytes that removing it frees.

    ``instances``: the directory with a folder for each instance; ``pool``: that of the pool, or empty; ``keep``: paths that the
    inventory wants, linked or not.
    """
    kept = {*_linked(instances), *(os.path.normpath(path) for path in keep)}
    names = {os.path.basename(path) for path in kept}
    places = [("model", models), ("environment", environments), ("archive", f"{pool}/environments" if pool else "")]
    doomed = []
    for kind, place in places:
        for path in sorted(glob.glob(f"{glob.escape(place)}/*") + glob.glob(f"{glob.escape(place)}/.*")) if place else []:
            aside = ASIDE.fullmatch(os.path.basename(path))
            if aside:
                used = _held(locks, f"model-{aside.group(1)}" if kind == "model" else "vllm-environments")
            elif kind == "archive":
                used = any(os.path.basename(path).startswith(f"{name}.") for name in names)
            else:
                used = path in kept or os.path.realpath(path) in kept or os.path.islink(path) or not os.path.isdir(path)
            if not used:
                doomed.append({"path": path, "kind": f"unfinished {kind}" if aside else kind})
    sizes = _freed([row["path"] for row in doomed])
    return [{**row, "bytes": size} for row, size in zip(doomed, sizes)]


def _linked(instances: str) -> Iterator[str]:
    """Return where the releases' links lead, as they are written and as they resolve."""
    for part in ("model", "environment"):
        for link in glob.glob(f"{glob.escape(instances)}/*/releases/*/{part}"):
            with contextlib.suppress(OSError):
                yield os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))
            yield os.path.realpath(link)


def _held(locks: str, thing: str) -> bool:
    """Tell whether a run works at something."""
    try:
        with open(f"{locks}/ownmetal-{thing}", encoding="ascii") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _files(path: str) -> Iterator[os.stat_result]:
    if not os.path.isdir(path):
        yield os.lstat(path)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield os.lstat(os.path.join(folder, name))


def _freed(paths: Sequence[str]) -> list[int]:
    """Return the bytes that removing each path gives back: a file that has another name elsewhere gives nothing."""
    names: dict[tuple[int, int], int] = {}
    freed = []
    for path in paths:
        total = 0
        for seen in _files(path):
            key = (seen.st_dev, seen.st_ino)
            names[key] = names.get(key, 0) + 1
            total += 512 * seen.st_blocks if names[key] == seen.st_nlink else 0
        freed.append(total)
    return freed


def remove(paths: Iterable[str]) -> None:
    """Remove paths; each loses its name first, so that nobody takes half of it for the whole."""
    for path in paths:
        folder, name = os.path.split(path)
        aside = path if ASIDE.fullmatch(name) else f"{folder}/.{name}.removed"
        if aside != path:
            _delete(aside)
            os.rename(path, aside)
        _delete(aside)


def _delete(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        for folder, _, _ in os.walk(path):
            os.chmod(folder, 0o700)
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def report(found: Sequence[dict[str, Any]], done: Optional[bool]) -> list[str]:
    """Return lines to read; ``done``: whether it was removed."""
    if not found:
        return ["nothing is left over: a release links to every model and environment"]
    lines = [f"{row['kind']:18} {in_bytes(row['bytes']):>10}  {row['path']}" for row in found]
    total = in_bytes(sum(row["bytes"] for row in found))
    return [*lines, f"{total} freed" if done else f"{total} would be freed: -e collect=true removes this"]
