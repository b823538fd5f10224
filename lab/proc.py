"""Other programs, run so that a stop of the lab stops them too."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

# Set by a signal: every wait of every thread looks at it, so that `up` can undo what it was making.
STOP = threading.Event()


class LabError(Exception):
    """One sentence for the operator: what is wrong, where, and what to do."""


class Stopped(LabError):
    """The operator asked the lab to stop."""

    def __str__(self) -> str:
        """The one sentence there is to say of it."""
        return "stopped before it was done; what was half made has been removed"


def run(argv: Sequence[str | Path], *, text: str | None = None) -> str:
    """Runs a short command and returns its standard output; LabError with its standard error if it fails."""
    command = [str(arg) for arg in argv]
    stdin = subprocess.DEVNULL if text is None else None
    # a process group of its own: Ctrl-C is for the lab, which then undoes its steps in order
    done = subprocess.run(command, input=text, stdin=stdin, capture_output=True, text=True, check=False, process_group=0)
    if done.returncode:
        why = (done.stderr or done.stdout).strip().splitlines()
        raise LabError(f"'{' '.join(command)}' failed: {why[-1] if why else f'exit code {done.returncode}'}")
    return done.stdout


def attempt(argv: Sequence[str | Path]) -> bool:
    """Runs a short command for which failing is an answer; tells whether it succeeded."""
    command = [str(arg) for arg in argv]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, process_group=0)
    return done.returncode == 0


def output(argv: Sequence[str | Path]) -> str:
    """Runs a short command whose exit code does not matter; returns its standard output."""
    command = [str(arg) for arg in argv]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, process_group=0).stdout


def run_long(argv: Sequence[str | Path], log: Path, tick: Callable[[], None], lock: int) -> int:
    """Runs a command that takes long, its output to `log`; calls `tick` every second; returns the exit code.

    It ends with the lab: Stopped is raised once the command has gone. Should the lab be killed, the command goes on and
    still holds the descriptor `lock`, so that no one works on what it works on.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            [str(arg) for arg in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0, pass_fds=[lock]
        )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=1)
            tick()
            if STOP.is_set():
                raise Stopped
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def pause(seconds: float) -> None:
    """Sleeps; raises Stopped as soon as the lab is to stop."""
    if STOP.wait(seconds):
        raise Stopped


# What the lab runs, and the Debian and Ubuntu package that has it.
PROGRAMS = {
    "systemd-nspawn": "systemd-container",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def missing_packages() -> list[str]:
    """The packages that this machine lacks for the lab."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    return missing if KEYRING.exists() else [*missing, "debian-archive-keyring"]
