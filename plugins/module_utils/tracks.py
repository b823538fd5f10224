# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The tracks of this collection: each is a vLLM release, a Python and a device, locked with all it needs."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from .errors import Refused, closest, nearest

FILE = pathlib.Path(__file__).parent / "data" / "tracks.json"
LOCKS = FILE.parents[3] / "roles" / "vllm" / "files" / "locks"  # on the controller
AUTO = "auto"  # of vllm_track: chosen by the server's driver, system and Python


@dataclass(frozen=True)
class Track:
    """A locked set of wheels.

    Its name, vLLM release, Python ("3.11"), device ("cpu" or "cuda"), machine ("x86_64"), and the oldest glibc ("2.31")
    that its wheels run on. ``until`` is the day ("2026-05-01") whose newest packages an old release is locked with; ``locks`` are
    the files on the controller that a team's own track is locked by.
    """

    name: str
    vllm: str
    python: str
    device: str
    machine: str
    glibc: str
    until: str = ""
    locks: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files on the controller that name its packages, the lock first."""
        return self.locks or (str(LOCKS / f"{self.name}.txt"),)


@functools.cache
def tracks() -> Mapping[str, Track]:
    """Return all tracks by name."""
    return {name: Track(name, **values) for name, values in json.loads(FILE.read_text(encoding="utf-8")).items()}


def track(name: str, known: Optional[Mapping[str, Track]] = None, instance: Optional[str] = None) -> Track:
    """Return a track of those that are known (all, unless told); raise Refused for a name that is none.

    ``instance`` is whose track it is, where it is not the server's.
    """
    known = tracks() if known is None else known
    if name not in known:
        names = f"Write one of: {', '.join(sorted(known))}."
        close = closest(str(name), known)
        instead = f"{nearest(str(name), known, '')} {names}".strip()
        proposal = proposal_of({"vllm_track": close} if close else {}, instance)
        raise Refused(where(instance), f"{name!r} is not a track of this collection or of vllm_tracks.", instead, proposal)
    return known[name]


def where(instance: Optional[str], name: str = "") -> str:
    """Return the place in the inventory that names a track: the server's, or an instance's own."""
    return (f"vllm_instances {instance}: track {name}" if instance else f"vllm_track {name}").strip()


def proposal_of(variables: Mapping[str, str], instance: Optional[str]) -> Optional[dict[str, Any]]:
    """Return a track as inventory variables: the server's, or an instance's own (null: the server's)."""
    if not instance:
        return dict(variables) or None
    return {"vllm_instances_host": [{"name": instance, "track": variables.get("vllm_track")}]}
