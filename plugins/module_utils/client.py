# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small HTTP client for an OpenAI-compatible server: JSON, and streams of server-sent events.

It goes straight to the server (no proxy from the environment): what it proves is the server, not a proxy.
The key is in no exception, no ``repr`` and no excerpt of an answer.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import urlsplit

from .errors import Refused

EXCERPT = 300  # characters of a body that an error shows


class EndpointError(Exception):
    """A request did not get its answer. ``str()`` is what was seen, for an operator to read."""


class NameUnknown(EndpointError):
    """The host name of the base URL has no address."""


class Refusal(EndpointError):
    """The host is there and nothing listens on the port."""


class Unreachable(EndpointError):
    """No way to the host, or it dropped the connection before an answer."""


class TlsFailed(EndpointError):
    """The TLS handshake failed."""


class TimedOut(EndpointError):
    """No connection, or no (complete) answer, in time."""


class CutShort(EndpointError):
    """The answer began and its end never came."""


class BadAnswer(EndpointError):
    """The answer is not what the API promises: no JSON, or not of the expected shape."""


class HttpStatus(EndpointError):
    """An answer with a status other than 2xx; ``body`` is its text, shortened, without the key."""

    def __init__(self, what: str, status: int, body: str) -> None:
        """Take the request ("GET URL"), the status and the shortened body."""
        super().__init__(f"{what} answered {status}: {body}".rstrip(": "))
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Event:
    """One server-sent event: its name ("" where it has none), its data, and seconds since the request began."""

    name: str
    data: str
    at: float


@dataclass(frozen=True)
class BaseUrl:
    """A checked base URL, such as http://server1:8001/v1: ``prefix`` is its path, which ends in /v1."""

    scheme: str
    host: str
    port: int
    prefix: str

    @classmethod
    def parse(cls, text: str) -> BaseUrl:
        """Return the parts of ``text``, or raise Refused with the URL to write instead."""
        example = "Write it as in http://server1:8001/v1 or https://llm.example.com/v1."
        parts = urlsplit(text.strip().rstrip("/"))
        if parts.scheme not in ("http", "https"):
            raise Refused("base_url", f"{text!r} does not start with http:// or https://.", example)
        if parts.username is not None:
            raise Refused("base_url", "it holds a user name or a key.", f"Give the key as api_key. {example}")
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise Refused("base_url", f"{text!r} has no valid port.", example) from None
        if not parts.hostname:
            raise Refused("base_url", f"{text!r} names no host.", example)
        if not parts.path.endswith("/v1") or parts.query or parts.fragment:
            raise Refused("base_url", f"{text!r} does not end in /v1.", example)
        return cls(parts.scheme, parts.hostname, port, parts.path)

    def __str__(self) -> str:
        """Return the URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.prefix}"


def parse_sse(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (name, data) of each complete event; one that no blank line ends is dropped, as the format says."""
    name = ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "", []
            continue
        key, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if key == "data":
            data.append(value)
        elif key == "event":
            name = value


def error_message(text: str) -> str:
    """Return the message in the JSON body of an error, or the text where it is another one."""
    try:
        data = json.loads(text)
        error = data.get("error", data.get("detail"))
        return str(error.get("message") or text) if isinstance(error, dict) else str(error or text)
    except (ValueError, AttributeError):
        return text


