# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The result of one check: the shape that every verifying module returns."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any, Callable, Optional


class CheckFailed(Exception):
    """A check found the thing broken: what was seen, what causes it, the next command to run."""

    def __init__(self, evidence: str, cause: str, next_command: str) -> None:
        """Take the three sentences that a failed check shows."""
        super().__init__(evidence)
        self.evidence = evidence
        self.cause = cause
        self.next_command = next_command


class NotApplicable(Exception):
    """A check does not apply here; the text says why."""


@dataclass(frozen=True)
class Check:
    """One verdict.

    ``ok`` is true, false, or null when the check does not apply (``evidence`` then says why).
    ``cause`` and ``next`` are set on failure only. ``took_ms`` is wall time in milliseconds.
    """

    id: str
    ok: Optional[bool]
    evidence: str
    took_ms: int
    cause: Optional[str] = None
    next: Optional[str] = None

    def as_dict(self) -> dict[str, Any]:
        """Return the check as plain data, the keys in the order of the fields."""
        return asdict(self)

    def line(self) -> str:
        """Return the check as one line of a report."""
        mark = {True: "ok", False: "FAILED", None: "n/a"}[self.ok]
        tail = f" | cause: {self.cause} | next: {self.next}" if self.ok is False else ""
        return f"{mark:6} {self.id:28} {self.took_ms:6d} ms  {self.evidence}{tail}"


def run_check(check_id: str, probe: Callable[[], str]) -> Check:
    """Run ``probe`` and time it.

    ``probe`` returns the evidence, or raises CheckFailed or NotApplicable; any other exception
    is a bug and passes through.
    """
    start = time.monotonic()

    def took() -> int:
        return round((time.monotonic() - start) * 1000)

    try:
        return Check(check_id, True, probe(), took())
    except NotApplicable as why:
        return Check(check_id, None, str(why), took())
    except CheckFailed as bad:
        return Check(check_id, False, bad.evidence, took(), bad.cause, bad.next_command)
