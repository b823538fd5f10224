# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role cuda does on a server, or why not: from its variables and what was seen there. Runs on the controller, without Ansible."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Optional

from . import compatibility
from .cuda_after import parts
from .cuda_packages import (
    ARCHITECTURES,
    CONTAINERS,
    DEB_ARCHITECTURES,
    DISTRIBUTION_BRANCH,
    FIRST_OPEN,
    LONG_TERM,
    OPEN,
    OPEN_ALONE,
    PROGRAM,
    PROPRIETARY,
    SUBNET_MANAGER,
    SYSTEMS,
    Driver,
    System,
    dcgm,
    holdable,
    kinds,
    newest_cuda,
    toolkit,
    toolkit_home,
)
from .cuda_packages import driver as driver_packages
from .driver_state import OURS, upstream
from .errors import Refused

MIB = 1 << 20
SOURCES = ("repository", "distribution")
BRANCH, CUDA = re.compile(r"\d{3}"), re.compile(r"\d{2}\.\d")
BOOT_ROOM = 64 * MIB  # for an initramfs of a size that is not known yet
DRIVER_NAMES = ("nvidia-", "libnvidia-", "libcuda1", "firmware-nvidia", "kmod-nvidia", "cuda-drivers")
APT_FILE, NOUVEAU_FILE, NVCC_FILE = "/etc/apt/apt.conf.d/51ownmetal-cuda", "/etc/modprobe.d/ownmetal-nouveau.conf", "/usr/local/bin/nvcc"
NOT_DRIVER = ("nvidia-container", "libnvidia-container", "nvidia-cuda-toolkit", "nvidia-cuda-dev", "nvidia-driver-pinning")


class _Server:
    """One server's variables and what was seen on it."""

    def __init__(self, settings: Mapping[str, Any], seen: Mapping[str, Any], name: str) -> None:
        self.settings, self.name = settings, name
        self.seen, self.system = seen["driver"]["nvidia"], seen["system"]
        self.source: str = settings["source"]
        self.upgrade: bool = settings["upgrade"]
        version = self.system["version"]
        major = version if self.system["name"] in ("debian", "ubuntu") else version.partition(".")[0]
        self.known: Optional[System] = SYSTEMS.get((self.system["name"], major))
        self.branch = int(settings["branch"]) if BRANCH.fullmatch(settings["branch"]) else 0
        if self.known and self.source == "distribution":  # Debian has one; cuda_driver_branch chooses among Ubuntu's and NVIDIA's
            self.branch = DISTRIBUTION_BRANCH.get(self.known.distribution, self.branch)
        self.ours = bool(seen["paths"][NOUVEAU_FILE]["exists"])  # the role was here before, so what it holds is held by it

    def there(self, package: str) -> bool:
        """Tell whether a package is installed, or was about to be when a run ended."""
        return package in self.seen["packages"] or package in self.seen["unfinished"]

    def installed(self) -> Optional[tuple[str, str]]:
        """Return the package with the driver's program, whoever packed it, and the driver's version."""
        found = next(filter(PROGRAM.fullmatch, self.seen["packages"]), None)
        return (found, upstream(self.seen["packages"][found])) if found else None

    def kind(self, system: System) -> str:
        """Return the kernel modules' kind, and raise Refused for one that cannot drive these GPUs."""
        wanted, where = self.settings["modules"], "cuda_driver_modules"
        able = [found for found in map(kinds, self.seen["gpus"]) if found]
        both = [kind for kind in (OPEN, PROPRIETARY) if all(kind in found for found in able)]
        if self.branch >= OPEN_ALONE:
            both = [kind for kind in both if kind == OPEN]
        if self.branch < FIRST_OPEN:
            both = [kind for kind in both if kind == PROPRIETARY]
        if not both:
            why = f"no kind of kernel modules of branch {self.branch} drives all GPUs of {self.name} ({', '.join(self.seen['gpus'])})."
            raise Refused(where, why, f'Write cuda_driver_branch: "{LONG_TERM}", or leave the older GPUs out of the machine.')
        if wanted == "auto":
            modules = {kind: driver_packages(system, self.source, self.branch, kind).packages[1] for kind in both}
            return next((kind for kind in both if self.there(modules[kind])), both[0])
        if wanted not in both:
            why = (
                f"is {wanted}, and branch {self.branch} has open modules alone."
                if self.branch >= OPEN_ALONE and wanted == PROPRIETARY
                else f"is {wanted}, and such modules do not drive all GPUs of {self.name} ({', '.join(self.seen['gpus'])})."
            )
            raise Refused(where, why, f"Write cuda_driver_modules: {both[0]}.")
        return str(wanted)


