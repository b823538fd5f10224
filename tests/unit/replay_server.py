"""A loopback server that replays recorded answers of the real vLLM, and injects the faults that it cannot be made
to show: a stream cut half-way, a hang, a buffering proxy, a gateway's errors. It proves how the checks take faults;
that they accept a real server is proved against the real one (molecule/default)."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ANSWERS = Path(__file__).parent / "fixtures" / "answers"
KEY = "sk-very-secret"


def recorded(name: str) -> dict[str, Any]:
    """Return a recorded answer: about, api, and body or events ([name, data, seconds])."""
    data: dict[str, Any] = json.loads((ANSWERS / f"{name}.json").read_text())
    return data


def sse(name: str) -> list[bytes]:
    """Return the events of a recorded stream, as they were on the wire."""
    return [
        (f"event: {event}\n" if event else "").encode() + f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()
        for event, data, _ in recorded(name)["events"]
    ]


class Handler(BaseHTTPRequestHandler):
    """Answers as the real server did, unless the server's ``fault`` takes the request over."""

    server: Server
    body: dict[str, Any]

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""

    def do_GET(self) -> None:
        self.body = {}
        self.answer()

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer()

    def answer(self) -> None:
        if self.server.fault(self):
            return
        if self.path == "/health":
            self.send(200, "")
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
            self.send(401, '{"error":"Unauthorized"}')
        elif self.path == "/v1/models":
            self.send(200, json.dumps({"object": "list", "data": [{"id": "micro", "max_model_len": 32768}]}))
        elif self.body.get("stream"):
            self.stream(sse(self.stream_name()))
        else:
            self.send(200, json.dumps(recorded(f"{self.api}_text")["body"]))

    @property
    def api(self) -> str:
        return "chat" if self.path.endswith("/chat/completions") else "responses"

    def stream_name(self) -> str:
        items = self.body.get("messages") or self.body.get("input") or []
        if any(item.get("role") == "tool" or item.get("type") == "function_call_output" for item in items):
            return f"{self.api}_stream_text"
        if self.body.get("tools"):
            return f"{self.api}_stream_call"
        return f"{self.api}_stream_{'reasoning_text' if 'chat_template_kwargs' in self.body else 'text'}"

    def send(self, status: int, text: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def stream(self, events: list[bytes], pause: float = 0.002) -> None:
        """Send events one by one; the connection's end is the answer's, as with HTTP/1.0."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        for event in events:
            self.wfile.write(event)
            time.sleep(pause)


Fault = Callable[[Handler], bool]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    fault: Fault = staticmethod(lambda handler: False)


@contextmanager
def serving(fault: Fault | None = None, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve on a free port of the loopback, and lend the port. ``fault`` returns true where it answered itself."""
    server = Server(("127.0.0.1", 0), Handler)
    if fault:
        server.fault = fault
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def closed_port() -> int:
    """Return a port of the loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
