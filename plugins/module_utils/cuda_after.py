# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What follows from a server's plan and from what is seen on it afterwards: a reboot, versions, names. Runs on the controller."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Optional

from .cuda_packages import OPEN, PROGRAM, SYSTEMS, driver, holdable
from .driver_state import upstream
from .errors import Refused


def reboot_reasons(seen: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    """Return why a server has to boot before its GPUs can be used as they should be; nothing, where all is well."""
    found = seen["driver"]["nvidia"]
    package = planned["driver"][0]
    installed = upstream(found["packages"][package]) if package in found["packages"] else None
    if installed is None:
        return []
    if found["nouveau"]:
        return [f"nouveau drives the GPUs until then, and {installed} cannot"]
    if found["loaded"] is None:
        return []
    if found["loaded"]["version"] != installed:
        return [f"the driver {found['loaded']['version']} is loaded, and {installed} is installed"]
    if found["loaded"]["open"] != (planned["kind"] == OPEN):
        return [f"the other kind of kernel modules is loaded, and {planned['kind']} ones are installed"]
    return []


def newest_keyring(index: str) -> str:
    """Return the newest version of the package with the repository's key, by the repository's own index (Packages)."""
    found = re.findall(r"(?m)^Package: cuda-keyring\n(?:.+\n)*?Version: (\S+)", index)
    if not found:
        raise Refused(
            "cuda_repository", "signs with a key that its cuda-keyring does not have, and lists no other.", "Tell its maintainer."
        )
    return str(max(found, key=lambda version: [int(part) for part in re.findall(r"\d+", version)]))


def fabric_version(seen: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """Return the version that the fabric manager has to get, which is the driver's own; empty where it has it, or none is asked for."""
    packages, name = seen["driver"]["nvidia"]["packages"], planned["fabric_manager"]
    wanted = upstream(packages.get(planned["driver"][0], ""))
    return wanted if name and upstream(packages.get(name, "")) != wanted else ""


def parts(found: Mapping[str, Any], version: str) -> set[str]:
    """Return every package of a driver's version, where dnf has to hold them together: with one alone, its upgrade of all would fail."""
    return {name for name, one in found["packages"].items() if upstream(one) == version} if found["manager"] == "dnf" else set()


def loose(seen: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    """Return what is installed, has to be held, and is not."""
    found = seen["driver"]["nvidia"]
    version = upstream(found["packages"].get(planned["driver"][0], ""))
    wanted = {*planned["driver"], planned["fabric_manager"]} | parts(found, version)
    return sorted(wanted & set(found["packages"]) - set(found["held"]))


def held_by_role(seen: Mapping[str, Any]) -> list[str]:
    """Return the held packages that the role may have held; what else is held there is somebody else's."""
    system, found = seen["system"], seen["driver"]["nvidia"]
    major = system["version"] if found["manager"] == "apt" else system["version"].partition(".")[0]
    known = SYSTEMS.get((system["name"], major))
    program: Optional[str] = next(filter(PROGRAM.fullmatch, found["packages"]), None)
    if known is None or program is None:
        return []
    version = upstream(found["packages"][program])
    branch = int(version.partition(".")[0])
    ours = driver(known, "distribution", branch, OPEN).packages[0] != program
    held = holdable(known, "repository" if ours else "distribution", [branch]) | parts(found, version)
    return sorted(held & set(found["held"]))
