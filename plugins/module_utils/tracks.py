# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The tracks of this collection: each is a vLLM release, a Python and a device, locked with all it needs."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from .errors import Refused, closest, nearest

FILE = pathlib.Path(__file__).parent / "data" / "tracks.json"


@dataclass(frozen=True)
class Track:
    """A locked set of wheels.

    Its name, vLLM release, Python ("3.11"), device ("cpu" or "cuda"), machine ("x86_64"), and the oldest glibc ("2.31")
    that its wheels run on. ``until`` is the day ("2026-05-01") whose newest packages an old release is locked with.
    """

    name: str
    vllm: str
    python: str
    device: str
    machine: str
    glibc: str
    until: str = ""


@functools.cache
def tracks() -> Mapping[str, Track]:
    """Return all tracks by name."""
    return {name: Track(name, **values) for name, values in json.loads(FILE.read_text(encoding="utf-8")).items()}


def track(name: str, known: Optional[Mapping[str, Track]] = None) -> Track:
    """Return a track of those that are known (all, unless told); raise Refused for a name that is none."""
    known = tracks() if known is None else known
    if name not in known:
        names = f"Write one of: {', '.join(sorted(known))}."
        close = closest(str(name), known)
        instead = f"{nearest(str(name), known, '')} {names}".strip()
        raise Refused("vllm_track", f"{name!r} is not a track of this collection.", instead, {"vllm_track": close} if close else None)
    return known[name]
