# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which Pythons a distribution has."""

from __future__ import annotations

from collections.abc import Mapping

from . import compatibility
from .errors import Refused

APT = ("debian", "ubuntu")


def installable() -> list[compatibility.System]:
    """Return the systems that the roles install on: those with apt."""
    return [system for system in compatibility.systems() if system.name.partition(" ")[0] in APT]


def problems(version: str, host: str, system: Mapping[str, str]) -> list[Refused]:
    """Return why ``host`` cannot have Python ``version`` ("3.11") from its distribution; nothing when it can.

    ``system`` has name and version as in /etc/os-release ("debian", "12").
    """
    name = f"{system['name']} {system['version']}"
    known = compatibility.system(name)
    if known is None or known not in installable():
        names = ", ".join(row.name for row in installable())
        return [Refused(f"python_version {version}", f"{host} runs {name}, which this role does not know.", f"It knows {names}.")]
    if str(version) not in known.pythons:
        others = [row.name for row in installable() if str(version) in row.pythons]
        instead = f'Write python_version: "{known.pythons[0]}"' + (f", or use a host with {' or '.join(others)}." if others else ".")
        return [Refused(f"python_version {version}", f"{host} runs {name}, whose packages have {', '.join(known.pythons)}.", instead)]
    return []
