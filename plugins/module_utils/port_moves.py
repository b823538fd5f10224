# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Instances of one server that take one another's ports in the same change: who has to leave first, and who cannot."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Optional

from .errors import Refused

Place = tuple[str, int]  # host and port


def in_the_way(wanted: Optional[Place], held: Optional[Place]) -> bool:
    """Tell whether who listens at ``held`` keeps another from ``wanted``. A name may be any address."""
    if wanted is None or held is None or wanted[1] != held[1]:
        return False
    try:
        one, two = ipaddress.ip_address(wanted[0]), ipaddress.ip_address(held[0])
    except ValueError:
        return True
    return one == two or one.is_unspecified or two.is_unspecified


def rows(takes: Mapping[str, Collection[str]]) -> list[list[str]]:
    """Return all names in rows that have nothing to do with one another; in a row, who leaves a port is before who takes it.

    ``takes``: name -> those among them whose ports it takes. Raises Refused for a ring of them.
    """
    found: list[list[str]] = []

    def place(name: str, waiting: list[str]) -> None:
        if name in waiting:
            raise _ring(waiting[waiting.index(name) :])
        if any(name in row for row in found):
            return
        for other in takes[name]:
            place(other, [*waiting, name])
        mine = [row for row in found if any(other in row for other in takes[name])]
        found[:] = [*(row for row in found if row not in mine), [*(one for row in mine for one in row), name]]

    for name in takes:
        place(name, [])
    return found


def _ring(names: list[str]) -> Refused:
    why = f"{', '.join(names[:-1])} and {names[-1]} take one another's ports: each would have to leave before the other has come."
    instead = "Write another free port for one of them and run the playbook; then the one that it shall have, and run it again."
    return Refused(f"vllm_instances {names[0]}: port", why, instead)
