# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One large file over HTTP: resumed where it was cut, given up when it stalls, verified before it has its name.

Python 3.9, standard library alone. Nothing of a Source is ever printed but its address without query and user.
"""

from __future__ import annotations

import email.utils
import errno
import hashlib
import hmac
import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Callable, Optional

from .errors import Refused
from .progress import Progress

TRIES = 8  # in a row that bring less than ENOUGH
ENOUGH = 1 << 20  # bytes
SLOWEST = 100  # bytes a second; what is slower for a whole stall limit stands still
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try; doubled each time
CHUNK = 1 << 20
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # what another try may mend


@dataclass(frozen=True)
class Source:
    """Where a file comes from. ``headers`` may hold a secret: they go to the address's own origin alone.

    ``fingerprint``: SHA-256, in hexadecimal digits, of the one certificate that is accepted; without it the system's
    authorities decide, and the proxies of the environment count.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    fingerprint: str = ""
    tries: int = TRIES

    @property
    def shown(self) -> str:
        """Return the address as it may be printed."""
        parts = urllib.parse.urlsplit(self.url)
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class HttpRefused(Refused):
    """A server's answer that no other try mends."""

    def __init__(self, where: str, why: str, instead: str, status: int, code: str = "") -> None:
        """Take the status of the answer, and what the server calls the error, if it does."""
        super().__init__(where, why, instead)
        self.status = status
        self.code = code


class _Passing(Exception):
    """What another try may mend, and after how many seconds at least."""

    def __init__(self, cause: str, after: float = 0) -> None:
        super().__init__(cause)
        self.after = after


def download(
    source: Source,
    dest: str,
    size: int,
    sha256: str,
    progress: Progress,
    stall_seconds: float = 60,
    git_sha1: str = "",
    count: Optional[Callable[[int], None]] = None,
) -> str:
    """Fetch ``size`` bytes into ``dest``, by way of ``dest.part``, which a later call goes on with; return their SHA-256.

    They are verified by ``sha256``, and by ``git_sha1`` (the name git has for such a file), each where it is not empty.
    ``count`` is told of bytes as they come (a negative number: so many are fetched again); without it ``progress`` is.
    Raises Refused.
    """
    count = count or _Speaker(dest, size, progress).count
    fresh, tries, pause = 0, 0, PAUSE
    while True:
        with _Part(f"{dest}.part", size, bool(git_sha1)) as part:
            began = part.length
            try:
                if part.length < size:
                    _fill(source, part, stall_seconds, count)
                problem = part.problem(sha256, git_sha1)
                if not problem:
                    part.keep(dest)
                    return part.sha256
                count(-part.length)
                part.clear()
                if began == 0 or fresh:  # it came in one go, or again: the server has another file
                    raise Refused(
                        source.shown, problem, "The server, or something between, changed the file: ask its owner, or pin it anew."
                    )
                fresh += 1
                continue
            except _Passing as passing:
                tries = 1 if part.length - began >= ENOUGH else tries + 1
                pause = PAUSE if tries == 1 else pause
                if tries >= source.tries:
                    why = f"{passing}, {source.tries} times in a row, at {in_bytes(part.length)} of {in_bytes(size)}."
                    raise Refused(
                        source.shown, why, "Mend the network or try later: what came is kept, and the next run goes on."
                    ) from passing
                wait = max(pause, passing.after)
                progress.say(f"{os.path.basename(dest)}: {passing} at {in_bytes(part.length)}; again in {wait:.0f} s")
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)


def read(source: Source, progress: Progress, stall_seconds: float = 60, limit: int = 64 << 20) -> tuple[bytes, Mapping[str, str]]:
    """Return a short answer whole (at most ``limit`` bytes) and its headers. Raises Refused."""
    pause = PAUSE
    for attempt in range(1, source.tries + 1):
        try:
            with _open(source, {}, stall_seconds) as answer:
                try:
                    body = answer.read(limit + 1)
                except (OSError, http.client.HTTPException) as error:
                    raise _Passing(_cause(error, stall_seconds)) from error
                if len(body) > limit:
                    raise Refused(source.shown, f"answers more than {in_bytes(limit)}.", "Is this the right address?")
                return body, dict(answer.headers.items())
        except _Passing as passing:
            if attempt == source.tries:
                raise Refused(source.shown, f"{passing}, {source.tries} times in a row.", "Mend the network or try later.") from passing
            wait = max(pause, passing.after)
            progress.say(f"{source.shown}: {passing}; again in {wait:.0f} s")
        time.sleep(wait)
        pause = min(2 * pause, LONGEST_PAUSE)
    raise AssertionError


