# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the role cuda does on a server, or why not: from its variables and what was seen there. Runs on the controller, without Ansible."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from . import compatibility
from .cuda_packages import (
    ARCHITECTURES,
    DEB_ARCHITECTURES,
    FIRST_OPEN,
    LONG_TERM,
    NEWEST_CUDA,
    OPEN,
    OPEN_ALONE,
    PROPRIETARY,
    SYSTEMS,
    System,
    kinds,
    toolkit,
    toolkit_home,
)
from .cuda_packages import driver as driver_packages
from .driver_state import upstream
from .errors import Refused
from .own_tracks import known as known_tracks
from .own_tracks import lock_text
from .tracks import Track

MIB = 1 << 20
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
        self.branch = int(settings["branch"])
        self.ours = bool(seen["paths"][APT_FILE]["exists"])  # the role was here before, so what it holds is held by it

    def kind(self) -> str:
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
            return both[0]
        if wanted not in both:
            reason = (
                f"from branch {OPEN_ALONE} on there are none"
                if self.branch >= OPEN_ALONE and wanted == PROPRIETARY
                else "GPUs there take others"
            )
            raise Refused(where, f"is {wanted}, and for {self.name} {reason}.", f"Write cuda_driver_modules: {both[0]}.")
        return str(wanted)


