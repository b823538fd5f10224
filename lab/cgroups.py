"""The cgroups of a host, in both layouts: version 2 alone, or version 1 controllers (with or without version 2)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .proc import LabError

# What systemd in a host can limit with. Where a hierarchy of version 1 has one of these, the host gets a group in it.
CONTROLLERS = {"memory", "pids", "cpu", "cpuacct", "devices"}


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy: where, its /proc/PID/cgroup key ('' for version 2), and this process's group in it."""

    root: Path
    key: str
    own: str

    @property
    def parent(self) -> Path:
        """The group under which a host's group goes.

        In version 1 it is this process's own: limits that hold for the operator's session hold for its hosts.
        A group of version 2 that has processes can't hand controllers down, so there it is the topmost.
        """
        own = self.own.lstrip("/")
        # '/..' is a group outside this cgroup namespace
        return self.root if not self.key or own.startswith("..") else self.root / own


def hierarchies() -> list[Hierarchy]:
    """The hierarchies in which a host needs a group."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, key, path = line.split(":", 2)
        own[key] = path
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "" in own:
            found.append(Hierarchy(Path(where), "", own[""]))
        elif kind == "cgroup":
            words = set(options.split(","))
            key = next((key for key in own if key and set(key.split(",")) <= words), "")
            if key and (key == "name=systemd" or CONTROLLERS & set(key.split(","))):
                found.append(Hierarchy(Path(where), key, own[key]))
    if not found:
        raise LabError("this machine has no cgroups mounted in /sys/fs/cgroup; systemd can't run in a host without them")
    return found


def unified() -> bool:
    """Whether version 2 is all there is."""
    return all(not hierarchy.key for hierarchy in hierarchies())


def make(unit: str) -> list[Path]:
    """Makes the groups of a host and returns them."""
    groups = [hierarchy.parent / unit for hierarchy in hierarchies()]
    for group in groups:
        group.mkdir(exist_ok=True)
    return groups


def find(unit: str) -> list[Path]:
    """Every group of that name there is, whichever session made it and wherever."""
    found = []
    for hierarchy in hierarchies():
        for folder, names, _ in os.walk(hierarchy.root):
            if unit in names:
                found.append(Path(folder) / unit)
                names.remove(unit)
    return found


def names_of(prefix: str) -> set[str]:
    """The rest of the name of every group that starts with `prefix`."""
    return {
        name.removeprefix(prefix)
        for hierarchy in hierarchies()
        for _, names, _ in os.walk(hierarchy.root)
        for name in names
        if name.startswith(prefix)
    }


def processes(groups: list[Path]) -> set[int]:
    """The processes in these groups and below, numbered as this machine does."""
    pids: set[int] = set()
    for group in groups:
        # groups come and go meanwhile: os.walk passes over those that went
        for folder, _, _ in os.walk(group):
            with contextlib.suppress(OSError):
                pids.update(int(pid) for pid in Path(folder, "cgroup.procs").read_text().split())
    return pids - {0}  # 0: a process of another pid namespace


def leader(groups: list[Path]) -> int | None:
    """The first process of the host, as this machine numbers it: number 1 in the pid namespace just below ours."""
    depth = len(_namespace_pids(os.getpid())) + 1
    for pid in processes(groups):
        numbers = _namespace_pids(pid)
        if len(numbers) == depth and numbers[-1] == "1":
            return pid
    return None


def remove(unit: str, timeout: float = 120) -> None:
    """Ends every process of a host's groups, then removes the groups.

    One with gigabytes of memory was seen to take a minute to give them back, after its end.
    """
    deadline, pause = time.monotonic() + timeout, 0.02
    while groups := find(unit):
        for pid in processes(groups):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for group in groups:
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # still has a process that is ending: next round
                    os.rmdir(folder)
        if not find(unit):
            return
        if time.monotonic() > deadline:
            raise LabError(f"{unit}: processes {sorted(processes(groups))} don't end; see what they wait for and try again")
        time.sleep(pause)
        pause = min(2 * pause, 1)


def _namespace_pids(pid: int) -> list[str]:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    return next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
