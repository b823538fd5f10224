# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Names of variables that no role reads: Ansible itself ignores them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from . import compatibility
from .errors import Refused, nearest
from .instance_keys import KEYS

NAME = re.compile(r"[\w-]+")  # of one group or host; all else is a pattern, which Ansible understands itself
NOBODY = "!all"
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


def unknown(role: str, names: Iterable[str], known: Iterable[str]) -> list[Refused]:
    """Return a refusal for each of ``names`` that begins with the role's prefix and that the role does not read.

    A name of other guides, or of a key that stands in the wrong place, is told where it belongs.
    """
    known = sorted(known)
    return [_unknown(role, name, known) for name in sorted(set(names) - set(known)) if not name.startswith("__")]


def _unknown(role: str, name: str, known: list[str]) -> Refused:
    why = "is read by no role."
    renamed = compatibility.renamed_variable(name)
    if renamed:
        return Refused(name, why, f"Write {renamed.instead}.")
    close = next(iter(difflib.get_close_matches(name, known, n=1, cutoff=ALIKE)), None)
    if close:
        return Refused(name, why, f"Did you mean {close}?")
    key = name.removeprefix(f"{role}_")
    if role == "vllm" and key in KEYS:
        return Refused(name, why, f"Write {key}: in an entry of vllm_instances.")
    return Refused(name, why, f"Remove it; a variable of your own needs a name that does not begin with {role}_.")


def play_hosts(groups: Mapping[str, Sequence[str]], usual: str, group: str = "", optional: bool = False) -> str:
    """Return the pattern of the hosts that a play is for: those of ``group``, which the variable USUAL_group names, else of ``usual``.

    ``groups`` is Ansible's own variable. The usual group may be missing; with ``optional`` nothing is said of it then. Another one
    that is missing is refused: Ansible would leave the play out with a warning, and say that all went well.
    """
    name = group or usual
    if optional and not groups.get(name) and name == usual:
        return NOBODY
    if name != usual and NAME.fullmatch(name) and name not in groups and name not in groups["all"]:
        have = sorted(set(groups) - {"all", "ungrouped"})
        why = f"the inventory has no group {name}."
        raise Refused(f"{usual}_group", why, nearest(name, have, f"Its groups are {', '.join(have)}."))
    return name
