# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a server's instances want of CUDA: GPUs at all, a version, a compiler. Runs on the controller, without Ansible."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from . import compatibility
from .own_tracks import known as known_tracks
from .own_tracks import lock_text
from .tracks import Track


def wants(track: str, own: Any, lists: Sequence[Any]) -> dict[str, Any]:
    """Return whether a server computes on GPUs (gpu), the CUDA of each of its tracks (tracks), and whether a track compiles kernels (jit).

    ``track`` is vllm_track, ``own`` vllm_tracks, ``lists`` the three lists of instances. A track that is chosen by the driver is for GPUs,
    and compiles: every one of that kind does. What is wrong in the lists is the role vllm's to refuse.
    """
    known = known_tracks(own)
    entries = [entry for rows in lists if isinstance(rows, Sequence) for entry in rows if isinstance(entry, Mapping)]
    names = {str(entry.get("track") or track) for entry in entries if entry.get("state") != "absent"} or {track}
    found = [known[name] for name in sorted(names) if name in known and known[name].device != "cpu"]
    open_choice = any(name not in known for name in names)
    cuda = {one.name: release.cuda for one in found if (release := compatibility.release(one.vllm)) and release.cuda}
    return {"gpu": bool(found) or open_choice, "tracks": cuda, "jit": open_choice or any(_compiles(one) for one in found)}


def _compiles(track: Track) -> bool:
    """Tell whether a track compiles kernels as it runs: FlashInfer does, unless the package with all of them is there."""
    lock = lock_text(track)
    return bool(re.search(r"(?m)^flashinfer-python==", lock)) and not re.search(r"(?m)^flashinfer-jit-cache==", lock)
