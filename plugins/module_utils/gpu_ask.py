# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Programs asked with a limit of time that holds even for one that no signal ends, as one that waits in a broken driver."""

from __future__ import annotations

import os
import subprocess
import tempfile
from typing import NamedTuple

LARGEST = 64 << 20


class Answer(NamedTuple):
    """What a program said on both its outputs, and its exit code."""

    code: int
    text: str


def ask(command: list[str], seconds: float) -> Answer:
    """Run a program. Raise TimeoutExpired or OSError."""
    with tempfile.TemporaryFile() as said:  # a file, not a pipe: nobody has to wait for its end
        environment = {**os.environ, "LC_ALL": "C"}
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=environment)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            try:
                child.wait(2)
            except subprocess.TimeoutExpired:
                child.returncode = -9  # it is held by the kernel, and is left to it
            raise
        said.seek(0)
        return Answer(code, said.read(LARGEST).decode(errors="replace"))
