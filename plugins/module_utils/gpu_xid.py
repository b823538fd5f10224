# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""XIDs: what the NVIDIA driver writes to the kernel's log when a GPU or its user went wrong.

The meanings, entry by entry, are those of NVIDIA's catalogue for Ampere and newer GPUs (docs.nvidia.com/deploy/xid-errors, "Analyzing Xid
Errors with the Xid Catalog"); 61, which is used no more there, of its archive for older ones. A reset is named where the catalogue's first
action is RESET_GPU or RESTART_BM, or its text asks for one (48, 74); a program's own fault asks for none. What depends on more than the
number is left open (None): there, and in most other cases of a reset, XID 154 follows, and tells.
"""

from __future__ import annotations

import re
from typing import Any, Optional

from .gpu_shape import Gpu, bus_id

JOURNAL = ["journalctl", "-k", "-b", "-o", "short-monotonic", "--no-pager", "-q"]
RING = ["dmesg"]

MEANINGS: dict[int, tuple[str, Optional[bool]]] = {
    13: ("a program made the graphics engine fault", False),
    31: ("a program used memory that is not its own", False),
    32: ("the stream of commands was corrupt", False),
    43: ("a program's work was stopped; the GPU goes on", False),
    45: ("a program's work was cleaned up after another error", False),
    46: ("the GPU stopped processing", True),
    48: ("an error in memory that ECC cannot correct", True),
    61: ("the GPU's own controller stopped at a breakpoint", True),
    62: ("the GPU's own controller halted", True),
    63: ("a bad row or page of memory was noted, to be replaced at the next reset", False),
    64: ("a bad row or page of memory could not be noted", True),
    74: ("an NVLink failed", True),
    79: ("the GPU has fallen off the bus", True),
    92: ("many errors in memory that ECC corrects", False),
    94: ("an uncorrected error in memory, contained to one program", False),
    95: ("an uncorrected error in memory, not contained", True),
    109: ("changing to another program's work took too long", True),
    110: ("a security fault, mostly of the hardware", True),
    119: ("the GPU's system processor did not answer the driver", True),
    120: ("the GPU's system processor failed", True),
    121: ("errors on the link to the Grace CPU, corrected", False),
    136: ("the training of an NVLink failed", True),
    137: ("a program used memory over NVLink that is not its own", False),
    140: ("an uncorrected error in memory, not recovered", True),
    143: ("the GPU could not be initialised", True),
    **dict.fromkeys(range(144, 151), ("an error of NVLink 5", None)),
    155: ("an NVLink went down", True),
    156: ("a bad part of the GPU is to be put out of use", True),
    157: ("a bad part of the GPU could not be put out of use", False),
    158: ("the GPU did not answer in time", True),
    160: ("a bad channel of memory was put out of use", False),
    161: ("a bad channel of memory could not be put out of use", False),
    171: ("the error of XID 48 was in the GPU's DRAM", None),
    172: ("the error of XID 48 was in the GPU's SRAM", None),
}
RECOVERY = 154  # "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)": the line itself tells
LINE = re.compile(r"^\[\s*(\d+\.\d+)\]\s.*?NVRM: Xid \((PCI:[0-9A-Fa-f:.]+)(?: GPU-I:\d+)?(?: GPU-CI:\d+)?\): (\d+)(?:, *(.*))?$")


def read(log: str, gpus: list[Gpu]) -> list[dict[str, Any]]:
    """Return the XIDs of a kernel log: seconds since boot, bus_id, gpu (its index, if it is listed), xid, text, meaning, reset.

    ``reset`` is false where the driver said later that the GPU needs nothing any more. Of a part of a GPU (MIG) it is the GPU's.
    """
    indices = {gpu["bus_id"]: gpu["index"] for gpu in gpus}
    found: list[dict[str, Any]] = []
    for line in log.splitlines():
        match = LINE.match(line)
        if match:
            seconds, place, code, text = match.groups()
            where = bus_id(place)
            meaning, reset = _meaning(int(code), text or "")
            if int(code) == RECOVERY and reset is False:
                for earlier in found:
                    earlier["reset"] = earlier["reset"] and earlier["bus_id"] != where
            found.append(
                {
                    "seconds": float(seconds),
                    "bus_id": where,
                    "gpu": indices.get(where) if where else None,
                    "xid": int(code),
                    "text": (text or "").strip(),
                    "meaning": meaning,
                    "reset": reset,
                }
            )
    return found


def _meaning(code: int, text: str) -> tuple[Optional[str], Optional[bool]]:
    """Return what it means and whether the GPU needs a reset; None where that is not known."""
    if code == RECOVERY:
        action = re.search(r"\bto 0x[0-9a-fA-F]+ \(([^)]*)\)", text)
        wanted = action.group(1) if action else None
        return f"what the GPU needs: {wanted}" if wanted else "what the GPU needs has changed", wanted != "None" if wanted else None
    return MEANINGS.get(code, (None, None))
