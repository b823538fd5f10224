# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The processes that a vLLM server consists of: its API server, its engine, its workers, all below this program."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies: a worker may outlive its engine, and hold GPU memory."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _parents() -> dict[int, int]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with (
                contextlib.suppress(OSError, ValueError, IndexError),
                open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stream,
            ):
                found[int(name)] = int(stream.read().rpartition(")")[2].split()[1])
    return found


def descendants() -> list[int]:
    """Return the pids of everything below this program."""
    parents, found = _parents(), {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found and pid not in found}
        if not more:
            return sorted(found - {os.getpid()})
        found |= more


def kill_all(seconds: float = 30.0) -> None:
    """Kill what is below this program, and wait until it is gone: only then is its memory free."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        left = descendants()
        if not left:
            return
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def bytes_moved() -> tuple[int, int]:
    """Return what the server's processes have read from disks, and what they have read and written in all."""
    disk = all_of_it = 0
    for pid in descendants():
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/io", encoding="ascii") as stream:
            said = {key: int(value) for key, _, value in (line.partition(":") for line in stream)}
            disk += said["read_bytes"]
            all_of_it += max(said["rchar"], said["read_bytes"]) + said["wchar"]
    return disk, all_of_it


def oom_kills() -> int:
    """Return how many processes of this unit the kernel has killed for want of memory, as its control group counts them."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/cgroup", encoding="ascii") as stream:
            groups = [line.rstrip("\n").split(":", 2) for line in stream]
        for _, controllers, path in groups:
            for file in (f"/sys/fs/cgroup{path}/memory.events", f"/sys/fs/cgroup/memory{path}/memory.oom_control"):
                if controllers in ("", "memory") and os.path.exists(file):
                    with open(file, encoding="ascii") as stream:
                        return int(dict(line.split() for line in stream).get("oom_kill", 0))
    return 0
