# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What sysfs tells about GPUs: the PCI devices, their NUMA nodes, and what turns their traffic aside (IOMMU, ACS)."""

from __future__ import annotations

import os
import re
import struct
from typing import Any, Optional

NVIDIA = 0x10DE
DISPLAYS = (0x0300, 0x0302)  # VGA and 3D controllers; a card's sound and USB functions are others
SWITCH = 0x0680  # a bridge of no other class: an NVSwitch
ACS = 0x000D
REDIRECT = 0b1100  # request redirect and completion redirect: peer traffic goes up to the root complex
ADDRESS = re.compile(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def look(root: str, missing: dict[str, str]) -> dict[str, Any]:
    """Return devices (NVIDIA's GPUs), nvswitches (how many) and iommu (enabled, or None)."""
    folder = os.path.join(root, "sys/bus/pci/devices")
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        missing["pci"] = f"{folder} cannot be read: {error.strerror}"
        return {"devices": [], "nvswitches": None, "iommu": None}
    devices, switches = [], 0
    for name in names:
        path = os.path.join(folder, name)
        if _hex(path, "vendor") != NVIDIA:
            continue
        kind = (_hex(path, "class") or 0) >> 8
        switches += kind == SWITCH
        if kind in DISPLAYS:
            devices.append(_device(root, path, name, missing))
    return {"devices": devices, "nvswitches": switches, "iommu": _iommu(root, missing)}


def _device(root: str, path: str, name: str, missing: dict[str, str]) -> dict[str, Any]:
    node = _text(path, "numa_node")
    group = (
        os.path.basename(os.path.realpath(os.path.join(path, "iommu_group"))) if os.path.islink(os.path.join(path, "iommu_group")) else None
    )
    driver = os.path.join(path, "driver")
    return {
        "bus_id": name,
        "device": f"{_hex(path, 'device') or 0:04x}",
        "driver": os.path.basename(os.path.realpath(driver)) if os.path.islink(driver) else None,
        "numa_node": int(node) if node and node.isdigit() else None,  # -1 is "not told"
        "iommu_group": int(group) if group and group.isdigit() else None,
        "iommu_type": _text(os.path.join(root, "sys/kernel/iommu_groups", group), "type") if group else None,
        "acs_redirects": _redirects(path, missing),
    }


def _redirects(path: str, missing: dict[str, str]) -> Optional[list[str]]:
    """Return the bridges above a device that redirect peer traffic. None where one of them cannot be read to its end."""
    bridges = [part for part in os.path.realpath(path).split(os.sep)[:-1] if ADDRESS.fullmatch(part)]
    found, place = [], os.path.realpath(path)
    for bridge in reversed(bridges):
        place = os.path.dirname(place)
        try:
            with open(os.path.join(place, "config"), "rb") as stream:
                control = acs_control(stream.read(4096))
        except (OSError, ValueError) as error:
            missing["acs"] = f"the configuration of {bridge} cannot be read: {error}"
            return None
        if control is not None and control & REDIRECT:
            found.append(bridge)
    return sorted(found)


def acs_control(config: bytes) -> Optional[int]:
    """Return the ACS control word of a PCI device's configuration, None where it has none."""
    if len(config) <= 64:
        raise ValueError("only its first 64 bytes are shown (root sees the rest)")
    offset, seen = 0x100, set()
    while offset and offset not in seen and offset + 8 <= len(config):
        seen.add(offset)
        head, _, control = struct.unpack_from("<IHH", config, offset)
        if head in (0, 0xFFFFFFFF):
            return None
        if head & 0xFFFF == ACS:
            return int(control)
        offset = head >> 20
    return None


def _iommu(root: str, missing: dict[str, str]) -> Optional[bool]:
    try:
        return bool(os.listdir(os.path.join(root, "sys/class/iommu")))
    except FileNotFoundError:
        missing["iommu"] = "the kernel has no /sys/class/iommu"
    except OSError as error:
        missing["iommu"] = f"/sys/class/iommu cannot be read: {error.strerror}"
    return None


def _text(path: str, name: str) -> Optional[str]:
    try:
        with open(os.path.join(path, name), encoding="ascii", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return None


def _hex(path: str, name: str) -> Optional[int]:
    try:
        return int(_text(path, name) or "", 16)
    except ValueError:
        return None
