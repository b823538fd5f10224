"""An HTTP server that misbehaves as it is told, and counts what it sends."""

from __future__ import annotations

import http.server
import threading
import time


class BadServer(http.server.ThreadingHTTPServer):
    """Serves ``files`` (path -> bytes). ``faults``: path -> list of what to do for the next requests, one each; then it behaves.

    A fault is a status (answered so), ("cut", n) or ("stall", n): after n bytes; or "whole": the range is ignored.
    """

    daemon_threads = True

    def __init__(self, files=None, address="127.0.0.1"):
        super().__init__((address, 0), Handler)
        self.files, self.faults, self.headers_for = dict(files or {}), {}, {}
        self.sent, self.seen = 0, []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self):
        return f"http://{self.server_address[0]}:{self.server_address[1]}"

    def count(self, number):
        with self._lock:
            self.sent += number

    def close(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the test."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers.items())))
        waiting = self.server.faults.get(self.path) or []
        fault = waiting.pop(0) if waiting else None
        if self.answer_more():
            return
        if isinstance(fault, int):
            return self.refuse(fault)
        body = self.server.files.get(self.path.partition("?")[0])
        if body is None:
            return self.refuse(404)
        self.give(body, fault)

    def answer_more(self):
        return False

    def refuse(self, status, headers=()):
        self.send_response(status)
        for name, value in [*self.server.headers_for.get(status, {}).items(), *headers]:
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def give(self, body, fault=None):
        first = 0
        if "Range" in self.headers and fault != "whole":
            first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if first >= len(body):
                return self.refuse(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        kind, limit = fault if isinstance(fault, tuple) else (None, len(body))
        for start in range(first, min(len(body), first + limit), 65536):
            piece = body[start : min(start + 65536, first + limit)]
            self.wfile.write(piece)
            self.server.count(len(piece))
            if kind == "slow":
                time.sleep(0.02)
        if kind == "stall":
            time.sleep(3)
        if kind:
            self.close_connection = True
