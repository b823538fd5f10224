# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a long job on a host is: written line by line by the job, read by the one who waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from typing import Any, Optional

from .errors import Refused

LOCKS = "/run/lock"
WRAPPER_SECONDS = 15


class Progress:
    """The lines that a job says. It holds a lock on its file as long as it lives, which tells a dead job from a silent one."""

    def __init__(self, path: Optional[str] = None) -> None:
        """Write to ``path``, or to nowhere."""
        self._said = ""
        self._stream = None
        if path:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._stream = os.fdopen(descriptor, "a", encoding="utf-8")
            fcntl.flock(self._stream, fcntl.LOCK_EX)

    def say(self, line: str) -> None:
        """Add a line; the same one twice in a row is one."""
        if self._stream and line != self._said:
            self._said = line
            self._stream.write(" ".join(line.split()) + "\n")
            self._stream.flush()


@contextlib.contextmanager
def alone(thing: str, progress: Progress, where: str = LOCKS) -> Iterator[None]:
    """Wait until no other run works at ``thing`` on this host, and keep others away meanwhile. The lock ends with the process."""
    descriptor = os.open(os.path.join(where, f"ownmetal-{thing}"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another run that works at {thing}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def look(progress_file: str, results_file: str, seen: int, seconds: float) -> dict[str, Any]:
    """Return a job's new ``lines`` and its ``result`` (None while it works); wait up to ``seconds`` for either.

    ``seen`` counts the lines that are known. Raises Refused for a job that died without a result, or whose result
    was read before and lost on its way.
    """
    end = time.monotonic() + seconds
    while True:
        dead = _dead(progress_file)  # first: it may end, with its result, between the two looks
        result, lines = _result(results_file), _lines(progress_file)[seen:]
        lost = dead or not os.path.exists(results_file)
        # a job that is over is waited for: the wrapper writes its result after it, which a busy host may put off for seconds
        if result is not None or lines or time.monotonic() >= end + (WRAPPER_SECONDS if lost else 0):
            if not lines and result is None and lost:
                raise Refused(
                    "the job on this host", "was ended from outside, before it had a result.", "Run the playbook again: it goes on."
                )
            return {"lines": lines, "result": result}
        time.sleep(0.1)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as stream:
            return [line.rstrip("\n") for line in stream if line.endswith("\n")]
    except FileNotFoundError:
        return []


def _result(path: str) -> Optional[dict[str, Any]]:
    """Return what Ansible's async wrapper wrote about a job that ended."""
    try:
        with open(path, encoding="utf-8") as stream:
            found: dict[str, Any] = json.load(stream)
    except (FileNotFoundError, ValueError):  # it is being written
        return None
    return None if found.get("started") and not found.get("finished") else found


def _dead(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, BlockingIOError):
        return False
    return True
