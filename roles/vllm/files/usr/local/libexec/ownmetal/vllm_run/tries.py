# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How often an instance was tried in a row, and how long to wait before the next try.

systemd 252 cannot let the pauses grow (RestartSteps came with 254), and its own limit counts an operator's restarts too. So the
count is a file in the unit's RuntimeDirectory, which survives systemd's own restarts and nothing else: a stop removes it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping

FIRST_PAUSE, LONGEST_PAUSE, TRIES = 5.0, 300.0, 8
STEADY_SECONDS = 600.0  # one that served this long was well: the next failure is a first one again


class Tries:
    """The failures in a row of one instance."""

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        """Read the file at ``path``; OWNMETAL_TRIES and OWNMETAL_PAUSE_SECONDS of the environment change limit and first pause."""
        self.path = path
        self.limit = int(environment.get("OWNMETAL_TRIES", TRIES))
        self.first_pause = float(environment.get("OWNMETAL_PAUSE_SECONDS", FIRST_PAUSE))
        self.failed, self.cause = 0, ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(path, encoding="utf-8") as stream:
            said = json.load(stream)
            self.failed, self.cause = int(said["failed"]), str(said["cause"])
            if said.get("running"):  # a kernel short of memory, or systemd's watchdog, killed this program too
                self.failed, self.cause = self.failed + 1, "it was killed together with its start program"

    @property
    def number(self) -> int:
        """The number of the try that is next, or under way."""
        return self.failed + 1

    @property
    def used_up(self) -> bool:
        """Whether there is no further try."""
        return self.failed >= self.limit

    @property
    def pause(self) -> float:
        """How many seconds to wait before this try."""
        return min(self.first_pause * 2 ** (self.failed - 1), LONGEST_PAUSE) if self.failed else 0.0

    def begin(self) -> None:
        """Note that a try is under way: who finds this note later knows that it ended without a word."""
        self._write(running=True)

    def fail(self, cause: str) -> None:
        """Count a failure, for the next run of this program."""
        self.failed, self.cause = self.failed + 1, cause
        self._write(running=False)

    def _write(self, running: bool) -> None:
        part = f"{self.path}.part"
        with contextlib.suppress(OSError):  # a full /run must not hide why vLLM ended
            with open(part, "w", encoding="utf-8") as stream:
                json.dump({"failed": self.failed, "cause": self.cause, "running": running}, stream)
            os.replace(part, self.path)

    def forget(self) -> None:
        """Forget all failures: it was asked to stop, or it has served for a while."""
        self.failed, self.cause = 0, ""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
