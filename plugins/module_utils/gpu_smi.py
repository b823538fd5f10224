# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What nvidia-smi prints: its XML, its lists and its two matrices."""

from __future__ import annotations

import csv
import re
from typing import Any, Optional
from xml.etree import ElementTree as Tree

from .gpu_shape import Gpu, bus_id, number, real, told, yes

QUERY = ["nvidia-smi", "-q", "-x"]
CAPABILITIES = ["nvidia-smi", "--query-gpu=uuid,compute_cap", "--format=csv,noheader"]  # the XML does not tell it
# one that is lost makes nvidia-smi say nothing of any, but for those that are asked for by themselves
LOST = re.compile(r"Unable to determine the device handle|GPU is lost|Unknown Error")
INDEX = ["nvidia-smi", "--query-gpu=index,uuid,compute_cap", "--format=csv,noheader"]
TOPOLOGY = ["nvidia-smi", "topo", "-m"]
P2P = ["nvidia-smi", "topo", "-p2p", "r"]
LARGEST = 16 << 20  # eight GPUs with all their clocks are 0.3 MiB


class Unreadable(ValueError):
    """What was printed is not what nvidia-smi prints."""


def only(command: list[str], place: str) -> list[str]:
    """Return a question for one GPU alone, by its address on the PCI bus."""
    return [*command, "-i", place]


def gpus(text: str, alone: bool = False) -> tuple[Optional[str], Optional[str], list[Gpu]]:
    """Return driver, CUDA version and GPUs of `nvidia-smi -q -x`; ``alone``: one was asked for, and all are counted."""
    if len(text) > LARGEST:
        raise Unreadable(f"nvidia-smi -q -x printed {len(text)} characters, more than any host's GPUs need")
    if "<!ENTITY" in text:  # its document type is a name alone; an entity could be one that grows without end
        raise Unreadable("nvidia-smi -q -x printed an entity declaration: this is not nvidia-smi's XML")
    try:
        root = Tree.fromstring(text)  # noqa: S314 - neither large nor with entities, as asked above
    except Tree.ParseError as error:
        where = "is cut off" if "</nvidia_smi_log>" not in text else "is malformed"
        raise Unreadable(f"the XML of nvidia-smi -q -x {where}: {error}") from None
    if root.tag != "nvidia_smi_log":
        raise Unreadable(f"nvidia-smi -q -x printed <{root.tag}>, not <nvidia_smi_log>")
    found = [_gpu(index, node) for index, node in enumerate(root.findall("gpu"))]
    attached = number(root.findtext("attached_gpus"))
    if attached is not None and attached != len(found) and not (alone and len(found) == 1):
        raise Unreadable(f"nvidia-smi -q -x speaks of {attached} GPUs and describes {len(found)}")
    return told(root.findtext("driver_version")), told(root.findtext("cuda_version")), found


def _gpu(index: int, node: Tree.Element) -> Gpu:
    text = node.findtext
    power = "gpu_power_readings" if node.find("gpu_power_readings") is not None else "power_readings"  # older than R530
    return {
        "index": index,
        "uuid": told(text("uuid")),
        "serial": told(text("serial")),
        "name": told(text("product_name")),
        "bus_id": bus_id(text("pci/pci_bus_id") or node.get("id")),
        "compute_capability": None,
        "memory_total": number(text("fb_memory_usage/total")),
        "memory_used": number(text("fb_memory_usage/used")),
        "memory_free": number(text("fb_memory_usage/free")),
        "ecc": {
            "enabled": yes(text("ecc_mode/current_ecc")),
            "volatile_corrected": _errors(node, "volatile", False),
            "volatile_uncorrected": _errors(node, "volatile", True),
            "aggregate_corrected": _errors(node, "aggregate", False),
            "aggregate_uncorrected": _errors(node, "aggregate", True),
        },
        "remapped_rows": {
            "corrected": number(text("remapped_rows/remapped_row_corr")),
            "uncorrected": number(text("remapped_rows/remapped_row_unc")),
            "pending": yes(text("remapped_rows/remapped_row_pending")),
            "failure": yes(text("remapped_rows/remapped_row_failure")),
        },
        "retired_pages": {
            "single_bit": number(text("retired_pages/multiple_single_bit_retirement/retired_count")),
            "double_bit": number(text("retired_pages/double_bit_retirement/retired_count")),
            "pending": yes(text("retired_pages/pending_retirement")),
        },
        "mig": {"enabled": yes(text("mig_mode/current_mig")), "devices": [_slice(one) for one in node.findall("mig_devices/mig_device")]},
        "persistence": yes(text("persistence_mode")),
        "power_draw": real(text(f"{power}/power_draw") or text(f"{power}/instant_power_draw")),
        "power_limit": real(text(f"{power}/current_power_limit") or text(f"{power}/power_limit")),
        "temperature": number(text("temperature/gpu_temp")),
        "processes": [_process(one) for one in node.findall("processes/process_info")],
        "numa_node": None,
    }


def _errors(node: Tree.Element, since: str, uncorrected: bool) -> Optional[int]:
    """Add up the counters, which have other names on each generation of cards. None where the card has none."""
    counters = node.find(f"ecc_errors/{since}")
    if counters is None:
        return None
    old = counters.findtext(f"{'double_bit' if uncorrected else 'single_bit'}/total")
    if old is not None:
        return number(old)
    word = "_uncorrectable" if uncorrected else "_correctable"
    known = [value for one in counters if word in one.tag for value in [number(one.text)] if value is not None]
    return sum(known) if known else None


def _slice(node: Tree.Element) -> dict[str, Any]:
    return {
        "index": number(node.findtext("index")),
        "gpu_instance": number(node.findtext("gpu_instance_id")),
        "compute_instance": number(node.findtext("compute_instance_id")),
        "memory_total": number(node.findtext("fb_memory_usage/total")),
    }


def _process(node: Tree.Element) -> dict[str, Any]:
    return {
        "pid": number(node.findtext("pid")),
        "name": told(node.findtext("process_name")),
        "memory": number(node.findtext("used_memory")),
    }


def capabilities(text: str) -> dict[str, str]:
    """Return the compute capability of each UUID."""
    rows = [[field.strip() for field in row] for row in csv.reader(text.splitlines())]
    return {row[0]: row[1] for row in rows if len(row) == 2 and re.fullmatch(r"\d+\.\d+", row[1])}


def matrix(text: str) -> dict[tuple[int, int], str]:
    """Return what a matrix of `nvidia-smi topo` says of each pair of GPUs. Its other columns, such as NIC0, are passed over."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)  # its header is underlined, terminal or not
    heads: list[str] = []
    found = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] != [] and re.fullmatch(r"GPU\d+", words[0]):
            if not heads or (len(words) > 1 and re.fullmatch(r"GPU\d+", words[1])):
                heads = words
                continue
            for head, word in zip(heads, words[1:]):
                if re.fullmatch(r"GPU\d+", head) and head != words[0]:
                    found[int(words[0][3:]), int(head[3:])] = word
        elif heads and words[:1] == ["Legend:"]:
            break
    return found
