# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which environments a server needs. What went into one decides its name, so equal names mean equal environments."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from .own_tracks import lock_text
from .pythons import Source
from .tracks import Track

RECIPE = "2"  # of environment_build.py: raise it when that builds something else from the same lock


def environment_id(lock: str, track: str, interpreter: str, machine: str) -> str:
    """Return TRACK-DIGEST: of the lock's text without comments, the interpreter's path and the machine ("x86_64")."""
    lines = [line.rstrip() for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    digest = hashlib.sha256("\n".join([RECIPE, interpreter, machine, *lines]).encode()).hexdigest()
    return f"{track}-{digest[:12]}"


def environments(instances: Sequence[Mapping[str, Any]], known: Mapping[str, Track], python: Source) -> list[dict[str, str]]:
    """Return the environments that the present instances of a server run in, one for each of their tracks."""
    used = dict.fromkeys(entry["track"] for entry in instances if entry["state"] == "present")
    return [_environment(known[name], python) for name in used if name in known]


def _environment(track: Track, python: Source) -> dict[str, str]:
    lock, interpreter = lock_text(track), python.interpreter(track.python, track.machine)
    return {
        "id": environment_id(lock, track.name, interpreter, track.machine),
        "track": track.name,
        "vllm": track.vllm,
        "python": track.python,
        "device": track.device,
        "machine": track.machine,
        "interpreter": interpreter,
        "lock": lock,
    }
