# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a host can run a track's wheels: machine, C library, Python, driver. No inventory is looked at but the track."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from . import compatibility
from .compatibility import version_key
from .errors import Refused
from .pythons import installable
from .tracks import Track


@dataclass(frozen=True)
class Host:
    """What a server is: ``system`` ("debian 12"), ``memory`` in bytes, ``gpus`` as module_utils/gpus.py sees them."""

    system: str
    machine: str
    glibc: str
    memory: int
    driver: Optional[str] = None
    gpus: Sequence[Mapping[str, Any]] = ()
    gpu_problem: Optional[str] = None

    @classmethod
    def seen(cls, observed: Mapping[str, Any]) -> Host:
        """Read what ownmetal.codex.tree observed: ``system``, and ``gpus`` of ``nvidia``."""
        system, cards = observed["system"], observed["gpus"]["nvidia"]
        name = f"{system['name']} {system['version']}"
        seen = cls(name, system["machine"], system["glibc"], system["memory"])
        return dataclasses.replace(seen, driver=cards["driver"], gpus=tuple(cards["gpus"]), gpu_problem=cards["problem"])


def problems(server: str, track: Track, python: str, host: Optional[Host], known: Mapping[str, Track]) -> Iterator[Refused]:
    """Yield refusals of a track on a server, each with a track that can run there where there is one.

    ``python`` is the inventory's python_version; without a ``host`` only that is judged. ``known`` are the tracks to choose from.
    """
    obstacles = [*obstacles_of(track, host)] if host else []
    better = better_track(track, host, known) if host and obstacles else None
    if python and python != track.python:
        wanted = compatibility.release(track.vllm)
        outside = wanted is not None and not wanted.allows_python(python)
        why = (
            f"vLLM {track.vllm} needs Python {wanted.python}."
            if wanted and outside
            else f"the wheels of {track.name} are for {track.python}."
        )
        if python == "3.1":
            why = f"{why} (Unquoted, 3.10 is read as 3.1.)"
        yield Refused(
            f"python_version {python}", why, f'Write python_version: "{track.python}".', better or {"python_version": track.python}
        )
    for why, otherwise in obstacles:
        yield Refused(f"vllm_track {track.name}", f"{why.format(server=server)}.", _advice(better, otherwise, known), better)


def _advice(better: Optional[Mapping[str, Any]], otherwise: str, known: Mapping[str, Track]) -> str:
    if not better:
        return f"{otherwise[:1].upper()}{otherwise[1:]}." if otherwise else "No track of this collection can run there."
    name = better["vllm_track"]
    words = f'Write vllm_track: {name} and python_version: "{better["python_version"]}" (vLLM {known[name].vllm})'
    return f"{words}, or {otherwise}." if otherwise else f"{words}."


def obstacles_of(track: Track, host: Host) -> Iterator[tuple[str, str]]:
    """Yield why a track cannot run on a host (``{server}`` stands for its name), and what would help besides another track."""
    release = compatibility.release(track.vllm)
    if host.machine != track.machine:
        yield f"its wheels are for {track.machine}, and {{server}} is {host.machine}", ""
        return
    floors = [track.glibc, *([release.glibc[host.machine]] if release and host.machine in release.glibc else [])]
    floor = max(floors, key=version_key)
    has = host.glibc or "another C library"
    if not host.glibc or version_key(host.glibc) < version_key(floor):
        yield f"its wheels need glibc {floor}, and {{server}} ({host.system}) has {has}", "install a newer system there"
        return
    others = " or ".join(row.name for row in installable() if track.python in row.pythons)
    system = compatibility.system(host.system)
    if system is None or system not in installable():
        yield f"{{server}} runs {host.system}, which the role python does not know", f"use a server with {others}" if others else ""
    elif track.python not in system.pythons:
        why = f"its wheels are for Python {track.python}, and {{server}} ({host.system}) has {', '.join(system.pythons)} in its packages"
        yield why, f"use a server with {others}" if others else ""
    if track.device == "cuda":
        yield from _driver(track, host, release.cuda if release else None)


def _driver(track: Track, host: Host, cuda: Optional[str]) -> Iterator[tuple[str, str]]:
    floor = compatibility.driver_floor(cuda) if cuda else 0
    newer = f"the driver {floor} or newer" if floor else "the NVIDIA driver"
    if not host.driver:
        yield f"it needs a GPU, and on {{server}} {host.gpu_problem or 'none was seen'}", f"install {newer} there"
    elif version_key(host.driver).release[0] < floor:
        yield f"its CUDA {cuda} needs {newer}, and {{server}} has {host.driver}", f"install {newer} there"
    elif not host.gpus:
        yield f"it needs a GPU, and on {{server}} {host.gpu_problem}", "mend the driver there"


def better_track(
    track: Track, host: Optional[Host], known: Mapping[str, Track], suits: Callable[[Track], bool] = lambda _: True
) -> Optional[dict[str, Any]]:
    """Return, as a proposal, the best other track that suits and that the host can run.

    Of the same device if there is one, then of the same Python, then the newest release.
    """
    able = [other for other in known.values() if other != track and suits(other) and not (host and [*obstacles_of(other, host)])]
    able.sort(key=lambda other: (other.device == track.device, other.python == track.python, version_key(other.vllm)), reverse=True)
    return proposal(able[0]) if able else None


def proposal(track: Track) -> dict[str, Any]:
    """Return a track as inventory variables."""
    return {"vllm_track": track.name, "python_version": track.python}


def warnings(track: Track) -> Iterator[Refused]:
    """Yield what is known against a track that runs all the same."""
    where = f"vllm_track {track.name}"
    for advisory in compatibility.advisories(track.vllm):
        why = f"vLLM {track.vllm} has {advisory.id} ({advisory.what}), mended in {advisory.fixed}."
        yield Refused(where, why, "Choose a track with a newer release where the driver allows it.")
    python = compatibility.python(track.python)
    if python and python.ended:
        yield Refused(
            where,
            f"Python {track.python} has had no security fixes since {python.end_of_life}.",
            "A track for a newer one has the same flags.",
        )
