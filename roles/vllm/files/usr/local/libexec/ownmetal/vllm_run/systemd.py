# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Talk to systemd, by sd_notify's protocol."""

from __future__ import annotations

import contextlib
import socket
from typing import Optional


class Systemd:
    """The service manager, or nobody where there is no NOTIFY_SOCKET."""

    def __init__(self, address: Optional[str]) -> None:
        """Take what NOTIFY_SOCKET says."""
        self.address = "\0" + address[1:] if address and address.startswith("@") else address
        self.status = ""

    def tell(self, *lines: str) -> None:
        """Send lines such as ``READY=1``. That nobody listens is no reason to end a model server."""
        if self.address:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.sendto("\n".join(lines).encode(), self.address)

    def say(self, status: str, *lines: str) -> None:
        """Set the status line of `systemctl status`."""
        if status != self.status or lines:
            self.status = status
            self.tell(*lines, f"STATUS={status}")
