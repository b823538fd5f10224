# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What vLLM writes on its way up, and what an end of it means."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import Any, Optional

NEVER, LATER = 78, 75  # EX_CONFIG: only a change helps. EX_TEMPFAIL: another try may
TAIL_LINES = 400
# what vLLM logs on its way up, and what that means to the one who waits
STAGES = (
    (re.compile(r"Loading safetensors checkpoint shards:\s+(\d+)% Completed"), "loading weights, {} %"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"Loading weights took"), "weights loaded, preparing the KV cache"),
    (re.compile(r"Dynamo bytecode transform|torch\.compile takes|[Cc]ompiling a graph"), "compiling"),
    (re.compile(r"Capturing CUDA graphs"), "capturing CUDA graphs"),
    (re.compile(r"GPU KV cache size|CPU KV cache size"), "KV cache ready, starting the API"),
)
LOADING = "loading weights"


class Log:
    """The end of vLLM's output, and the stage that it tells."""

    def __init__(self, instance: str, signatures: Sequence[dict[str, Any]]) -> None:
        """Take the table of start_up_signatures.py; the more telling rows stand first."""
        self.instance = instance
        self.signatures = [(re.compile(row["pattern"], re.MULTILINE), row["kind"], row["cause"]) for row in signatures]
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    def add(self, text: str) -> Optional[str]:
        """Keep a line, and return the stage that it tells, None when it tells none."""
        self.tail.append(text)
        for pattern, stage in STAGES:
            found = pattern.search(text)
            if found:
                return stage.format(*found.groups())
        return None

    def verdict(self, status: int, ready: bool, oom_kills: int) -> tuple[int, str]:
        """Return NEVER or LATER, and the reason, for an end of vLLM that nobody asked for.

        ``status`` is that of subprocess: negative for a signal. ``ready``: it had given a token, so its configuration is good.
        """
        if oom_kills:
            return LATER, "the unit's or the server's memory ran out, and the kernel killed a part of vLLM"
        log = "".join(self.tail)
        for pattern, kind, cause in self.signatures:
            found = pattern.search(log)
            if found and not (ready and kind == "never"):
                what = found.groupdict().get("what") or ""
                return (NEVER if kind == "never" else LATER), cause.replace("{instance}", self.instance).replace("{what}", what)
        if status < 0:
            return LATER, f"vLLM was killed by signal {-status}"
        if status == 0:  # what vLLM says when its engine or a worker dies
            return LATER, "vLLM's engine or one of its workers died (vLLM itself ended as if it had been asked to)"
        if status in (126, 127):
            return NEVER, f"the environment of {self.instance} is missing"
        return (NEVER if status == 2 else LATER), f"vLLM ended with status {status} and no known reason"
