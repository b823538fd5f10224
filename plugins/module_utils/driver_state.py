# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a server has of NVIDIA: devices, driver, packages, and what stands in the way of a driver. Runs on the host, changes nothing.

Places are the kernel's own: Documentation/ABI/testing/sysfs-bus-pci, Documentation/filesystems/proc.rst, efivarfs.
Python 3.9, standard library alone.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import subprocess
from typing import Any, Optional

NVIDIA, MELLANOX = "0x10de", "0x15b3"
OURS = re.compile(
    r"(lib)?(nvidia|cuda)|libcuda|libxnvctrl|firmware-nvidia|xserver-xorg-video-nvidia|datacenter-gpu-manager|kmod-nvidia|nvlsm$|dkms$"
)
KERNELS = re.compile(r"linux-image-(?!\d|unsigned-)(?!.*-dbg$)")  # the packages that bring each new kernel
SECURE_BOOT = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
KEYS = ("var/lib/dkms/mok.pub", "var/lib/shim-signed/mok/MOK.der")  # of DKMS, on Debian and on Ubuntu
VERSION = re.compile(r"NVRM version: .*?(Open )?Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s")


def look(root: str = "/") -> dict[str, Any]:
    """Return what the role cuda decides by; ``root`` is where the host's file system is.

    kernel (a release), headers (whether modules can be built for it), kernels (packages that bring each new one), gpus (PCI device numbers,
    hexadecimal), nvswitches (how many), nvlink_bridges (how many; what a host sees of the switches of NVLink 5),
    loaded (version and open, or None), nouveau, secure_boot, enrolled (the owner's key), boot_free (bytes of /boot), initramfs (program,
    made: epoch seconds, size: bytes), manager (apt, dnf or None), packages (name: version), held and unfinished (names), available
    (upstream versions of the driver in apt's lists, newest first), stream (dnf's, that is enabled), runfile, toolkits ("13.0").
    """
    kernel = platform.release()
    packages = _packages(root)
    devices = [_device(path) for path in sorted(glob.glob(os.path.join(root, "sys/bus/pci/devices/*")))]
    nvidia = [(kind, device) for vendor, kind, device in devices if vendor == NVIDIA]
    return {
        "kernel": kernel,
        "headers": os.path.exists(os.path.join(root, f"lib/modules/{kernel}/build")) or f"linux-headers-{kernel}" in packages["packages"],
        "gpus": [device for kind, device in nvidia if kind.startswith("0x03")],
        "nvswitches": sum(kind.startswith("0x0680") for kind, _ in nvidia),
        "nvlink_bridges": _bridges(root) if nvidia else 0,
        "loaded": _loaded(root),
        "nouveau": os.path.isdir(os.path.join(root, "sys/module/nouveau")),
        "secure_boot": _read_bytes(os.path.join(root, SECURE_BOOT))[4:5] == b"\x01",
        "enrolled": _enrolled(root),
        "boot_free": shutil.disk_usage(os.path.join(root, "boot")).free if os.path.isdir(os.path.join(root, "boot")) else 0,
        "initramfs": _initramfs(root, kernel),
        **packages,
        "runfile": os.path.exists(os.path.join(root, "usr/bin/nvidia-uninstall")),
        "toolkits": sorted(
            path.rpartition("cuda-")[2].partition("/")[0] for path in glob.glob(os.path.join(root, "usr/local/cuda-*.*/bin/nvcc"))
        ),
    }


def _device(path: str) -> tuple[str, str, str]:
    vendor, kind, device = (_read(os.path.join(path, name)).strip() for name in ("vendor", "class", "device"))
    return vendor, kind, device[2:]


def _bridges(root: str) -> int:
    """Count the InfiniBand functions that manage switches of NVLink 5, by what NVIDIA's own start script goes by: their product data."""
    found = 0
    for path in glob.glob(os.path.join(root, "sys/bus/pci/devices/*")):
        vendor, kind, _ = _device(path)
        if vendor == MELLANOX and kind.startswith("0x0207"):
            found += b"SW_MNG" in _read_bytes(os.path.join(path, "vpd"))
    return found