def in_bytes(size: float) -> str:
    """Return a size as people read it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def part_size(dest: str) -> int:
    """Return how many bytes of a file came in an earlier run that was cut."""
    try:
        return os.stat(f"{dest}.part").st_size
    except OSError:
        return 0


class _Part:
    """The file that is not whole yet, and the digests of what it holds."""

    def __init__(self, path: str, size: int, git: bool) -> None:
        self.path, self.size, self._git = path, size, git

    def __enter__(self) -> _Part:
        try:
            self._file: IO[bytes] = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b", buffering=0)
        except OSError as error:
            raise _disk(error, self.path) from error
        self.clear(keep=os.fstat(self._file.fileno()).st_size <= self.size)
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def clear(self, keep: bool = False) -> None:
        """Begin anew; with ``keep``, after what the file holds."""
        self.length = 0
        self._digest = hashlib.sha256()
        self._blob = hashlib.sha1(f"blob {self.size}\0".encode())  # noqa: S324 (git's, and no secret)
        if not keep:
            self._file.truncate(0)
        self._file.seek(0)
        while chunk := self._file.read(CHUNK):
            self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        self.length += len(chunk)
        self._digest.update(chunk)
        if self._git:
            self._blob.update(chunk)

    def write(self, chunk: bytes) -> None:
        """Add bytes."""
        view = memoryview(chunk)
        while view:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                raise _disk(error, self.path) from error
        self._take(chunk)

    @property
    def sha256(self) -> str:
        """Return the digest of what there is."""
        return self._digest.hexdigest()

    def problem(self, sha256: str, git_sha1: str) -> str:
        """Return why these are not the bytes that were wanted; empty when they are."""
        for wanted, found, name in ((sha256, self.sha256, "SHA-256"), (git_sha1, self._blob.hexdigest(), "git's SHA-1")):
            if wanted and not hmac.compare_digest(wanted.lower(), found):
                return f"the file that came has {name} {found[:12]}..., and {wanted[:12].lower()}... was wanted."
        return ""

    def keep(self, dest: str) -> None:
        """Give the file its name, when its bytes are on the disk."""
        try:
            os.fsync(self._file.fileno())
            os.replace(self.path, dest)
        except OSError as error:
            raise _disk(error, self.path) from error


def _disk(error: OSError, path: str) -> Refused:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(os.path.dirname(path), "has no space left.", "Free some: what came is kept, and the next run goes on.")
    return Refused(path, f"cannot be written: {error.strerror}.", "Look at the disk and its mount.")


def _fill(source: Source, part: _Part, stall_seconds: float, count: Callable[[int], None]) -> None:
    """Add what the server sends to what there is, until it is all there."""
    ranged = {"Range": f"bytes={part.length}-"} if part.length else {}
    try:
        answer = _open(source, ranged, stall_seconds)
    except HttpRefused as refused:
        if refused.status != 416:
            raise
        count(-part.length)
        part.clear()
        raise _Passing("the server has no such part of the file") from refused
    with answer:
        _fits(source, part, answer, count)
        marked, came = time.monotonic(), 0
        while part.length < part.size:
            try:
                chunk = answer.read1(min(CHUNK, part.size - part.length))
            except (OSError, http.client.HTTPException) as error:
                raise _Passing(_cause(error, stall_seconds)) from error
            if not chunk:
                raise _Passing("the connection was cut")
            part.write(chunk)
            count(len(chunk))
            came += len(chunk)
            now = time.monotonic()
            if now - marked >= stall_seconds:
                if came < SLOWEST * stall_seconds:
                    raise _Passing(f"the download stalled ({came} bytes in {now - marked:.0f} s)")
                marked, came = now, 0


def _fits(source: Source, part: _Part, answer: http.client.HTTPResponse, count: Callable[[int], None]) -> None:
    """See that an answer goes on where the part ends, or begins at the start, and ends where the file should."""
    if part.length and answer.status != 206:  # this server sends whole files only
        count(-part.length)
        part.clear()
    elif answer.status == 206 and not (answer.headers.get("Content-Range") or "").startswith(f"bytes {part.length}-"):
        count(-part.length)
        part.clear()
        raise _Passing("the server sent another part than was asked for")
    length = answer.headers.get("Content-Length")
    if length is not None and length.isdecimal() and int(length) != part.size - part.length:
        why = f"the file has {in_bytes(part.length + int(length))} there, and {in_bytes(part.size)} was wanted."
        if part.length + int(length) // 1000 == part.size // 1000:
            why = f"the file has {part.length + int(length)} bytes there, and {part.size} was wanted."
        raise Refused(source.shown, why, "Is it the right revision? Pin it anew.")


def _cause(error: BaseException, stall_seconds: float) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError) or "timed out" in str(reason):
        return f"the download stalled (nothing came for {stall_seconds:.0f} s)"
    if isinstance(reason, (ConnectionResetError, BrokenPipeError, http.client.HTTPException)):
        return "the connection was cut"
    if isinstance(reason, OSError):
        return f"the server cannot be reached ({reason.strerror or reason})"
    return f"the server cannot be reached ({reason})"


class _Pinned(http.client.HTTPSConnection):
    """A connection to the one server that has a certificate; nothing is said to another."""

    fingerprint = ""

    def connect(self) -> None:
        super().connect()
        certificate = self.sock.getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(hashlib.sha256(certificate).hexdigest(), self.fingerprint.lower().replace(":", "")):
            self.close()
            raise ssl.SSLCertVerificationError("another certificate than the one that is expected")


class _PinnedHandler(urllib.request.HTTPSHandler):
    def __init__(self, fingerprint: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the fingerprint says more than any authority
        super().__init__(context=context)
        self._trusting = context
        self._class: Any = type("Pinned", (_Pinned,), {"fingerprint": fingerprint})

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._class, req, context=self._trusting)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirection without the source's headers where it leads to another origin: they may hold a token."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if self._source.fingerprint:
            return None  # urllib: then it is an error
        if not newurl.startswith("https:") and not (req.full_url.startswith("http:") and newurl.startswith("http:")):
            raise Refused(self._source.shown, "leads to an address without TLS.", "Is vllm_hub_url the right one?")
        found = super().redirect_request(req, fp, code, msg, headers, newurl)
        if found and origin(newurl) != origin(self._source.url):
            for name in self._source.headers:
                found.headers.pop(name.capitalize(), None)
                found.unredirected_hdrs.pop(name.capitalize(), None)
        return found

    def http_error_308(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:  # Python knows 308 from 3.11 on
        return self.http_error_302(req, fp, 307, msg, headers)


def origin(url: str) -> tuple[str, str, int]:
    """Return what decides whether two addresses are of one server: scheme, host, port."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"https": 443}.get(parts.scheme, 80)


