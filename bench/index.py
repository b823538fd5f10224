"""A package index of one folder, which counts what it gives away: the uplink of these measurements."""

from __future__ import annotations

import hashlib
import html
import re
import threading
import zipfile
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Optional

FOREVER, SHORT = "max-age=365000000, immutable, public", "max-age=600, public"  # what public indexes say, so installers may cache


class Index:
    """Serves the wheels of a folder as /simple/, at an address of this machine that the lab's hosts reach."""

    def __init__(self, folder: Path, address: str) -> None:
        """Listen at a free port."""
        self.folder, self.address = folder, address
        self.given = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((address, 0), type("Handler", (_Handler,), {"index": self}))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def settings(self) -> dict[str, str]:
        """Environment variables with which pip and uv take packages from here and from nowhere else."""
        url = f"http://{self.address}:{self._server.server_port}/simple/"
        pip = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": url, "PIP_TRUSTED_HOST": self.address}
        return {**pip, "UV_NO_CONFIG": "1", "UV_DEFAULT_INDEX": url, "NO_PROXY": self.address, "no_proxy": self.address}

    def count(self, number: int) -> None:
        """Add to what was given away."""
        with self._lock:
            self.given += number

    def page(self, path: str) -> Optional[tuple[bytes, str]]:
        """Return what lies at a path, and how long it may be kept; None where nothing does."""
        if found := re.fullmatch(r"/simple/([a-z0-9-]+)/", path):
            links = [_link(file) for file in sorted(self.folder.iterdir()) if project(file.name) == found[1]]
            return (f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode(), SHORT) if links else None
        file = self.folder / path.removeprefix("/files/").removesuffix(".metadata")
        if not path.startswith("/files/") or file.parent != self.folder or not file.is_file():
            return None
        return metadata(file) if path.endswith(".metadata") else file.read_bytes(), FOREVER


class _Handler(BaseHTTPRequestHandler):
    index: Index
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, and count."""
        found = self.index.page(self.path)
        body, keep = found or (b"not here\n", "no-store")
        self.send_response(200 if found else 404)
        kind = "text/html" if self.path.startswith("/simple/") else "application/octet-stream"
        for name, value in (("Content-Length", str(len(body))), ("Content-Type", kind), ("Cache-Control", keep)):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.index.count(len(body))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def project(file: str) -> str:
    """Return the normalised name of the project that a wheel or a source archive is of."""
    name = file.split("-", maxsplit=1)[0] if file.endswith(".whl") else re.split(r"-\d", file)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def sha256(file: Path) -> str:
    """Return a file's digest."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def metadata(file: Path) -> bytes:
    """Return a wheel's METADATA."""
    with zipfile.ZipFile(file) as wheel:
        return wheel.read(next(name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)))


def _link(file: Path) -> str:
    own = f' data-core-metadata="sha256={hashlib.sha256(metadata(file)).hexdigest()}"' if file.suffix == ".whl" else ""
    return f'<a href="/files/{html.escape(file.name)}#sha256={sha256(file)}"{own}>{html.escape(file.name)}</a><br>'
