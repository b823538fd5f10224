# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a role wants to know of a host before it decides: paths, users, packages, systemd units, ports, space, the system."""

from __future__ import annotations

import glob
import ipaddress
import os
import platform
import pwd
import shutil
import ssl
import stat
import subprocess
import time
from collections.abc import Iterable
from typing import Any, Callable, Optional

from . import driver_state, environment_manifest, gpus, releases
from .model_folder import read_folder
from .tree import expand, read_state

UNIT_PROPERTIES = (
    "LoadState", "ActiveState", "SubState", "UnitFileState", "NeedDaemonReload", "Result", "StatusText",
    "MainPID", "ActiveEnterTimestampMonotonic",
)  # fmt: skip
LISTEN = "0A"  # the state TCP_LISTEN in /proc/net/tcp


def observe(wanted: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Return what is asked for.

    ``wanted`` has lists under any of paths (with * in the last part the names that match), users, packages, units, ports, free_space,
    models (folders), releases (instances' directories; with * all that are there), environments (paths: whether each is there and whole;
    one that runs for every instance of ``releases`` that links to it is taken for whole), gpus, driver (makers: "nvidia"),
    certificates (files: why one is none, '' where it is), tables (nftables', "inet NAME": whether the kernel has it);
    the answer has a dict under each of them, keyed by the thing asked for (ports as text), and always ``system``: name
    ("debian"), version ("12"), machine ("x86_64"), glibc ("2.36"), memory (bytes), cpus (how many).
    """
    looks: dict[str, Callable[[list[Any]], dict[str, Any]]] = {
        "paths": _paths,
        "users": _users,
        "packages": _packages,
        "units": _units,
        "ports": _ports,
        "free_space": _free_space,
        "models": lambda folders: {folder: read_folder(folder) for folder in folders},
        "releases": lambda homes: {home: releases.read(home) for home in _homes(homes)},
        "environments": lambda paths: _environments(paths, _homes(wanted.get("releases") or [])),
        "gpus": lambda makers: {maker: {**gpus.look(), "holders": _gpu_holders()} for maker in makers},
    }
    looks["driver"] = lambda makers: {maker: driver_state.look() for maker in makers}
    looks["certificates"] = lambda paths: {path: _certificates(path) for path in paths}
    looks["tables"] = lambda names: {name: _has_table(name) for name in names}
    found = {kind: look(wanted.get(kind) or []) for kind, look in looks.items()}
    return {**found, "system": _system()}


def _system() -> dict[str, Any]:
    release = dict(line.split("=", 1) for line in _read("/etc/os-release").splitlines() if "=" in line)
    name, version = (release.get(key, "").strip("\"'") for key in ("ID", "VERSION_ID"))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = {"name": name, "version": version, "machine": platform.machine(), "glibc": _glibc(), "memory": memory}
    return {**found, "cpus": os.sysconf("SC_NPROCESSORS_CONF")}


def _glibc() -> str:
    """Return the C library's version; empty where it is another one."""
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except ValueError:  # musl knows no such name
        return ""
    return version if library == "glibc" else ""


def _packages(names: list[str]) -> dict[str, bool]:
    """Whether each distribution package is installed (dpkg's word for it)."""
    if not names or not shutil.which("dpkg-query"):
        return dict.fromkeys(names, False)
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\\n", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # exit 1: one of them is unknown
    installed = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return {name: name in installed for name in names}


def _paths(paths: Iterable[str]) -> dict[str, Any]:
    return {path: _matches(expand(path)) if "*" in path else read_state(expand(path)) for path in paths}


def _matches(pattern: str) -> dict[str, Any]:
    """Return exists, and the names of what matches the last part of a path."""
    folder, name = os.path.split(pattern)
    found = sorted(os.path.basename(path) for path in glob.glob(os.path.join(glob.escape(folder), name)))
    return {"exists": bool(found), "matches": found}


def _homes(patterns: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(home for one in patterns for home in (glob.glob(one) if "*" in one else [one])))


def _environments(paths: Iterable[str], homes: list[str]) -> dict[str, bool]:
    """Whether each environment can be used. To look at all its files takes a second, which a run that finds all well is spared."""
    users: dict[str, list[str]] = {}
    for home in homes:
        users.setdefault(os.path.realpath(f"{home}/current/environment"), []).append(f"vllm@{os.path.basename(home)}.service")
    found = {}
    for path in paths:
        units = _units(users.get(os.path.realpath(path), []))
        runs = bool(units) and all(unit["ActiveState"] == "active" for unit in units.values())
        found[path] = os.path.isdir(path) and (runs or not environment_manifest.damage(path))
    return found


def _certificates(path: str) -> str:
    """Return why a file is none of certificates that everyone may read, '' where it is one."""
    try:
        info = os.stat(path)
        with open(path, "rb") as stream:
            text = stream.read()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(path)
    except ssl.SSLError:  # an OSError too
        return "has a private key" if b"PRIVATE KEY-----" in text else "has no certificate as PEM text"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if b"PRIVATE KEY-----" in text:
        return "has a private key"
    if info.st_uid == 0 and not info.st_mode & stat.S_IROTH:
        return f"can be read by root alone (mode {stat.S_IMODE(info.st_mode):04o})"
    return ""


def _users(names: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        try:
            record = pwd.getpwnam(name)
        except KeyError:
            found[name] = {"exists": False}
        else:
            found[name] = {"exists": True, "uid": record.pw_uid, "gid": record.pw_gid, "home": record.pw_dir}
    return found


def _units(names: list[str]) -> dict[str, Any]:
    """Properties of units (UNIT_PROPERTIES) as systemd prints them; a unit it does not know is LoadState=not-found."""
    if not names:
        return {}
    command = ["systemctl", "show", "--property", ",".join(("Id", *UNIT_PROPERTIES)), "--", *names]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in out.strip().split("\n\n")]
    units = dict(zip(names, blocks))
    return {name: {**unit, "started": _started(unit["MainPID"])} for name, unit in units.items()}


def _started(pid: str) -> Optional[float]:
    """When a process started, in epoch seconds; None when there is none. Field 22 of stat in proc(5)."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if pid == "0" or not fields:
        return None
    # not btime of /proc/stat, which is in whole seconds
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _free_space(paths: Iterable[str]) -> dict[str, int]:
    """Free bytes where each path is, or where it would be made."""
    found = {}
    for path in paths:
        place = expand(path)
        while not os.path.exists(place) and place != "/":
            place = os.path.dirname(place) or "/"
        found[path] = shutil.disk_usage(place).free
    return found


def _ports(ports: Iterable[int]) -> dict[str, list[dict[str, Any]]]:
    """Who listens on each TCP port: address, and pid, process and unit where they can be seen."""
    wanted = {int(port) for port in ports}
    if not wanted:
        return {}
    listeners = [row for row in _listening() if row["port"] in wanted]
    owners = _socket_owners({row["inode"] for row in listeners}) if listeners else {}
    found: dict[str, list[dict[str, Any]]] = {str(port): [] for port in wanted}
    for row in listeners:
        found[str(row["port"])].append({"address": row["address"], **owners.get(row["inode"], {})})
    return found


def _listening() -> Iterable[dict[str, Any]]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table, encoding="ascii") as stream:
                rows = stream.read().splitlines()[1:]
        except FileNotFoundError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == LISTEN:
                address, port = fields[1].split(":")
                yield {"address": decode_address(address), "port": int(port, 16), "inode": fields[9]}


def decode_address(text: str) -> str:
    """Turn /proc/net/tcp's hexadecimal address (each 32-bit word little-endian) into the usual notation."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _socket_owners(inodes: set[str]) -> dict[str, dict[str, Any]]:
    links = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[str, dict[str, Any]] = {}
    for path in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            inode = links.get(os.readlink(path))
        except OSError:
            continue  # the process ended meanwhile
        if inode and inode not in owners:
            pid = path.split("/")[2]
            owners[inode] = {"pid": int(pid), "process": _read(f"/proc/{pid}/comm"), "unit": unit_of(pid)}
    return owners


def _gpu_holders() -> list[dict[str, Any]]:
    """Who has memory of a GPU, with the systemd unit that it belongs to."""
    return [{**holder, "unit": unit_of(str(holder["pid"]))} for holder in gpus.holders()]


def _has_table(name: str) -> bool:
    """Tell whether the kernel has an nftables table: who flushes the rules by hand changes no file and no unit."""
    try:
        return subprocess.run(["nft", "list", "table", *name.split()], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def unit_of(pid: str) -> Optional[str]:
    """Return the systemd service that a process belongs to, None where it belongs to none."""
    for line in _read(f"/proc/{pid}/cgroup").splitlines():
        for part in reversed(line.split("/")):
            if part.endswith(".service"):
                return part
    return None