def _open(source: Source, headers: Mapping[str, str], stall_seconds: float) -> http.client.HTTPResponse:
    """Return the answer to a request, or raise _Passing or HttpRefused."""
    if not source.url.startswith(("http://", "https://")):
        raise Refused(source.shown, "is no address of a web server.", "Begin it with https://.")
    handlers: list[urllib.request.BaseHandler] = [_Redirects(source)]
    if source.fingerprint:
        # a pinned server is a neighbour: no proxy is asked for it
        handlers += [urllib.request.ProxyHandler({}), _PinnedHandler(source.fingerprint)]
    given = {"User-Agent": "ownmetal.codex", "Accept-Encoding": "identity", **source.headers, **headers}
    try:
        opener = urllib.request.build_opener(*handlers)
        request = urllib.request.Request(source.url, headers=given)  # noqa: S310 (judged above)
        answer: http.client.HTTPResponse = opener.open(request, timeout=stall_seconds)
        return answer
    except urllib.error.HTTPError as error:
        with error:
            raise _answered(source, error) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            what = getattr(reason, "verify_message", "") or str(reason)
            instead = "Install its authority's certificate on this host, or correct the address."
            raise Refused(source.shown, f"its certificate is not accepted: {what}.", instead) from error
        raise _Passing(_cause(error, stall_seconds)) from error


def _answered(source: Source, error: urllib.error.HTTPError) -> Exception:
    if error.code in PASSING:
        return _Passing(f"the server answered {error.code}", _after(error.headers.get("Retry-After", "")))
    code = error.headers.get("X-Error-Code", "")
    return HttpRefused(source.shown, f"the server answered {error.code} ({error.reason}).", "Look at the address.", error.code, code)


def _after(text: str) -> float:
    """Return the seconds of a Retry-After header, at most five minutes."""
    if text.isdecimal():
        return min(float(text), 300.0)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    return min(max(when.timestamp() - time.time(), 0.0), 300.0)


class _Speaker:
    """Says how far one file is, at most once a second."""

    def __init__(self, dest: str, size: int, progress: Progress) -> None:
        self._name, self._size, self._progress = os.path.basename(dest), size, progress
        self._came, self._said = part_size(dest), time.monotonic()
        self._window = 0

    def count(self, number: int) -> None:
        self._came += number
        self._window += number
        now = time.monotonic()
        if now - self._said >= 1:
            rate = self._window / (now - self._said)
            self._progress.say(f"{self._name}: {in_bytes(self._came)} of {in_bytes(self._size)}, {in_bytes(max(rate, 0))}/s")
            self._said, self._window = now, 0
