# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the gate of GPUs asks of a release that is there: its own GPUs, flags and variables, not the inventory's. Runs on the host."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Optional

from .all_reduce import READ_BY_NCCL
from .tensor_parallel import NO_CUSTOM

GPUS, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
LEAST_SHARE = 0.9  # of memory, which each vLLM takes at the least where it is told nothing


def row(home: str, name: str, number: int) -> Optional[dict[str, Any]]:
    """Return a release as gpu_gate takes it; None for one that uses no GPU."""
    place = os.path.join(home, "releases", str(number))
    variables = _variables(_read(os.path.join(place, "variables.env")))
    if not re.fullmatch(r"\d+(,\d+)*", variables.get(GPUS, "")):
        return None
    gpus = [int(gpu) for gpu in variables[GPUS].split(",")]
    flags = dict(re.findall(r"(?m)^([a-z-]+): (\S+)$", _read(os.path.join(place, "config.yaml"))))
    ranks = int(flags.get("tensor-parallel-size", 1)) * int(flags.get("pipeline-parallel-size", 1))
    return {
        "name": name,
        "gpus": gpus,
        "group": len(gpus) if flags.get("enable-expert-parallel") == "true" else min(len(gpus), ranks),
        "share": float(flags.get("gpu-memory-utilization", LEAST_SHARE)),
        "environment": {key: value for key, value in variables.items() if key.startswith(READ_BY_NCCL) and key not in (GPUS, ORDER)},
        "args": {NO_CUSTOM: flags.get(NO_CUSTOM) == "true"},
        "python": os.path.join(place, "environment/bin/python"),
    }


def _variables(text: str) -> dict[str, str]:
    return {name: str(json.loads(value)) for name, value in re.findall(r'(?m)^(\w+)=("(?:[^"\\]|\\.)*"|[\d.]+)$', text)}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except OSError:
        return ""
