# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Programs that a long job runs: they end with it, even when it is killed, and never show what they must not."""

from __future__ import annotations

import collections
import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

PR_SET_PDEATHSIG = 1
KEPT = 30  # lines of what a program said that an error may show
SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|_KEY$", re.IGNORECASE)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends: what a killed job left would write into the next one's work."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program that ends with this process; options as of Popen."""
    # it runs between fork and exec, and takes no lock that a thread could hold
    return subprocess.Popen(list(command), preexec_fn=die_with_parent, **options)  # noqa: PLW1509 - as said above


class Failed(Exception):
    """A program ended with an error; ``said`` is what it wrote last, ``code`` its exit code."""

    def __init__(self, said: str, code: int) -> None:
        """Take both."""
        super().__init__(said)
        self.said = said
        self.code = code


def hidden(text: str, environment: Mapping[str, str]) -> str:
    """Return ``text`` without passwords in URLs, and without the secrets among some environment variables."""
    for name, value in environment.items():
        if SECRET.search(name) and len(value) > 3:
            text = text.replace(value, "***")
        for found in re.findall(r"://[^/\s@:]*:([^/\s@]+)@", value):
            text = text.replace(found, "***")
    return re.sub(r"(://)[^/\s@]+@", r"\1***@", text)


def run(
    command: Sequence[str],
    environment: Optional[Mapping[str, str]] = None,
    line: Callable[[str], None] = lambda _line: None,
    allowed: Sequence[int] = (0,),
) -> str:
    """Run a program to its end and return what it wrote; ``line`` is told each line as it comes. Raises Failed."""
    own = dict(environment or {})
    lines: collections.deque[str] = collections.deque(maxlen=KEPT)
    with spawn(
        command,
        env={**os.environ, **own},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        for said in child.stdout or ():
            shown = hidden(said.rstrip(), own)
            lines.append(shown)
            line(shown)
    if child.returncode not in allowed:
        raise Failed("\n".join(lines).strip(), child.returncode)
    return "\n".join(lines)
