# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which NVIDIA GPUs a host has, as its own driver tells. Runs on the host."""

from __future__ import annotations

import csv
import re
import subprocess
from typing import Any, Optional

FIELDS = ("index", "name", "memory.total", "compute_cap", "driver_version")  # of `nvidia-smi --help-query-gpu`
KERNEL_MODULE = "/proc/driver/nvidia/version"
SECONDS = 60  # without the persistence daemon, the first question loads the driver for each of eight GPUs


def look() -> dict[str, Any]:
    """Return driver ("580.95.05" or None), gpus (index, name, memory in bytes, compute_capability) and problem (text or None)."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except FileNotFoundError:
        return {"driver": _loaded_driver(), "gpus": [], "problem": "there is no nvidia-smi, so no NVIDIA driver"}
    except OSError as error:
        return {"driver": _loaded_driver(), "gpus": [], "problem": f"nvidia-smi cannot be run: {error.strerror}"}
    except subprocess.TimeoutExpired:
        return {"driver": _loaded_driver(), "gpus": [], "problem": f"nvidia-smi gave no answer in {SECONDS} s"}
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        return {"driver": _loaded_driver(), "gpus": [], "problem": f"nvidia-smi ended with {done.returncode}: {said}"}
    return parse(done.stdout)


def holders() -> list[dict[str, Any]]:
    """Return who has memory of a GPU: gpu (its number), pid, process, memory (bytes, or None). Nobody, where nvidia-smi does not tell."""
    numbers = {uuid: int(index) for index, uuid in _rows("--query-gpu=index,uuid") if index.isdigit()}
    found = []
    for uuid, pid, process, memory in _rows("--query-compute-apps=gpu_uuid,pid,process_name,used_memory") if numbers else ():
        if uuid in numbers and pid.isdigit():
            used = int(memory) << 20 if memory.isdigit() else None
            found.append({"gpu": numbers[uuid], "pid": int(pid), "process": process, "memory": used})
    return found


def _rows(query: str) -> list[list[str]]:
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS)
    except (OSError, subprocess.SubprocessError):
        return []
    wanted = query.count(",") + 1
    rows = [[field.strip() for field in row] for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True)]
    return [row for row in rows if len(row) == wanted]


def parse(text: str) -> dict[str, Any]:
    """Read what nvidia-smi printed for FIELDS; memory is in MiB there. A field that a GPU does not tell is None."""
    gpus, driver = [], None
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != len(FIELDS) or not row[0].isdigit():
            return {"driver": driver, "gpus": [], "problem": f"nvidia-smi printed what is no list of GPUs: {text.strip()[:200]}"}
        index, name, memory, capability, version = (field.strip() for field in row)
        driver = version if re.fullmatch(r"\d+(\.\d+)*", version) else None
        gpus.append(
            {
                "index": int(index),
                "name": name,
                "memory": int(memory) << 20 if memory.isdigit() else None,
                "compute_capability": capability if re.fullmatch(r"\d+\.\d+", capability) else None,
            }
        )
    return {"driver": driver, "gpus": gpus, "problem": None if gpus else "nvidia-smi lists no GPU"}


def _loaded_driver() -> Optional[str]:
    """Return the version of the kernel module that is loaded, None when none is."""
    try:
        with open(KERNEL_MODULE, encoding="ascii", errors="replace") as stream:
            found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d[\d.]+)", stream.read())
    except OSError:
        return None
    return found.group(1) if found else None
