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
from .pythons import PACKAGES, Source, installable
from .tracks import Track, proposal_of, where


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


def problems(
    server: str, track: Track, host: Optional[Host], known: Mapping[str, Track], python: Source, instance: Optional[str] = None
) -> Iterator[Refused]:
    """Yield refusals of a track on a server, each with a track that can run there where there is one.

    Without a ``host`` only the source of its Python is judged. ``known`` are the tracks to choose from; ``instance`` is whose
    track it is, where it is not the server's.
    """
    if python.obstacle(track.python):
        yield Refused("python_source", f"{python.obstacle(track.python)}.", f"Bring {track.python} by python_source: archive.")
    obstacles = [*obstacles_of(track, host, python)] if host else []
    better = better_track(track, host, known, python=python) if host and obstacles else None
    for why, otherwise in obstacles:
        instead = _advice(better, otherwise, instance)
        yield Refused(where(instance, track.name), f"{why.format(server=server)}.", instead, proposal(better, instance) if better else None)


def python_problems(track: Track, wanted: str, host: Optional[Host], known: Mapping[str, Track], python: Source) -> Iterator[Refused]:
    """Yield the refusal of a python_version that is not the one of the server's track."""
    if not wanted or wanted == track.python:
        return
    obstacles = host and [*obstacles_of(track, host, python)]
    better = better_track(track, host, known, python=python) if obstacles else None
    release = compatibility.release(track.vllm)
    why = f"the wheels of {track.name} are for {track.python}."
    if release and not release.allows_python(wanted):
        why = f"vLLM {track.vllm} needs Python {release.python}."
    if wanted == "3.1":
        why = f"{why} (Unquoted, 3.10 is read as 3.1.)"
    set_to = proposal(better) if better else {"python_version": track.python}
    yield Refused(f"python_version {wanted}", why, f'Write python_version: "{track.python}".', set_to)


def _advice(better: Optional[Track], otherwise: str, instance: Optional[str]) -> str:
    if not better:
        return f"{otherwise[:1].upper()}{otherwise[1:]}." if otherwise else "No track of this collection can run there."
    words = f'vllm_track: {better.name} and python_version: "{better.python}"'
    words = f"Write {f'track: {better.name}' if instance else words} (vLLM {better.vllm})"
    return f"{words}, or {otherwise}." if otherwise else f"{words}."


def obstacles_of(track: Track, host: Host, python: Source = PACKAGES) -> Iterator[tuple[str, str]]:
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
    yield from _python(track, host, python)
    if track.device == "cuda":
        yield from _driver(track, host, release.cuda if release else None)


def _python(track: Track, host: Host, python: Source) -> Iterator[tuple[str, str]]:
    if python.of(track.python) == "archive":
        return
    others = " or ".join(row.name for row in installable() if track.python in row.pythons)
    others = f"use a server with {others}" if others else ""
    system = compatibility.system(host.system)
    if system is None or system not in installable():
        yield f"{{server}} runs {host.system}, which the role python does not know", others
    elif python.of(track.python) == "distribution" and track.python not in system.pythons:
        why = f"its wheels are for Python {track.python}, and {{server}} ({host.system}) has {', '.join(system.pythons)} in its packages"
        yield why, f"{others}, or write python_source: managed or archive" if others else "write python_source: managed or archive"


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
    track: Track,
    host: Optional[Host],
    known: Mapping[str, Track],
    suits: Callable[[Track], bool] = lambda _: True,
    python: Source = PACKAGES,
) -> Optional[Track]:
    """Return the best other track that suits and that the host can run.

    Of the same device if there is one, then of the same Python, then the newest release.
    """
    able = [other for other in known.values() if other != track and suits(other) and not (host and [*obstacles_of(other, host, python)])]
    able.sort(key=lambda other: (other.device == track.device, other.python == track.python, version_key(other.vllm)), reverse=True)
    return able[0] if able else None


def proposal(track: Track, instance: Optional[str] = None) -> dict[str, Any]:
    """Return a track as inventory variables: the server's, or an instance's own."""
    return proposal_of({"vllm_track": track.name, "python_version": track.python}, instance) or {}


def warnings(track: Track, instance: Optional[str] = None) -> Iterator[Refused]:
    """Yield what is known against a track that runs all the same."""
    for advisory in compatibility.advisories(track.vllm):
        why = f"vLLM {track.vllm} has {advisory.id} ({advisory.what}), mended in {advisory.fixed}."
        yield Refused(where(instance, track.name), why, "Choose a track with a newer release where the driver allows it.")
    python = compatibility.python(track.python)
    if python and python.ended:
        # of the Python alone, so that two tracks with it say it once
        why = f"has had no security fixes since {python.end_of_life}."
        yield Refused(f"python_version {track.python}", why, "A track for a newer one has the same flags.")
