# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The pool host's file server. It is copied to the host and run by its Python alone: this file imports nothing of its neighbours.

It reads files, over HTTPS, for who has a token, and ends when nobody has asked for a while. A token is known to it by a file whose
name is the token's SHA-256 and whose content is what it opens.
"""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import os
import re
import socket
import socketserver
import ssl
import sys
import threading
import time
import urllib.parse
from typing import Any, Optional

BLOCK = 1 << 20
MAPPED = "::ffff:"  # before an IPv4 address, where one socket listens for both


class Files:
    """What is served: what each token opens."""

    def __init__(self, tokens: str) -> None:
        """Take the directory of tokens."""
        self.tokens = tokens

    def opened(self, token: str) -> Optional[dict[str, Any]]:
        """Return what a token opens: roots (name -> directory), and paths, or beginnings that end in /. None for an unknown one."""
        try:
            with open(os.path.join(self.tokens, hashlib.sha256(token.encode()).hexdigest()), encoding="utf-8") as stream:
                found: dict[str, Any] = json.load(stream)
        except (OSError, ValueError):
            return None
        return found

    def find(self, path: str, opened: dict[str, Any]) -> Optional[str]:
        """Return the file of a path (ROOT/FILE), None when there is none or the token does not open it."""
        if ".." in path.split("/"):  # it would begin as allowed and end elsewhere
            return None
        if not any(path == one or (one.endswith("/") and path.startswith(one)) for one in opened["paths"]):
            return None
        name, _, rest = path.partition("/")
        if name not in opened["roots"] or not rest:
            return None
        root = os.path.realpath(opened["roots"][name])
        file = os.path.realpath(os.path.join(root, rest))
        return file if file.startswith(root + os.sep) and os.path.isfile(file) else None


class Server(http.server.ThreadingHTTPServer):
    """A server that knows when it was used last."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], files: Files, context: Optional[ssl.SSLContext]) -> None:
        """Listen at an address; "::" stands for all of IPv4, too."""
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)
        self.files = files
        self.context = context
        self.busy = 0
        self.used = time.monotonic()
        self.guard = threading.Lock()

    def server_bind(self) -> None:
        """Bind, and ask no name server for this host's name."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = socket.gethostname(), self.server_address[1]

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Do the handshake in the request's own thread: one silent client must not stop the others."""
        request.settimeout(60)
        if self.context:
            request = self.context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line that a client went away."""
        print(f"{client_address[0].removeprefix(MAPPED)}: {sys.exc_info()[1]}", flush=True)

    def count(self, step: int) -> None:
        """Note that a request began or ended."""
        with self.guard:
            self.busy += step
            self.used = time.monotonic()

    def end_when_idle(self, seconds: float) -> None:
        """End the server when nothing was asked for ``seconds``."""
        while True:
            time.sleep(min(seconds / 4, 5))
            with self.guard:
                if not self.busy and time.monotonic() - self.used > seconds:
                    break
        self.shutdown()


class Handler(http.server.BaseHTTPRequestHandler):
    """GET of a file or of what is left of it."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        """Answer 200 or 206 with a file, 204 for /, 401 without a token that is known, 404 for all else."""
        opened = self.server.files.opened(self.headers.get("Authorization", "").partition(" ")[2])
        if opened is None:
            self._empty(401)
            return
        self.server.count(1)
        try:
            path = urllib.parse.unquote(self.path).lstrip("/")
            file = self.server.files.find(path, opened) if path else None
            if file:
                self._send(file)
            else:
                self._empty(404 if path else 204)
        finally:
            self.server.count(-1)

    def _empty(self, status: int) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, path: str) -> None:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            if start > size:
                self._empty(416)
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Length", str(size - start))
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{max(size - 1, 0)}/{size}")
            self.end_headers()
            stream.seek(start)
            while block := stream.read(BLOCK):
                self.wfile.write(block)

    def log_message(self, format: str, *args: Any) -> None:
        """Say who asked for what; the journal keeps it."""
        print(f"{self.client_address[0].removeprefix(MAPPED)} {format % args}", flush=True)


def everywhere(port: int, files: Files, context: Optional[ssl.SSLContext]) -> Server:
    """Listen at all addresses of this host; of IPv4 alone where its kernel has no IPv6."""
    try:
        return Server(("::", port), files, context)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.ENOPROTOOPT):
            raise
        return Server(("0.0.0.0", port), files, context)


def main() -> None:
    """Serve as the file named on the command line says: port, tokens, idle; certificate and key are systemd credentials."""
    with open(sys.argv[1], encoding="utf-8") as stream:
        settings = json.load(stream)
    credentials = os.environ["CREDENTIALS_DIRECTORY"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{credentials}/certificate", f"{credentials}/key")
    server = everywhere(settings["port"], Files(settings["tokens"]), context)
    threading.Thread(target=server.end_when_idle, args=(settings["idle"],), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
