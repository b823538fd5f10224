# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one exception that the core raises for an operator to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Optional


class Refused(ValueError):
    """What the inventory asks for, or what a machine is, cannot work.

    The text is written for the operator: the thing in the inventory that caused it, why it
    cannot work, and what to write instead.
    """

    def __init__(self, where: str, why: str, instead: str, proposal: Optional[Mapping[str, Any]] = None) -> None:
        """Take the name of the variable, key, file or host; the reason; and the words to write.

        ``proposal`` is the same as inventory variables, where there are such: ``{"vllm_track": "cu12-py312"}``.
        """
        super().__init__(f"{where}: {why} {instead}".strip())
        self.where = where
        self.why = why
        self.instead = instead
        self.proposal = proposal


class ManyRefused(Refused):
    """Several refusals at once, so that an operator mends an inventory in one go."""

    def __init__(self, refusals: Iterable[Refused]) -> None:
        """Take at least one refusal."""
        self.refusals = list(refusals)
        ValueError.__init__(self, "\n".join(str(refusal) for refusal in self.refusals))
        first = self.refusals[0]
        self.where, self.why, self.instead, self.proposal = first.where, first.why, first.instead, first.proposal


def closest(word: str, known: Iterable[str]) -> Optional[str]:
    """Return the known word that is most like ``word``, None when none is."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def nearest(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return the sentence that says what to write instead of an unknown word."""
    close = closest(word, known)
    return f"Did you mean {close}?" if close else otherwise
