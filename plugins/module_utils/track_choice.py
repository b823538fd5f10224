# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which track ``vllm_track: auto`` means: by the server's driver, system and Pythons, and by python_version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from . import compatibility, host_rules
from .compatibility import version_key
from .errors import Refused
from .host_rules import Host
from .pythons import Source
from .tracks import AUTO, Track, tracks

WHERE = f"vllm_track {AUTO}"
TRIAL = "write vllm_track: cpu-py311 to try it without a GPU"


def candidates(python: str, known: Mapping[str, Track]) -> list[Track]:
    """Return the tracks that may be chosen, the preferred first; raise Refused for a python_version that none has.

    They are this collection's own for GPUs: a team's own are named, never guessed. Newer CUDA comes first, then Python 3.10,
    which the most systems that vLLM is run on have had.
    """
    own = [known.get(name, track) for name, track in tracks().items() if track.device == "cuda"]
    found = sorted(own, key=lambda track: (_cuda(track), version_key(track.python)))
    suiting = [track for track in found if python in ("", track.python)]
    if not suiting:
        pythons = sorted({track.python for track in found}, key=version_key)
        unquoted = " (Unquoted, 3.10 is read as 3.1.)" if python == "3.1" else ""
        why = f"the tracks that {WHERE} chooses from are for {' and '.join(pythons)}.{unquoted}"
        instead = f'Write python_version: "{pythons[0]}", or name a track.'
        raise Refused(f"python_version {python}", why, instead, {"python_version": pythons[0]})
    return suiting


def _cuda(track: Track) -> int:
    release = compatibility.release(track.vllm)
    return -int((release.cuda if release and release.cuda else "0").partition(".")[0])


def choose(server: str, python: str, host: Host, known: Mapping[str, Track], source: Source) -> Track:
    """Return the track for a host; raise Refused, with what to write, where none can run there."""
    choice = candidates(python, known)
    for track in choice:
        if not [*host_rules.obstacles_of(track, host, source)]:
            return track
    if not host.driver or not host.gpus:
        why = f"chooses by the NVIDIA driver, and on {server} {host.gpu_problem or 'no GPU was seen'}."
        raise Refused(WHERE, why, f"Install the driver there (580 or newer for CUDA 13), or {TRIAL}.", _trial(host, known, source))
    said = {track.name: next(host_rules.obstacles_of(track, host, source)) for track in choice}
    why = "; ".join(f"{name}: {reason.format(server=server)}" for name, (reason, _) in said.items())
    advice = dict.fromkeys(help_ for _, help_ in said.values() if help_)
    instead = f"{'; or '.join(advice)}; or {TRIAL}." if advice else f"Use another server, or {TRIAL}."
    raise Refused(WHERE, f"finds no track for {server}: {why}.", instead[:1].upper() + instead[1:], _trial(host, known, source))


def _trial(host: Host, known: Mapping[str, Track], source: Source) -> Optional[dict[str, str]]:
    able = [track for track in known.values() if track.device == "cpu" and not [*host_rules.obstacles_of(track, host, source)]]
    return host_rules.proposal(able[0]) if able else None
