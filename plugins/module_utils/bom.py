# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A bill of materials of an environment: CycloneDX 1.6, made of what the installed packages say and what the lock allows.

The same environment gives the same bytes: there is no time in it, and its serial number follows from its name.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from importlib import metadata
from typing import Any

NAME = "bom.cdx.json"
SPACE = uuid.UUID("6f1c7d0e-2f0b-5a53-9a6d-0d5b8f6f2c11")  # of serial numbers of this collection's bills
LONG = 100  # characters: what is longer is a license's text and not its name


def bill(record: Mapping[str, Any], site: str) -> dict[str, Any]:
    """Return the bill of an environment: ``record`` names it, ``site`` is its site-packages directory."""
    hashes = lock_hashes(record["lock"])
    components = [_component(found, hashes) for found in metadata.distributions(path=[site])]
    root = {"type": "application", "bom-ref": record["id"], "name": record["id"], "version": record["vllm"]}
    serial = uuid.uuid5(SPACE, record["id"])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": root},
        "components": sorted(components, key=lambda one: str(one["bom-ref"])),
    }


def text(found: Mapping[str, Any]) -> str:
    """Return the file's content."""
    return json.dumps(found, indent=1, sort_keys=True) + "\n"


def normal(name: str) -> str:
    """Return a package's name as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def lock_hashes(lock: str) -> dict[str, list[str]]:
    """Return package -> the SHA-256 digests that the lock allows for its wheels."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in lock.splitlines():
        if begun := re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[^]]*\])?\s*==", line):
            name = normal(begun[1])
        if name and not line.lstrip().startswith("#"):
            found.setdefault(name, []).extend(re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


def _component(found: metadata.Distribution, hashes: Mapping[str, list[str]]) -> dict[str, Any]:
    fields = found.metadata
    name, version = fields["Name"], fields["Version"]
    package = normal(name)
    purl = f"pkg:pypi/{package}@{version.replace('+', '%2B')}"
    component: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    allowed = hashes.get(package, [])
    if len(allowed) == 1:
        component["hashes"] = [{"alg": "SHA-256", "content": allowed[0]}]
    elif allowed:  # one of them: the installer compared the wheel with all, and keeps no word of which
        component["properties"] = [{"name": "ownmetal:lock:sha256", "value": digest} for digest in allowed]
    if licenses := _licenses(fields):
        component["licenses"] = licenses
    return component


def _licenses(fields: Any) -> list[dict[str, Any]]:
    if expression := fields["License-Expression"]:
        return [{"expression": expression}]
    classifiers = [value.split(" :: ")[-1] for value in fields.get_all("Classifier") or [] if value.startswith("License :: ")]
    names = [name for name in classifiers if name != "OSI Approved"]
    written = " ".join((fields["License"] or "").split())
    if not names and written and written != "UNKNOWN" and len(written) <= LONG:
        names = [written]
    return [{"license": {"name": name}} for name in sorted(set(names))]
