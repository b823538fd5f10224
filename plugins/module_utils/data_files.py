# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The collection's data: tracks, and the flags and parsers of each vLLM release. Read on the controller only."""

from __future__ import annotations

import difflib
import functools
import json
import pathlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import Refused

FOLDER = pathlib.Path(__file__).parent / "data"


@dataclass(frozen=True)
class Track:
    """A locked set of wheels: its name, vLLM release, Python ("3.11"), device ("cpu") and machine ("x86_64")."""

    name: str
    vllm: str
    python: str
    device: str
    machine: str


@dataclass(frozen=True)
class Flags:
    """What `vllm serve` of one release understands: names without leading dashes."""

    release: str
    flags: frozenset[str]
    tool_parsers: tuple[str, ...]
    reasoning_parsers: tuple[str, ...]


@functools.cache
def _load(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def track(name: str) -> Track:
    """Return a track; raise Refused for a name that is none."""
    tracks = _load("tracks.json")
    if name not in tracks:
        raise Refused("vllm_track", f"{name!r} is not a track of this collection.", f"Write one of: {', '.join(sorted(tracks))}.")
    return Track(name, **tracks[name])


def flags(release: str) -> Flags:
    """Return the flag catalogue of a vLLM release."""
    data = _load(f"flags/{release}.json")
    return Flags(data["release"], frozenset(data["flags"]), tuple(data["tool_parsers"]), tuple(data["reasoning_parsers"]))


def pythons() -> dict[str, list[str]]:
    """Return system ("debian 12") -> the Pythons that its packages have."""
    return dict(_load("pythons.json"))


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the sentence that says what to write instead of an unknown word."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else otherwise
