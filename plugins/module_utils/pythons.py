# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which Pythons a distribution has."""

from __future__ import annotations

from collections.abc import Mapping

from .data_files import pythons
from .errors import Refused


def problems(version: str, host: str, system: Mapping[str, str]) -> list[Refused]:
    """Return why ``host`` cannot have Python ``version`` ("3.11") from its distribution; nothing when it can.

    ``system`` has name and version as in /etc/os-release ("debian", "12").
    """
    known = pythons()
    name = f"{system['name']} {system['version']}"
    if name not in known:
        return [
            Refused(f"python_version {version}", f"{host} runs {name}, which this role does not know.", f"It knows {', '.join(known)}.")
        ]
    if str(version) not in known[name]:
        others = [system for system, versions in known.items() if str(version) in versions]
        instead = f'Write python_version: "{known[name][0]}"' + (f", or use a host with {others[0]}." if others else ".")
        return [Refused(f"python_version {version}", f"{host} runs {name}, whose packages have {', '.join(known[name])}.", instead)]
    return []
