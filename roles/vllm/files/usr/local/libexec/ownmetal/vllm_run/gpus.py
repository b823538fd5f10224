# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Wait for a GPU's memory: a server that was just killed may hold it for some seconds more."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping
from typing import Callable, Optional

FREE_MIB = 1024  # what a context and the driver may hold on a GPU that is free
LONGEST, UNCHANGED = 60.0, 10.0  # a share of a GPU may be another's for good: vLLM itself says whether the rest is enough


def memory_used(gpus: str) -> Optional[int]:
    """Return the most MiB that one of these GPUs ("0,1") has in use, None where nvidia-smi does not tell."""
    command = ["nvidia-smi", f"--id={gpus}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        return max(int(line) for line in done.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def wait_for_memory(environment: Mapping[str, str], say: Callable[[str], None], stopped: Callable[[float], bool]) -> None:
    """Return when the instance's GPUs are free, when their memory has not changed for a while, or when asked to stop.

    ``stopped`` sleeps for a number of seconds and tells whether a stop was asked for.
    """
    gpus = environment.get("CUDA_VISIBLE_DEVICES", "")
    if not gpus:
        return
    start = since = time.monotonic()
    before: Optional[int] = None
    while True:
        used, now = memory_used(gpus), time.monotonic()
        if used is None or used <= FREE_MIB or now - start > LONGEST:
            return
        if used != before:
            before, since = used, now
        elif now - since > UNCHANGED:
            return
        say(f"waiting for the memory of GPU {gpus}: {used} MiB are still in use")
        if stopped(1.0):
            return