def plan(settings: Mapping[str, Any], seen: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what is done on a server.

    ``settings`` are the role's variables without their prefix; ``seen`` is what ownmetal.codex.tree observed (system, driver, paths).
    The answer has ``refused`` (sentences), and where the system is known ``changes`` and ``notes`` (lines to read), ``work`` (whether
    packages are asked for), ``moves`` (whether the driver itself may change), and what the tasks do: repository, unfinished, pin, stream,
    packages, driver, hold, held_by_us, fabric_manager (a package, or empty), units, files, kind, installed, initramfs.
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
    _check_cuda(server)
    kind = server.kind()
    wanted = driver_packages(system, server.source, server.branch, kind)
    extent = settings["toolkit"]
    if extent == "auto":
        extent = "compiler" if settings["jit"] else "none"
    version = settings["toolkit_version"] or _toolkit_version(server.branch)
    now = next((seen["packages"][package] for package in wanted.packages[:1] if package in seen["packages"]), None)
    installed = upstream(now) if now else None
    _check_installed(server, installed)
    older = [one for one in seen["available"] if one.partition(".")[0] == str(server.branch) and _key(one) > _key(installed or "")]
    notes = []
    if installed and older and not server.upgrade:
        notes.append(f"driver {installed} stays; {older[0]} is there: write cuda_driver_upgrade: true to have it")
    extras = [*toolkit(system, server.source, extent, version)]
    extras += [f"datacenter-gpu-manager-4-cuda{version.partition('.')[0]}"] if settings["dcgm"] else []
    extras += ["nvidia-container-toolkit"] if settings["container_toolkit"] else []
    headers = [] if seen["headers"] else [_headers(server, system)]
    fabric = settings["fabric_manager"] if settings["fabric_manager"] != "auto" else seen["nvswitches"] > 0
    packages = [package for package in (*wanted.packages, *extras) if package not in seen["packages"]]
    moves = bool(server.upgrade or any(package in packages for package in wanted.packages))
    changes = [f"{package} is installed" for package in packages]
    if server.upgrade and installed and older:
        changes.append(f"driver {installed} becomes {older[0]}")
    return {
        "work": bool(packages) or server.upgrade or bool(seen["unfinished"]),
        "moves": moves,
        "changes": changes,
        "notes": notes,
        "repository": {
            "distribution": system.distribution, "architecture": ARCHITECTURES[machine], "deb": DEB_ARCHITECTURES[machine],
            "manager": system.manager, "ours": server.source == "repository", "there": "cuda-keyring" in seen["packages"],
        },
        "unfinished": seen["unfinished"],
        "pin": wanted.pin if moves else "",
        "stream": wanted.stream if moves else "",
        "packages": [*(wanted.packages if moves else ()), *extras, *(headers if moves else [])],
        "driver": list(wanted.packages),
        "hold": [package for package in wanted.packages if package not in seen["held"]],
        "held_by_us": [package for package in wanted.packages if package in seen["held"]],
        "fabric_manager": wanted.fabric_manager if fabric else "",
        "units": [*([] if system.manager == "none" else ["nvidia-persistenced"]), *(["nvidia-fabricmanager"] if fabric else []),
                  *(["nvidia-dcgm"] if settings["dcgm"] else [])],
        "files": [path for path in (APT_FILE, NOUVEAU_FILE, NVCC_FILE) if system.manager == "apt" or path != APT_FILE],
        "kind": kind,
        "installed": installed,
        "initramfs": seen["initramfs"]["program"] or "",
    }  # fmt: skip


def _headers(server: _Server, system: System) -> str:
    return f"linux-headers-{server.seen['kernel']}" if system.manager == "apt" else f"kernel-devel-{server.seen['kernel']}"


def _toolkit_version(branch: int) -> str:
    """Return the newest CUDA that a branch runs without compatibility packages."""
    return NEWEST_CUDA[max((known for known in NEWEST_CUDA if known <= branch), default=min(NEWEST_CUDA))]


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _check_cuda(server: _Server) -> None:
    """Raise Refused for a branch that is too old for the CUDA of a track."""
    for track, cuda in server.settings["tracks"].items():
        least = compatibility.driver_floor(cuda)
        if least and server.branch < least:
            why = f"is {server.branch}, and the track {track} of {server.name} brings CUDA {cuda}, which needs {least} or newer."
            raise Refused("cuda_driver_branch", why, f'Write cuda_driver_branch: "{max(least, LONG_TERM)}", or another vllm_track.')


def _check_installed(server: _Server, installed: Optional[str]) -> None:
    """Raise Refused for a driver that is there and is not this role's to change."""
    seen = server.seen
    if seen["runfile"] and not installed:
        why = f"{server.name} has a driver that NVIDIA's .run file installed."
        raise Refused(
            "cuda_driver_source", why, "Run nvidia-uninstall there and the playbook again, or write cuda_driver_source: none to keep it."
        )
    if not installed or server.source == "distribution":
        return
    branch = _key(installed)[0]
    if branch > server.branch:
        why = f"is {server.branch}, and {server.name} has the newer {installed}: a driver is never taken back."
        raise Refused("cuda_driver_branch", why, f'Write cuda_driver_branch: "{branch}".')
    if branch < server.branch and not server.upgrade:
        why = f"is {server.branch}, and {server.name} has {installed}."
        instead = f'Write cuda_driver_upgrade: true to change it (a reboot follows), or cuda_driver_branch: "{branch}" to keep it.'
        raise Refused("cuda_driver_branch", why, instead)


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
    strange = [name for name in others if name not in found["driver"] or not server.ours]
    if strange:
        why = f"{', '.join(strange)} of {server.name} is held at its version by somebody else, so the driver cannot change."
        yield Refused("cuda_driver_upgrade", why, f"Let it go there (apt-mark unhold {' '.join(strange)}), or leave the driver as it is.")


def reboot_reasons(seen: Mapping[str, Any], planned: Mapping[str, Any]) -> list[str]:
    """Return why a server has to boot before its GPUs can be used as they should be; nothing, where all is well."""
    found = seen["driver"]["nvidia"]
    package = planned["driver"][0]
    installed = upstream(found["packages"][package]) if package in found["packages"] else None
    if installed is None:
        return []
    if found["nouveau"]:
        return [f"nouveau drives the GPUs until then, and {installed} cannot"]
    if found["loaded"] is None:
        return []
    if found["loaded"]["version"] != installed:
        return [f"the driver {found['loaded']['version']} is loaded, and {installed} is installed"]
    if found["loaded"]["open"] != (planned["kind"] == OPEN):
        return [f"the other kind of kernel modules is loaded, and {planned['kind']} ones are installed"]
    return []


def newest_keyring(index: str) -> str:
    """Return the newest version of the package with the repository's key, by the repository's own index (Packages)."""
    found = re.findall(r"(?m)^Package: cuda-keyring\n(?:.+\n)*?Version: (\S+)", index)
    if not found:
        raise Refused(
            "cuda_repository", "signs with a key that its cuda-keyring does not have, and lists no other.", "Tell its maintainer."
        )
    return str(max(found, key=lambda version: [int(part) for part in re.findall(r"\d+", version)]))


def wants(track: str, own: Any, lists: Sequence[Any]) -> dict[str, Any]:
    """Return whether a server computes on GPUs (gpu), the CUDA of each of its tracks (tracks), and whether a track compiles kernels (jit).

    ``track`` is vllm_track, ``own`` vllm_tracks, ``lists`` the three lists of instances. A track that is chosen by the driver is for GPUs,
    and compiles: every one of that kind does. What is wrong in the lists is the role vllm's to refuse.
    """
    known = known_tracks(own)
    entries = [entry for rows in lists if isinstance(rows, Sequence) for entry in rows if isinstance(entry, Mapping)]
    names = {str(entry.get("track") or track) for entry in entries if entry.get("state") != "absent"} or {track}
    found = [known[name] for name in sorted(names) if name in known and known[name].device != "cpu"]
    open_choice = any(name not in known for name in names)
    cuda = {one.name: release.cuda for one in found if (release := compatibility.release(one.vllm)) and release.cuda}
    return {"gpu": bool(found) or open_choice, "tracks": cuda, "jit": open_choice or any(_compiles(one) for one in found)}


def _compiles(track: Track) -> bool:
    """Tell whether a track compiles kernels as it runs: FlashInfer does, unless the package with all of them is there."""
    lock = lock_text(track)
    return bool(re.search(r"(?m)^flashinfer-python==", lock)) and not re.search(r"(?m)^flashinfer-jit-cache==", lock)


def files(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the role's own files on any system, as entries for ownmetal.codex.tree.

    A plan's ``files`` says which of them a server gets.
    """
    extent = settings["toolkit"] if settings["toolkit"] != "auto" else ("compiler" if settings["jit"] else "none")
    version = settings["toolkit_version"] or _toolkit_version(int(settings["branch"]))
    found: list[dict[str, Any]] = [
        {"dest": APT_FILE, "template": "etc/apt/apt.conf.d/51ownmetal-cuda.j2"},
        {"dest": NOUVEAU_FILE, "template": "etc/modprobe.d/ownmetal-nouveau.conf.j2"},
    ]
    if extent != "none" and settings["source"] == "repository":
        home = {"home": toolkit_home(settings["source"], version)}
        found.append({"dest": NVCC_FILE, "template": "usr/local/bin/nvcc.j2", "vars": home, "mode": "0755"})
    return found
