# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one exception that the core raises for an operator to read."""

from __future__ import annotations

from collections.abc import Iterable


class Refused(ValueError):
    """What the inventory asks for, or what a machine is, cannot work.

    The text is written for the operator: the thing in the inventory that caused it, why it
    cannot work, and what to write instead.
    """

    def __init__(self, where: str, why: str, instead: str) -> None:
        """Take the name of the variable, key, file or host; the reason; and the words to write."""
        super().__init__(f"{where}: {why} {instead}".strip())
        self.where = where
        self.why = why
        self.instead = instead


class ManyRefused(Refused):
    """Several refusals at once, so that an operator mends an inventory in one go."""

    def __init__(self, refusals: Iterable[Refused]) -> None:
        """Take at least one refusal."""
        self.refusals = list(refusals)
        ValueError.__init__(self, "\n".join(str(refusal) for refusal in self.refusals))
        first = self.refusals[0]
        self.where, self.why, self.instead = first.where, first.why, first.instead