class Client:
    """Requests to one server. ``timeout`` is the longest a whole request may take, in seconds."""

    def __init__(self, base_url: BaseUrl, api_key: Optional[str] = None, ca_file: Optional[str] = None, timeout: float = 120) -> None:
        """Take the server; raise Refused where ``ca_file`` (the only authority trusted then) is no certificate."""
        if api_key and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
            raise Refused("api_key", "it holds a blank, a line break or a letter outside ASCII.", "Give the key alone.")
        self.base_url = base_url
        self.timeout = timeout
        self._key = api_key
        self._ca_file = ca_file
        self._tls: Optional[ssl.SSLContext] = None
        if base_url.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca_file)
            except (OSError, ssl.SSLError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise Refused(
                    "ca_file", f"{ca_file} cannot be used: {reason}.", "Name a PEM file with the authority's certificate."
                ) from None

    def with_key(self, api_key: Optional[str]) -> Client:
        """Return the same client with another key, or none."""
        return Client(self.base_url, api_key, self._ca_file, self.timeout)

    @property
    def has_key(self) -> bool:
        """Return whether requests carry a key."""
        return bool(self._key)

    def get(self, path: str) -> Any:
        """Return the JSON answer to GET of a path below the base URL, such as /models."""
        return self._json("GET", self.base_url.prefix + path, None)

    def get_root(self, path: str) -> str:
        """Return the text of the answer to GET of a path beside /v1, such as /health."""
        return self._text("GET", self.base_url.prefix[: -len("/v1")] + path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON answer to POST."""
        return self._json("POST", self.base_url.prefix + path, body)

    def stream(self, path: str, body: dict[str, Any]) -> Generator[Event, None, None]:
        """Yield the events of the answer to POST as they come. Closing the iterator closes the connection."""
        with self._answer("POST", self.base_url.prefix + path, body) as (response, start):
            kind = response.headers.get_content_type()
            if kind != "text/event-stream":
                raise BadAnswer(f"POST {self.base_url}{path} was asked for a stream and answered {kind}")
            arrived = [0.0]
            for name, data in parse_sse(self._lines(response, start, arrived)):
                yield Event(name, data, arrived[0])

    def _json(self, method: str, path: str, body: Optional[dict[str, Any]]) -> Any:
        text = self._text(method, path, body)
        try:
            return json.loads(text)
        except ValueError:
            raise BadAnswer(f"{method} {self._url(path)} answered no JSON: {self._excerpt(text)}") from None

    def _text(self, method: str, path: str, body: Optional[dict[str, Any]]) -> str:
        with self._answer(method, path, body) as (response, start):
            return b"".join(self._reads(response, start)).decode("utf-8", "replace")

    @contextmanager
    def _answer(self, method: str, path: str, body: Optional[dict[str, Any]]) -> Iterator[tuple[http.client.HTTPResponse, float]]:
        """Send the request and lend its answer, of status 2xx; whatever goes wrong leaves as an EndpointError."""
        headers = {"Accept": "application/json, text/event-stream", "Connection": "close"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        payload = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            payload = json.dumps(body).encode()
        start = time.monotonic()
        what = f"{method} {self._url(path)}"
        with self._translated(what), ExitStack() as stack:
            connection = stack.enter_context(closing(self._connection()))
            connection.request(method, path, payload, headers)
            response = stack.enter_context(connection.getresponse())  # it owns the socket: leaving must close it
            if not 200 <= response.status < 300:
                text = b"".join(self._reads(response, start)).decode("utf-8", "replace")
                raise HttpStatus(what, response.status, self._excerpt(text))
            yield response, start

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self.base_url.host, self.base_url.port
        if self._tls:
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)

    def _reads(self, response: http.client.HTTPResponse, start: float) -> Iterator[bytes]:
        """Yield what each read of the network brings, until the end of the answer or of the time."""
        while True:
            data = response.read1(65536)
            if time.monotonic() - start > self.timeout:  # a peer that drips never trips the socket's own limit
                raise TimedOut(f"{self.base_url} had not finished its answer after {self.timeout:g} s")
            if not data:
                if response.length:  # read1 reports a body shorter than its Content-Length as a plain end
                    raise CutShort(f"{self.base_url} closed the connection {response.length} bytes early")
                return
            yield data

    def _lines(self, response: http.client.HTTPResponse, start: float, arrived: list[float]) -> Iterator[str]:
        """Yield lines without their ends; ``arrived[0]`` is the time of the read that completed the line."""
        rest = b""
        for data in self._reads(response, start):
            arrived[0] = time.monotonic() - start
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r").decode("utf-8", "replace")

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        """Turn the library's exceptions into those of this module."""
        try:
            yield
        except socket.gaierror as error:
            raise NameUnknown(f"{what}: the name {self.base_url.host} has no address ({error.strerror})") from None
        except UnicodeError:
            raise NameUnknown(f"{what}: {self.base_url.host} is no host name") from None
        except ssl.SSLError as error:
            raise TlsFailed(f"{what}: {getattr(error, 'verify_message', '') or error.reason or error}") from None
        except socket.timeout:  # TimeoutError only from Python 3.10 on
            raise TimedOut(f"{what}: no answer in {self.timeout:g} s") from None
        except ConnectionRefusedError:
            raise Refusal(f"{what}: connection refused") from None
        except http.client.IncompleteRead:
            raise CutShort(f"{what}: the answer was cut off") from None
        except http.client.RemoteDisconnected:
            raise Unreachable(f"{what}: the connection was closed without an answer") from None
        except http.client.HTTPException as error:
            raise BadAnswer(f"{what}: what answers does not speak HTTP ({type(error).__name__})") from None
        except OSError as error:
            raise Unreachable(f"{what}: {error.strerror or error}") from None

    def _url(self, path: str) -> str:
        return str(self.base_url)[: -len(self.base_url.prefix)] + path

    def _excerpt(self, text: str) -> str:
        """Return what a body says, shortened, on one line; some proxies quote the key that they reject."""
        line = " ".join(error_message(text).split())
        if self._key:
            line = line.replace(self._key, "[key]")
        return line if len(line) <= EXCERPT else line[:EXCERPT] + " ..."
