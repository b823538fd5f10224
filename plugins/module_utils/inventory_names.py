# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Misspelt variable names: Ansible itself ignores a variable that no one reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .errors import Refused

ALIKE = 0.85  # of difflib's ratio: catches a letter left out or swapped, leaves a team's own names alone


def misspelt(names: Iterable[str], known: Iterable[str]) -> list[Refused]:
    """Return a refusal for each of ``names`` that is not known but very like a known one."""
    known = sorted(known)
    found = []
    for name in sorted(set(names) - set(known)):
        close = difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)
        if close and not name.startswith("__"):
            found.append(Refused(name, "is read by no role.", f"Did you mean {close[0]}?"))
    return found
