# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""All that is known about a host's GPUs, read in one go and never changed. What is not told is None, and `missing` says why."""

from __future__ import annotations

import re
import subprocess
from typing import Any, Callable, Optional

from . import gpu_nvml, gpu_pci, gpu_smi, gpu_xid
from .gpu_ask import Answer, ask
from .gpu_shape import Fault, Gpu, Link

SECONDS = 30
MISMATCH = "Driver/library version mismatch"

Ask = Callable[[list[str], float], Answer]


class Reader:
    """Asks each program once, and keeps why one gave no answer."""

    def __init__(self, run: Ask, seconds: float) -> None:
        """Take what runs a program, and how long each may take."""
        self.run, self.seconds = run, seconds
        self.missing: dict[str, str] = {}
        self.faults: list[Fault] = []
        self.dead = False  # after a driver that does not answer once, nobody is kept waiting again

    def read(self, what: str, command: list[str]) -> Optional[str]:
        """Return what a program printed, None (and the reason in missing) where it failed."""
        if command[0] == "nvidia-smi" and self.dead:
            self.missing[what] = self.missing["gpus"]
            return None
        why = self._failure(command)
        if isinstance(why, Answer):
            return why.text
        self.missing[what] = why
        return None

    def _failure(self, command: list[str]) -> Any:
        name = command[0]
        try:
            answer = self.run(command, self.seconds)
        except FileNotFoundError:
            return f"there is no {name}"
        except OSError as error:
            return f"{name} cannot be run: {error.strerror}"
        except subprocess.TimeoutExpired:
            why = f"{name} did not answer in {self.seconds:g} s"
            if name == "nvidia-smi":
                self.dead = True
                self.faults.append({"gpu": None, "kind": "hung", "text": why, "reset": True})
            return why
        return answer if answer.code == 0 else f"{name} ended with {answer.code}: {' '.join(answer.text.split())[:500]}"


def collect(root: str = "/", run: Ask = ask, nvml: Any = None, seconds: float = SECONDS) -> dict[str, Any]:
    """Return the host's GPUs. See the module gpu_info for the keys."""
    reader = Reader(run, seconds)
    pci = gpu_pci.look(root, reader.missing)
    loaded = _loaded(root)
    source, (driver, cuda, gpus) = _gpus(reader, nvml, [device["bus_id"] for device in pci["devices"]])
    nodes = {device["bus_id"]: device["numa_node"] for device in pci["devices"]}
    for gpu in gpus:
        gpu["numa_node"] = nodes.get(gpu["bus_id"] or "")
    _say_what_is_missing(reader, gpus)
    links = _links(reader, gpus)
    xids = _xids(reader, gpus)
    faults = (
        reader.faults
        + _driver_faults(reader, pci, gpus)
        + [fault for gpu in gpus for fault in _memory_faults(gpu)]
        + _xid_faults(xids, gpus)
    )
    return {
        "source": source,
        "driver": driver or loaded,
        "cuda": cuda,
        "gpus": gpus,
        "links": links,
        "pci": pci["devices"],
        "nvswitches": pci["nvswitches"],
        "iommu": pci["iommu"],
        "xids": xids,
        "faults": faults,
        "missing": reader.missing,
    }


def _one_by_one(reader: Reader, places: list[str]) -> tuple[Optional[str], Optional[str], list[Gpu]]:
    """Ask each GPU by itself, where one that is lost hinders the others."""
    driver, cuda = None, None
    found = []
    for place in places:
        text = reader.read(place, gpu_smi.only(gpu_smi.QUERY, place))
        told = (reader.read(place, gpu_smi.only(gpu_smi.INDEX, place)) or "") if text else ""
        index, _, capability = told.strip().partition(",")
        try:
            driver, cuda, cards = gpu_smi.gpus(text, alone=True) if text else (driver, cuda, [])
        except gpu_smi.Unreadable as error:
            reader.missing[place], cards = str(error), []
        if cards and index.isdigit():
            card = cards[0]
            card["index"], card["compute_capability"] = int(index), gpu_smi.capabilities(capability).get(card["uuid"] or "")
            found.append(card)
    return driver, cuda, found


def _gpus(reader: Reader, nvml: Any, places: list[str]) -> tuple[Optional[str], tuple[Optional[str], Optional[str], list[Gpu]]]:
    if nvml is not None:
        try:
            return "nvml", gpu_nvml.gpus(nvml)
        except nvml.NVMLError as error:
            reader.missing["nvml"] = f"NVML does not start: {error}"
    else:
        reader.missing["nvml"] = "the Python that runs the module has no nvidia-ml-py; nvidia-smi was asked"
    text = reader.read("gpus", gpu_smi.QUERY)
    if text is None and gpu_smi.LOST.search(reader.missing["gpus"]):
        return "nvidia-smi", _one_by_one(reader, places)
    if text is None:
        return None, (None, None, [])
    try:
        driver, cuda, gpus = gpu_smi.gpus(text)
    except gpu_smi.Unreadable as error:
        reader.missing["gpus"] = str(error)
        reader.faults.append({"gpu": None, "kind": "driver", "text": str(error), "reset": None})
        return None, (None, None, [])
    if not gpus:
        reader.missing["gpus"] = "nvidia-smi lists no GPU"
    told = gpu_smi.capabilities(reader.read("compute_capability", gpu_smi.CAPABILITIES) or "") if gpus else {}
    for gpu in gpus:
        gpu["compute_capability"] = told.get(gpu["uuid"] or "")
    if gpus and not all(gpu["compute_capability"] for gpu in gpus):
        reader.missing.setdefault("compute_capability", "nvidia-smi does not tell it of each GPU")
    return "nvidia-smi", (driver, cuda, gpus)


