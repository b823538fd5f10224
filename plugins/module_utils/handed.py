# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets for a job that runs already: handed over by a named pipe, so they are in no file, argument or environment."""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import time

from .errors import Refused

PATIENCE = 120  # seconds


def receive(pipe: str, patience: float = PATIENCE) -> dict[str, str]:
    """Return what the controller writes into ``pipe``, a JSON object, and remove the pipe. Raises Refused where nothing comes."""
    end, text = time.monotonic() + patience, b""
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            raise Refused(pipe, "is no pipe.", "Remove it and run the playbook again.")
        while time.monotonic() < end:
            select.select([descriptor], [], [], 0.2)
            with contextlib.suppress(BlockingIOError):
                text += os.read(descriptor, 65536)
            if text.endswith(b"\n"):
                return {str(name): str(value) for name, value in json.loads(text).items()}
            if not text:
                time.sleep(0.05)  # nobody has opened the other end yet
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(pipe)
    raise Refused("the job on this host", "waited for a token that did not come.", "Run the playbook again.")
