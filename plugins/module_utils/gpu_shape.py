# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The shape of what is known about a host's GPUs. Memory is in MiB, power in watts, temperature in degrees Celsius; None is "not told"."""

from __future__ import annotations

import re
from typing import Any, Optional, TypedDict


class Ecc(TypedDict):
    """Error counters: volatile since the driver was loaded, aggregate over the card's life."""

    enabled: Optional[bool]
    volatile_corrected: Optional[int]
    volatile_uncorrected: Optional[int]
    aggregate_corrected: Optional[int]
    aggregate_uncorrected: Optional[int]


class Rows(TypedDict):
    """Rows of memory that were replaced (since Ampere). Pending: a reset makes it so. Failure: no spare row is left."""

    corrected: Optional[int]
    uncorrected: Optional[int]
    pending: Optional[bool]
    failure: Optional[bool]


class Pages(TypedDict):
    """Pages of memory that are not used any more (before Ampere)."""

    single_bit: Optional[int]
    double_bit: Optional[int]
    pending: Optional[bool]


class Mig(TypedDict):
    """Whether the card is divided, and into what."""

    enabled: Optional[bool]
    devices: list[dict[str, Any]]  # index, gpu_instance, compute_instance, memory_total


class Gpu(TypedDict):
    """One GPU, by the index that nvidia-smi gives it."""

    index: int
    uuid: Optional[str]
    serial: Optional[str]
    name: Optional[str]
    bus_id: Optional[str]  # as the kernel writes it: 0000:1b:00.0
    compute_capability: Optional[str]
    memory_total: Optional[int]
    memory_used: Optional[int]
    memory_free: Optional[int]
    ecc: Ecc
    remapped_rows: Rows
    retired_pages: Pages
    mig: Mig
    persistence: Optional[bool]
    power_draw: Optional[float]
    power_limit: Optional[float]
    temperature: Optional[int]
    processes: list[dict[str, Any]]  # pid, name, memory
    numa_node: Optional[int]


class Link(TypedDict):
    """How two GPUs reach one another: NV18, PIX, PXB, PHB, NODE or SYS; and what the driver says of reading: OK, CNS, GNS, TNS, NS ..."""

    gpus: list[int]
    link: Optional[str]
    p2p: Optional[str]


class Fault(TypedDict):
    """What is wrong. The kinds: driver, hung, xid, ecc, remap, retired. A GPU is None where the host is meant."""

    gpu: Optional[int]
    kind: str
    text: str
    reset: Optional[bool]  # whether only a reset, or a new card, ends it


def number(text: Optional[str]) -> Optional[int]:
    """Return 81559 for "81559 MiB", None for "N/A" and the like."""
    found = re.match(r"-?\d+", text.strip()) if text else None
    return int(found.group()) if found else None


def real(text: Optional[str]) -> Optional[float]:
    """Return 72.5 for "72.50 W"."""
    found = re.match(r"-?\d+(\.\d+)?", text.strip()) if text else None
    return float(found.group()) if found else None


def yes(text: Optional[str]) -> Optional[bool]:
    """Return what Enabled, Disabled, Yes and No mean; None for anything else."""
    return {"enabled": True, "yes": True, "disabled": False, "no": False}.get((text or "").strip().lower())


def told(text: Optional[str]) -> Optional[str]:
    """Return the text, None where it says that there is none."""
    text = (text or "").strip()
    return None if text in ("", "N/A", "[N/A]", "None", "Unknown Error", "[Unknown Error]", "GPU is lost") else text


def bus_id(text: Optional[str]) -> Optional[str]:
    """Return 0000:1b:00.0 for 00000000:1B:00.0, and for the PCI:0000:1b:00 of the kernel's log."""
    found = re.fullmatch(r"(?:pci:)?([0-9a-f]+):([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?", (text or "").strip().lower())
    return f"{int(found.group(1), 16):04x}:{found.group(2)}:{found.group(3)}.{found.group(4) or '0'}" if found else None