def _loaded(root: str) -> Optional[dict[str, Any]]:
    found = VERSION.search(_read(os.path.join(root, "proc/driver/nvidia/version")))
    return {"version": found.group(2), "open": bool(found.group(1))} if found else None


def _enrolled(root: str) -> bool:
    """Tell whether the firmware takes modules that are signed with this host's own key; no answer counts as no."""
    for key in (os.path.join(root, name) for name in KEYS):
        if os.path.exists(key) and "is already enrolled" in _run("mokutil", "--test-key", key):
            return True
    return False


def _initramfs(root: str, kernel: str) -> dict[str, Any]:
    program = next((name for name in ("update-initramfs", "dracut") if shutil.which(name)), None)
    paths = [os.path.join(root, f"boot/{name}") for name in (f"initrd.img-{kernel}", f"initramfs-{kernel}.img")]
    seen = [os.stat(path) for path in paths if os.path.exists(path)]
    return {"program": program, "made": seen[0].st_mtime if seen else 0.0, "size": seen[0].st_size if seen else 0}


def _packages(root: str) -> dict[str, Any]:
    if os.path.exists(os.path.join(root, "var/lib/dpkg/status")):
        return _debian()
    if shutil.which("dnf"):
        return _red_hat()
    return {"manager": None, "packages": {}, "held": [], "unfinished": [], "available": [], "kernels": [], "stream": ""}


def _debian() -> dict[str, Any]:
    packages, held, unfinished = {}, [], []
    shown = "${Package} ${db:Status-Want} ${db:Status-Status} ${Version}\\n"
    for line in _run("dpkg-query", "--show", "--showformat", shown).splitlines():
        name, want, status, *version = line.split(" ")
        if want == "hold":
            held.append(name)
        if status in ("installed", "triggers-awaited", "triggers-pending"):
            packages[name] = version[0]
        elif status not in ("not-installed", "config-files"):
            unfinished.append(name)
    ours = {name: version for name, version in packages.items() if OURS.match(name) or name.startswith("linux-headers-")}
    rows = [line.split("|")[1].strip() for line in _run("apt-cache", "madison", "nvidia-driver-cuda").splitlines() if line.count("|") == 2]
    return {
        "manager": "apt",
        "packages": ours,
        "held": sorted(held),
        "unfinished": unfinished,
        "available": [upstream(row) for row in rows],
        "kernels": sorted(filter(KERNELS.match, packages)),
        "stream": "",
    }


def _red_hat() -> dict[str, Any]:
    lines = _run("rpm", "-qa", "--queryformat", "%{NAME} %{VERSION}-%{RELEASE}\\n").splitlines()
    packages = dict(line.split(" ", 1) for line in lines if " " in line)
    locks = re.findall(r"^(?!!)(?:\d+:)?([\w.+-]+?)-(?:\d+:)?\d", _read("/etc/dnf/plugins/versionlock.list"), re.M)
    headers = {f"linux-headers-{version}.{platform.machine()}": version for name, version in packages.items() if name == "kernel-devel"}
    ours = {name: version for name, version in packages.items() if OURS.match(name)}
    module = dict(line.split("=", 1) for line in _read("/etc/dnf/modules.d/nvidia-driver.module").splitlines() if "=" in line)
    return {
        "manager": "dnf",
        "packages": {**ours, **headers},
        "held": sorted(set(locks)),
        "unfinished": [],
        "available": [],
        "kernels": [],
        "stream": f"nvidia-driver:{module['stream']}" if module.get("state") == "enabled" else "",
    }


def upstream(version: str) -> str:
    """Return a package's version without epoch and revision: "580.126.20" of "1:580.126.20-1"."""
    return version.rpartition(":")[2].partition("-")[0]


def _run(*words: str) -> str:
    try:
        environment = {**os.environ, "LC_ALL": "C"}
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _read(path: str) -> str:
    return _read_bytes(path).decode(errors="replace")


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError:
        return b""