def plan(settings: Mapping[str, Any], seen: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what is done on a server.

    ``settings`` are the role's variables without their prefix; ``seen`` is what ownmetal.codex.tree observed (system, driver, paths).
    The answer has ``refused`` (sentences), and where the system is known ``changes`` and ``notes`` (lines to read), ``work`` (whether
    packages are asked for), ``moves`` (whether the driver itself may change), and what the tasks do: repository, unfinished, pin, stream,
    packages, driver, hold, held_by_us, gone (of those, what the new driver has no place for), fabric_manager (a package, or empty), units,
    files, kind, installed, initramfs.
    """
    server = _Server(settings, seen, name)
    try:
        found = _steps(server)
    except Refused as refused:
        return {"refused": [str(refused)], "changes": [], "notes": []}
    refusals = [str(refused) for refused in _obstacles(server, found)] if found["work"] else []
    return {"refused": refusals, **found}


def _steps(server: _Server) -> dict[str, Any]:
    seen, settings, system = server.seen, server.settings, server.known
    if system is None:
        asked = f"{server.system['name']} {server.system['version']}"
        titles = ", ".join(dict.fromkeys(one.name for one in SYSTEMS.values()))
        raise Refused(
            "cuda_driver_source", f"{server.name} runs {asked}, for which no driver is known.", f"Known are {titles}. Or write none."
        )
    machine = server.system["machine"]
    if machine not in ARCHITECTURES:
        raise Refused(
            "cuda_driver_source", f"{server.name} is a {machine} machine; drivers are for {' and '.join(ARCHITECTURES)}.", "Write none."
        )
    if not seen["gpus"]:
        why = f"no NVIDIA GPU is on the PCI bus of {server.name}."
        raise Refused(
            "cuda_driver_source", why, "Write cuda_driver_source: none for it, or vllm_track: cpu-py311 to try vLLM without a GPU."
        )
    _check_written(server, system)
    _check_cuda(server)
    kind = server.kind(system)
    wanted = driver_packages(system, server.source, server.branch, kind)
    version = settings["toolkit_version"] or newest_cuda(server.branch)
    found = server.installed()
    installed = found[1] if found else None
    _check_installed(server, found)
    _check_parts(server, found, wanted)
    older = [one for one in seen["available"] if one.partition(".")[0] == str(server.branch) and _key(one) > _key(installed or "")]
    fabric = settings["fabric_manager"] if settings["fabric_manager"] != "auto" else seen["nvswitches"] + seen["nvlink_bridges"] > 0
    extras = _extras(server, system, version, fabric)
    packages = [package for package in (*wanted.packages, *extras) if package not in seen["packages"]]
    moves = bool(server.upgrade or any(package in packages for package in wanted.packages))
    apart = fabric and (not installed or upstream(seen["packages"].get(wanted.fabric_manager, "")) != installed)
    changes = [f"{package} is installed" for package in packages]
    if server.upgrade and installed and older:
        changes.append(f"driver {installed} becomes {older[0]}")
    elif server.upgrade and installed and server.source == "repository" and _key(installed)[0] != server.branch:
        changes.append(f"driver {installed} becomes one of branch {server.branch}")
    if apart:
        changes.append(f"{wanted.fabric_manager} of the driver's own version is installed")
    return {
        "work": bool(packages) or server.upgrade or any(map(OURS.match, seen["unfinished"])) or apart,
        "moves": moves,
        "changes": changes,
        "notes": [
            f"driver {installed} stays; {older[0]} is there: write cuda_driver_upgrade: true to have it"
        ] if installed and older and not server.upgrade else [],
        "repository": {
            "distribution": system.distribution, "architecture": ARCHITECTURES[machine], "deb": DEB_ARCHITECTURES[machine],
            "manager": system.manager, "ours": server.source == "repository", "there": "cuda-keyring" in seen["packages"],
        },
        "containers": CONTAINERS in packages,
        "unfinished": seen["unfinished"],
        "pin": wanted.pin if moves else "",
        "stream": wanted.stream if moves and wanted.stream != seen["stream"] else "",
        "packages": [*(wanted.packages if moves else ()), *extras, *(_headers(server, system) if moves else [])],
        "driver": list(wanted.packages),
        "hold": [package for package in wanted.packages if package not in seen["held"]],
        "held_by_us": sorted(set(seen["held"]) & _ours(server, installed)),
        "gone": sorted((set(seen["held"]) & _ours(server, installed)) - {*wanted.packages, wanted.fabric_manager}),
        "fabric_manager": wanted.fabric_manager if fabric else "",
        "units": ["nvidia-persistenced", *(["nvidia-fabricmanager"] if fabric else []), *(["nvidia-dcgm"] if settings["dcgm"] else [])],
        "files": [path for path in (APT_FILE, NOUVEAU_FILE, NVCC_FILE) if system.manager == "apt" or path != APT_FILE],
        "kind": kind,
        "installed": installed,
        "initramfs": seen["initramfs"]["program"] or "",
    }  # fmt: skip


def _extras(server: _Server, system: System, version: str, fabric: bool) -> list[str]:
    """Return what is asked for beside the driver, but for the fabric manager, whose version is not known before the driver is there."""
    settings = server.settings
    extent = settings["toolkit"] if settings["toolkit"] != "auto" else ("compiler" if settings["jit"] else "none")
    return [
        *toolkit(system, server.source, extent, version),
        *([dcgm(server.branch)] if settings["dcgm"] else []),
        *([CONTAINERS] if settings["container_toolkit"] else []),
        *([SUBNET_MANAGER] if fabric and server.seen["nvlink_bridges"] else []),
    ]


def _headers(server: _Server, system: System) -> list[str]:
    """Return what modules are built with, for the running kernel, and for each that comes after it: or it would boot without a driver."""
    now = [] if server.seen["headers"] else [f"{'linux-headers' if system.manager == 'apt' else 'kernel-devel'}-{server.seen['kernel']}"]
    later = [name.replace("-image-", "-headers-", 1) for name in server.seen["kernels"]]
    return [*now, *(name for name in later if name not in server.seen["packages"])]


def _ours(server: _Server, installed: Optional[str]) -> set[str]:
    """Return what the role holds, where it was here before: the driver's parts, also those of the branch and kind that are there now."""
    if server.known is None or not server.ours:
        return set()
    branches = {server.branch, _key(installed)[0]} if installed else {server.branch}
    # what the driver of another source was held by goes with it
    sources = [one for one in SOURCES if one == server.source or any(map(server.there, _programs(server.known, one, branches)))]
    return {name for one in sources for name in holdable(server.known, one, branches)} | parts(server.seen, installed or "")


def _programs(system: System, source: str, branches: Collection[int]) -> set[str]:
    return {driver_packages(system, source, branch, OPEN).packages[0] for branch in branches}


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _check_written(server: _Server, system: System) -> None:
    """Raise Refused for values that are no branch or version, and for a source that a system does not have."""
    branch, version = server.settings["branch"], server.settings["toolkit_version"]
    if not server.branch:
        raise Refused("cuda_driver_branch", f"is {branch!r}, and a branch is three digits.", f'Write cuda_driver_branch: "{LONG_TERM}".')
    if version and not CUDA.fullmatch(version):
        raise Refused("cuda_toolkit_version", f"is {version!r}, and a version is such as 13.0.", 'Write cuda_toolkit_version: "13.0".')
    least = compatibility.driver_floor(version) if version else 0
    if least and server.branch < least and server.settings["toolkit"] != "none":
        why = f"is {version}, whose programs need a driver of {least} or newer, and the branch for {server.name} is {server.branch}."
        instead = f'Write cuda_toolkit_version: "{newest_cuda(server.branch)}", or cuda_driver_branch: "{max(least, LONG_TERM)}".'
        raise Refused("cuda_toolkit_version", why, instead)
    if server.settings["fabric_manager"] not in ("auto", True, False):
        why = f"is {server.settings['fabric_manager']!r}, and it is auto, true or false."
        raise Refused("cuda_fabric_manager", why, "Write cuda_fabric_manager: auto.")
    if server.source == "distribution" and system.manager == "dnf":
        raise Refused("cuda_driver_source", f"is distribution, and {system.name} has no driver of its own.", "Write repository, or none.")


def _check_cuda(server: _Server) -> None:
    """Raise Refused for a branch that is too old for the CUDA of a track."""
    for track, cuda in server.settings["tracks"].items():
        least = compatibility.driver_floor(cuda)
        if least and server.branch < least:
            brings = f"the track {track} of {server.name} brings CUDA {cuda}, which needs {least} or newer."
            if server.known and server.source == "distribution" and server.known.distribution in DISTRIBUTION_BRANCH:
                why = f"is distribution, whose driver on {server.known.name} is of branch {server.branch}, and {brings}"
                raise Refused("cuda_driver_source", why, "Write cuda_driver_source: repository, or another vllm_track.")
            why = f"is {server.branch}, and {brings}"
            raise Refused("cuda_driver_branch", why, f'Write cuda_driver_branch: "{max(least, LONG_TERM)}", or another vllm_track.')


def _check_installed(server: _Server, found: Optional[tuple[str, str]]) -> None:
    """Raise Refused for a driver that is there and is not this role's to change."""
    seen = server.seen
    if not found:
        if seen["runfile"]:
            why, away = f"{server.name} has a driver that NVIDIA's .run file installed.", "Run nvidia-uninstall there"
        elif seen["loaded"]:
            why, away = f"{server.name} has the driver {seen['loaded']['version']} loaded, which no package brought.", "Take it away there"
        else:
            return
        raise Refused(
            "cuda_driver_source", why, f"{away}, boot it, and run the playbook again; or write cuda_driver_source: none to keep it."
        )
    installed = found[1]
    branch = _key(installed)[0]
    if server.source == "distribution" and server.system["name"] == "debian":  # its branch is the distribution's
        return
    if branch > server.branch:
        why = f"is {server.branch}, and {server.name} has the newer {installed}: a driver is never taken back."
        raise Refused("cuda_driver_branch", why, f'Write cuda_driver_branch: "{branch}".')
    if branch < server.branch and not server.upgrade:
        why = f"is {server.branch}, and {server.name} has {installed}."
        instead = f'Write cuda_driver_upgrade: true to change it (a reboot follows), or cuda_driver_branch: "{branch}" to keep it.'
        raise Refused("cuda_driver_branch", why, instead)


def _check_parts(server: _Server, found: Optional[tuple[str, str]], wanted: Driver) -> None:
    """Raise Refused where a driver is there, and another one, or other modules, would take its place without leave."""
    missing = [package for package in wanted.packages if not server.there(package)]
    if found and server.source == "distribution" and found[0] != wanted.packages[0]:  # apt prefers the newer ones of the repository
        why = f"is distribution, and {server.name} has the driver {found[1]} in other packages ({found[0]}), which these do not replace."
        away = f"Take that away (playbooks/uninstall.yml --limit {server.name} -e cuda_uninstall_packages=true) and run the playbook again"
        raise Refused("cuda_driver_source", why, f"{away}, or write repository, or none to keep it.")
    if not found or not missing or server.upgrade:
        return
    program, installed = found
    instead = "Write cuda_driver_upgrade: true to change it (a reboot follows), or"
    if program != wanted.packages[0]:
        why = f"is {server.source}, and {server.name} has the driver {installed} in other packages ({program})."
        raise Refused("cuda_driver_source", why, f"{instead} cuda_driver_source: none to keep it.")
    why = f"{server.name} has the driver {installed} without {' '.join(missing)}."
    raise Refused("cuda_driver_modules", why, f"{instead} the kind of modules that is there to keep it.")


def _obstacles(server: _Server, found: Mapping[str, Any]) -> Iterator[Refused]:
    """Find what stands in the way of a change of the driver, before it."""
    seen = server.seen
    if not found["moves"]:
        return
    if seen["secure_boot"] and not seen["enrolled"] and not (found["installed"] and seen["loaded"]):
        why = (
            f"{server.name} boots with Secure Boot, which loads no module whose key its firmware does not know, "
            "and DKMS signs with a key of its own."
        )
        instead = (
            "There: apt-get install dkms (dnf install dkms), dkms generate_mok, mokutil --import /var/lib/dkms/mok.pub; reboot, "
            "and enrol the key at the console; then run the playbook again. Or turn Secure Boot off."
        )
        yield Refused("cuda_driver_source", why, instead)
    if seen["initramfs"]["program"]:
        need = max(2 * seen["initramfs"]["size"], BOOT_ROOM)
        if seen["boot_free"] < need:
            why = f"/boot of {server.name} has {seen['boot_free'] // MIB} MiB free, and a new initramfs takes up to {need // MIB} MiB."
            yield Refused(
                "cuda_driver_source", why, "Remove kernels that nobody boots (apt-get autoremove --purge, dnf remove --oldinstallonly)."
            )
    others = [name for name in seen["held"] if name.startswith(DRIVER_NAMES) and not name.startswith(NOT_DRIVER)]
    strange = [name for name in others if name not in found["held_by_us"]]
    if strange:
        why = f"{', '.join(strange)} of {server.name} is held at its version by somebody else, so the driver cannot change."
        free = "apt-mark unhold" if seen["manager"] == "apt" else "dnf versionlock delete"
        yield Refused("cuda_driver_upgrade", why, f"Let it go there ({free} {' '.join(strange)}), or leave the driver as it is.")


def files(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the role's own files on any system, as entries for ownmetal.codex.tree.

    A plan's ``files`` says which of them a server gets.
    """
    extent = settings["toolkit"] if settings["toolkit"] != "auto" else ("compiler" if settings["jit"] else "none")
    version = settings["toolkit_version"] or newest_cuda(int(settings["branch"]))
    found: list[dict[str, Any]] = [
        {"dest": APT_FILE, "template": "etc/apt/apt.conf.d/51ownmetal-cuda.j2"},
        {"dest": NOUVEAU_FILE, "template": "etc/modprobe.d/ownmetal-nouveau.conf.j2"},
    ]
    if extent != "none" and settings["source"] == "repository":
        home = {"home": toolkit_home(settings["source"], version)}
        found.append({"dest": NVCC_FILE, "template": "usr/local/bin/nvcc.j2", "vars": home, "mode": "0755"})
    return found
