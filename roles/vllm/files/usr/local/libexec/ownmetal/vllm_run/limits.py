# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How long a start may take: what follows from the model's size and the disk it lies on, and longer while something moves."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Mapping
from typing import Optional

ALLOWANCE = 900.0  # Python, compilation, CUDA graphs and a first token: 360 s were reported for eight GPUs, far more for a cold compile
STALL_SECONDS = 600.0  # a compiler may say nothing for minutes; a hung collective says nothing for ever
BRIEF_SECONDS = 120.0  # beyond the limit, this long without progress is enough
# bytes a second that the slowest such disk in use gives
RATES = {"solid": 150e6, "spinning": 60e6, "network": 30e6}
MOVED = 1 << 20  # idle processes read a few bytes, too
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.gguf")


def weight_bytes(model: Optional[str]) -> int:
    """Return the size of a model's weights; 0 where they are not seen. Of several formats vLLM loads the first that is there."""
    for pattern in WEIGHTS if model else ():
        sizes = [os.path.getsize(path) for path in glob.glob(os.path.join(glob.escape(str(model)), pattern)) if os.path.exists(path)]
        if sizes:
            return sum(sizes)
    return 0


def kind_of_disk(path: str, devices: str = "/sys/dev/block") -> str:
    """Return solid, spinning or network: the last for what is no local block device, or none that is known."""
    try:
        number = os.stat(path).st_dev
    except OSError:
        return "network"
    device = os.path.realpath(f"{devices}/{os.major(number)}:{os.minor(number)}")
    for queue in (f"{device}/queue/rotational", f"{os.path.dirname(device)}/queue/rotational"):
        with contextlib.suppress(OSError), open(queue, encoding="ascii") as stream:
            return "spinning" if stream.read().strip() == "1" else "solid"
    return "network"


class StartLimit:
    """The patience with one start. All times are seconds since its beginning."""

    def __init__(self, weights: int, disk: str, environment: Mapping[str, str]) -> None:
        """Take the size of the weights and the kind of disk.

        OWNMETAL_START_SECONDS of the environment is a fixed limit instead; OWNMETAL_STALL_SECONDS how long nothing may move.
        """
        self.weights, self.rate = weights, RATES[disk]
        self.fixed = float(environment.get("OWNMETAL_START_SECONDS") or 0)
        self.stall = float(environment.get("OWNMETAL_STALL_SECONDS") or STALL_SECONDS)
        self.moved_at = 0.0
        self._bytes = 0
        self._lines: set[str] = set()

    @property
    def seconds(self) -> float:
        """The limit, which something that moves extends."""
        return self.fixed or ALLOWANCE + self.weights / self.rate

    def line(self, text: str, now: float) -> None:
        """Note a line of vLLM's. One that only repeats another with other numbers is no progress: that is how vLLM waits."""
        words = re.sub(r"[0-9.:]+", "#", text)
        if words not in self._lines:
            self._lines.add(words)
            self.moved_at = now

    def bytes(self, total: int, now: float) -> None:
        """Note how many bytes were moved so far."""
        if total >= self._bytes + MOVED:
            self._bytes, self.moved_at = total, now

    def measured(self, read: int, seconds: float) -> None:
        """Let the rate be what this disk gives, where that is less than its kind promises."""
        if read > 1 << 30 and seconds > 10:
            self.rate = min(self.rate, read / seconds)

    def over(self, now: float) -> Optional[str]:
        """Return why the start has to end, None while it may go on."""
        if self.fixed:
            return f"no first token came within vllm_start_timeout, {self.fixed:.0f} s" if now > self.fixed else None
        still = now - self.moved_at
        if still > self.stall:
            return f"nothing moved for {still:.0f} s: no new line, nothing read or written"
        if now > self.seconds and still > min(self.stall, BRIEF_SECONDS):
            return f"no first token came within {self.seconds:.0f} s, which {self.weights / 1e9:.1f} GB of weights should need at most"
        return None