def _say_what_is_missing(reader: Reader, gpus: list[Gpu]) -> None:
    """Keep a reason for each value that some GPU does not have."""
    for key in gpus[0] if gpus else ():
        values = {gpu["index"]: dict(gpu)[key] for gpu in gpus}
        lacking = [index for index, value in values.items() if value is None or (isinstance(value, dict) and None in value.values())]
        if lacking:
            source = "the kernel does not tell it" if key == "numa_node" else "the driver has no such value, or not all of it"
            reader.missing.setdefault(key, f"GPU {' '.join(map(str, lacking))}: {source}")


def _links(reader: Reader, gpus: list[Gpu]) -> list[Link]:
    if len(gpus) < 2:
        reader.missing["links"] = "there are no two GPUs"
        return []
    ways = gpu_smi.matrix(reader.read("links", gpu_smi.TOPOLOGY) or "")
    access = gpu_smi.matrix(reader.read("p2p", gpu_smi.P2P) or "")
    pairs = [(one["index"], other["index"]) for one in gpus for other in gpus if one["index"] < other["index"]]
    for what, found in (("links", ways), ("p2p", access)):
        if not all(pair in found for pair in pairs):
            reader.missing.setdefault(what, "nvidia-smi topo does not tell it of each pair")
    return [{"gpus": list(pair), "link": ways.get(pair), "p2p": _worse(access.get(pair), access.get(pair[::-1]))} for pair in pairs]


def _worse(there: Optional[str], back: Optional[str]) -> Optional[str]:
    """Return what is said of both ways: OK only where both are."""
    return back if there == "OK" else there


def _xids(reader: Reader, gpus: list[Gpu]) -> Optional[list[dict[str, Any]]]:
    log = reader.read("journal", gpu_xid.JOURNAL)
    if not log:  # no journal, or one that this user may not read
        log = reader.read("xids", gpu_xid.RING)
    if not log:
        reader.missing.setdefault("xids", "the kernel's log is empty for this user: become root")
        return None
    return gpu_xid.read(log, gpus)


def _loaded(root: str) -> Optional[str]:
    try:
        with open(f"{root.rstrip('/')}/proc/driver/nvidia/version", encoding="ascii", errors="replace") as stream:
            found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d[\d.]+)", stream.read())
    except OSError:
        return None
    return found.group(1) if found else None


def _driver_faults(reader: Reader, pci: dict[str, Any], gpus: list[Gpu]) -> list[Fault]:
    why = reader.missing.get("gpus", "")
    if MISMATCH in why:
        text = f"the loaded kernel module and the installed libraries are of different versions ({why}): reboot, or reload the module"
        return [{"gpu": None, "kind": "driver", "text": text, "reset": True}]
    listed = {gpu["bus_id"] for gpu in gpus}
    lost = [device["bus_id"] for device in pci["devices"] if device["bus_id"] not in listed]
    if reader.faults or not lost or (gpus and not all(listed)):
        return []
    why = why or "nvidia-smi does not list it"
    return [
        {"gpu": None, "kind": "driver", "text": f"the GPU at {place} is not served by a driver: {why}", "reset": None} for place in lost
    ]


def _memory_faults(gpu: Gpu) -> list[Fault]:
    name = _name(gpu)
    errors, rows, pages = gpu["ecc"]["volatile_uncorrected"], gpu["remapped_rows"], gpu["retired_pages"]
    found = []
    if errors:
        found.append(("ecc", f"{name}: {errors} errors in memory that ECC could not correct, since the driver was loaded"))
    if rows["pending"]:
        found.append(("remap", f"{name}: a row of memory waits to be replaced: reset the GPU"))
    if rows["failure"]:
        found.append(("remap", f"{name}: a row of memory could not be replaced: the card has to be"))
    if pages["pending"]:
        found.append(("retired", f"{name}: a page of memory waits to be retired: reset the GPU"))
    return [{"gpu": gpu["index"], "kind": kind, "text": text, "reset": True} for kind, text in found]


def _xid_faults(xids: Optional[list[dict[str, Any]]], gpus: list[Gpu]) -> list[Fault]:
    names = {gpu["index"]: _name(gpu) for gpu in gpus}
    return [
        {
            "gpu": one["gpu"],
            "kind": "xid",
            "text": f"{names.get(one['gpu'], one['bus_id'])}: XID {one['xid']}: {one['meaning']}",
            "reset": True,
        }
        for one in xids or []
        if one["reset"]
    ]


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu['index']} (serial {gpu['serial'] or 'not told'})"
