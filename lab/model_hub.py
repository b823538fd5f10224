"""A model hub for tests: speaks the public hub's API over folders of this machine, misbehaves as it is told, counts what it sends.

python -m lab.model_hub ADDRESS PORT org/name=FOLDER...    prints each repository's commit, and serves until it is ended
"""

from __future__ import annotations

import hashlib
import http.server
import json
import ssl
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LARGE = 10_000  # bytes; the public hub keeps such files apart, and redirects to them
Fault = int | str | tuple[str, int]


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files`` (path -> content). ``faults``: path -> what to do for the next requests, one each; then it behaves.

    A fault is a status to answer with, "whole" (the range is ignored), or a pair of a kind and a number of bytes after which it
    comes: "cut", "stall"; "slow" is slow all along.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes] | None = None, address: str = "127.0.0.1", port: int = 0) -> None:
        """Serves from now on; port 0 is any."""
        super().__init__((address, port), Handler)
        self.files = dict(files or {})
        self.faults: dict[str, list[Fault]] = {}
        self.headers_for: dict[int, dict[str, str]] = {}
        self.sent = 0
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.stall_seconds = 3.0
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def count(self, number: int) -> None:
        """Adds to the bytes that were sent."""
        with self._lock:
            self.sent += number

    def close(self) -> None:
        """Ends it."""
        self.shutdown()
        self.server_close()

    def use_tls(self, cert: Path, key: Path) -> None:
        """Speaks TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of the test."""

    def answer(self, handler: Handler) -> bool:
        """Answers what is no plain file; returns whether it did."""
        return False


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Answers one request."""
        self.server.seen.append((self.path, dict(self.headers.items())))
        waiting = self.server.faults.get(self.path) or []
        fault = waiting.pop(0) if waiting else None
        if isinstance(fault, int):
            self.refuse(fault)
        elif not self.server.answer(self):
            body = self.server.files.get(self.path.partition("?")[0])
            if body is None:
                self.refuse(404)
            else:
                self.give(body, fault)

    def refuse(self, status: int, **headers: str) -> None:
        """Answers without a body."""
        self.send_response(status)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {**self.server.headers_for.get(status, {}), **more, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def say(self, data: Any, **headers: str) -> None:
        """Answers with JSON."""
        body = json.dumps(data).encode()
        self.send_response(200)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def give(self, body: bytes, fault: Fault | None = None) -> None:
        """Answers with a file, or the part of it that is asked for."""
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
        kind, limit = fault if isinstance(fault, tuple) else ("", len(body))
        end = min(len(body), first + limit)
        for start in range(first, end, 65536):
            piece = body[start : min(start + 65536, end)]
            self.wfile.write(piece)
            self.server.count(len(piece))
            if kind == "slow":
                time.sleep(0.03)
        if kind == "stall":
            time.sleep(self.server.stall_seconds)
        if kind:
            self.close_connection = True
        return None


class ModelHub(Server):
    """Repositories with one revision each. Large files are on another server, as the public hub has it."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0, page: int = 3) -> None:
        """Serves from now on, and lists ``page`` files in one answer."""
        super().__init__(None, address, port)
        self.storage = Server(None, address)
        self.repositories: dict[str, str] = {}
        self.private: dict[str, str] = {}  # repository -> its token
        self.gated: set[str] = set()
        self.page = page

    def add(self, repository: str, files: Mapping[str, bytes]) -> str:
        """Adds a repository, and returns its commit."""
        listed = "".join(f"{path} {hashlib.sha256(files[path]).hexdigest()}\n" for path in sorted(files))
        commit = hashlib.sha1((repository + listed).encode()).hexdigest()  # noqa: S324 (as git does)
        self.repositories[repository] = commit
        for path, body in files.items():
            place = self.storage if len(body) > LARGE else self
            place.files[f"/{repository}/resolve/{commit}/{urllib.parse.quote(path)}"] = body
        return commit

    def close(self) -> None:
        """Ends both servers."""
        self.storage.close()
        super().close()

    @property
    def all_sent(self) -> int:
        """Bytes of files that were sent."""
        return self.sent + self.storage.sent

    def answer(self, handler: Handler) -> bool:
        """Answers the API, and redirects to large files."""
        path, _, query = handler.path.partition("?")
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        repository = "/".join(words[2:4] if api else words[:2])
        token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository not in self.repositories or self.private.get(repository, token) != token:
            # the public hub does not tell strangers what there is
            handler.refuse(404 if token else 401, X_Error_Code="RepoNotFound")
        elif words[5 if api else 3] not in (self.repositories[repository], "main"):
            handler.refuse(404, X_Error_Code="RevisionNotFound")
        elif api and words[4] == "revision":
            handler.say({"id": repository, "sha": self.repositories[repository]})
        elif api:
            self._tree(handler, repository, dict(urllib.parse.parse_qsl(query)))
        elif repository in self.gated:
            handler.refuse(403 if token else 401, X_Error_Code="GatedRepo")
        elif path in self.storage.files:
            handler.refuse(302, Location=f"{self.storage.url}{path}")
        else:
            return False
        return True

    def _tree(self, handler: Handler, repository: str, query: Mapping[str, str]) -> None:
        prefix = f"/{repository}/resolve/{self.repositories[repository]}/"
        every = {**self.files, **self.storage.files}
        rows = [_row(urllib.parse.unquote(path[len(prefix) :]), every[path]) for path in sorted(every) if path.startswith(prefix)]
        first = int(query.get("cursor", "0"))
        more = {}
        if first + self.page < len(rows):  # absolute, and of the original: mirrors hand it on like this
            after = urllib.parse.urlencode({**query, "cursor": first + self.page})
            more = {"Link": f'<https://hub.example{handler.path.partition("?")[0]}?{after}>; rel="next"'}
        handler.say(rows[first : first + self.page], **more)


def _row(path: str, body: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()  # noqa: S324 (git's name for it)
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(body), "oid": blob}
    if len(body) > LARGE:
        row["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 134}
    return row


def folder(path: str | Path) -> dict[str, bytes]:
    """The files of a folder, as ModelHub.add takes them."""
    root = Path(path)
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def main(arguments: Sequence[str]) -> None:
    """Serves folders."""
    hub = ModelHub(arguments[0], int(arguments[1]))
    for pair in arguments[2:]:
        repository, _, place = pair.partition("=")
        print(repository, hub.add(repository, folder(place)), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
