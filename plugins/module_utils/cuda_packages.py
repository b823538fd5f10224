# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a driver and a toolkit are called in each system's packages, and which GPUs take which kernel modules.

Sources: NVIDIA's Driver Installation Guide and CUDA Installation Guide for Linux (2026), its Fabric Manager User Guide and DCGM's
installation page, Debian's and Ubuntu's package lists, the PCI ID Repository, the list of GPUs of NVIDIA's open kernel modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Optional

LONG_TERM = 580
OPEN_ALONE = 620  # from this branch on there are no proprietary modules
FIRST_OPEN = 515  # the first whose open modules are for data-centre GPUs
NEWEST_CUDA = {535: "12.2", 550: "12.4", 570: "12.8", 575: "12.9", 580: "13.0", 590: "13.1", 595: "13.2"}
ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}
DEB_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OPEN, PROPRIETARY = "open", "proprietary"
DISTRIBUTION_BRANCH = {"debian12": 535, "debian13": 550}  # the one that each release of Debian has
SUBNET_MANAGER = "nvlsm"  # beside the fabric manager, where the switches are of NVLink 5
CONTAINERS = "nvidia-container-toolkit"
PROGRAM = re.compile(r"nvidia-(driver-cuda|smi|utils(-\d+)?(-server)?)")  # whoever packs a driver packs its program in one of these


@dataclass(frozen=True)
class System:
    """An operating system that the role knows; ``distribution`` is its name in NVIDIA's repositories."""

    name: str
    distribution: str
    manager: str


SYSTEMS: Mapping[tuple[str, str], System] = {
    ("debian", "12"): System("Debian 12", "debian12", "apt"),
    ("debian", "13"): System("Debian 13", "debian13", "apt"),
    ("ubuntu", "22.04"): System("Ubuntu 22.04", "ubuntu2204", "apt"),
    ("ubuntu", "24.04"): System("Ubuntu 24.04", "ubuntu2404", "apt"),
    **{
        (name, version): System(f"{title} {version}", f"rhel{version}", "dnf")
        for name, title in (("rhel", "RHEL"), ("rocky", "Rocky Linux"), ("almalinux", "AlmaLinux"))
        for version in ("9", "10")
    },
}


@dataclass(frozen=True)
class Driver:
    """What a driver without a display is made of.

    ``packages``: the program's first, the kernel modules' second; ``pin``: a package that keeps the branch, installed before them;
    ``stream``: dnf's module stream that does.
    """

    packages: tuple[str, ...]
    pin: str = ""
    stream: str = ""
    fabric_manager: str = "nvidia-fabricmanager"


def driver(system: System, source: str, branch: int, kind: str) -> Driver:
    """Return the packages of a driver for a system, from ``source`` (repository or distribution)."""
    is_open = kind == OPEN
    if source == "distribution":
        if system.name.startswith("Ubuntu"):  # for servers, with modules that the distribution signs and builds
            ending = "-open" if is_open else ""
            names = (f"nvidia-utils-{branch}-server", f"nvidia-headless-{branch}-server{ending}")
            return Driver(names, fabric_manager=f"nvidia-fabricmanager-{branch}")
        modules = "nvidia-open-kernel-dkms" if is_open else "nvidia-kernel-dkms"
        return Driver(("nvidia-smi", modules, "libcuda1", "nvidia-persistenced"))
    if system.manager == "dnf":
        modules = "kmod-nvidia-open-dkms" if is_open else "kmod-nvidia-latest-dkms"
        stream = f"nvidia-driver:{branch}-{'open' if is_open else 'dkms'}" if system.distribution == "rhel9" else ""
        manager = "nvidia-fabricmanager" if branch >= LONG_TERM else "nvidia-fabric-manager"
        return Driver(("nvidia-driver-cuda", modules), stream=stream, fabric_manager=manager)
    pin, manager = f"nvidia-driver-pinning-{branch}", "nvidia-fabricmanager" if branch >= LONG_TERM else f"nvidia-fabricmanager-{branch}"
    if system.name.startswith("Debian"):
        return Driver(("nvidia-driver-cuda", "nvidia-kernel-open-dkms" if is_open else "nvidia-kernel-dkms"), pin, fabric_manager=manager)
    if branch >= 590:
        return Driver(("nvidia-utils", "nvidia-dkms-open" if is_open else "nvidia-dkms", "libnvidia-compute"), pin, fabric_manager=manager)
    return Driver((f"nvidia-utils-{branch}", f"nvidia-headless-{branch}{'-open' if is_open else ''}"), pin, fabric_manager=manager)


def holdable(system: System, source: str, branches: Iterable[int]) -> set[str]:
    """Return what the role may have held of these branches, of either kind of kernel modules."""
    made = [driver(system, source, branch, kind) for branch in branches for kind in (OPEN, PROPRIETARY)]
    return {name for one in made for name in (*one.packages, one.fabric_manager)}


def dcgm(branch: int) -> str:
    """Return the package of Data Center GPU Manager: it follows the driver's own CUDA, whatever toolkit is there."""
    return f"datacenter-gpu-manager-4-cuda{newest_cuda(branch).partition('.')[0]}"


def newest_cuda(branch: int) -> str:
    """Return the newest CUDA that a branch runs without compatibility packages."""
    return NEWEST_CUDA[max((known for known in NEWEST_CUDA if known <= branch), default=min(NEWEST_CUDA))]


def toolkit(system: System, source: str, extent: str, version: str) -> tuple[str, ...]:
    """Return the packages of a toolkit, ``extent``: none, compiler or full; ``version``: "13.0"."""
    if extent == "none":
        return ()
    if source == "distribution":
        return ("nvidia-cuda-toolkit",)
    dashed = version.replace(".", "-")
    return (f"cuda-nvcc-{dashed}",) if extent == "compiler" else (f"cuda-toolkit-{dashed}",)


def toolkit_home(source: str, version: str) -> str:
    """Return the directory whose ``bin/nvcc`` is meant."""
    return "/usr" if source == "distribution" else f"/usr/local/cuda-{version}"


def kinds(device: str) -> Optional[tuple[str, ...]]:
    """Return which kernel modules drive a GPU, by its PCI device number ("26b9"); None for a number that is not known.

    Up to Volta (0x1dff) there are proprietary ones alone, from Blackwell (0x2900) on open ones alone.
    """
    try:
        number = int(device, 16)
    except ValueError:
        return None
    if number < 0x1340 or number > 0x3FFF:
        return None
    if number < 0x1E00:
        return (PROPRIETARY,)
    return (OPEN,) if number >= 0x2900 else (OPEN, PROPRIETARY)
