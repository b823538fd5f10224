# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a server that is up still computes. A busy one is judged by its counters, so a long queue never looks like death."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Callable, Optional

# every step of the engine moves one of these; the gauges of requests move when one comes or goes
COUNTERS = re.compile(
    r"^vllm:(?:generation_tokens_total|prompt_tokens_total|iteration_tokens_total_count|request_success_total)\S* (\S+)$", re.M
)
REQUESTS = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", re.M)
PROBE_SECONDS = 30.0  # how long an idle server is left alone
FROZEN_SECONDS = 180.0


class Client:
    """Asks the server of this host."""

    def __init__(self, url: str, model: str, key: str) -> None:
        """Take where it listens, a served name, and its key."""
        self.url, self.model = url, model
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the host's own server: no proxy

    def ask(self, path: str, body: Optional[dict[str, Any]] = None, seconds: float = 120.0) -> bytes:
        """Return the answer; raise OSError (URLError, HTTPError)."""
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(self.url + path, data, self.headers)  # noqa: S310 - the URL is the role's own
        with self.opener.open(request, timeout=seconds) as answer:
            said: bytes = answer.read()
            return said

    def answered_by_another(self) -> bool:
        """Tell, before the server is started, whether someone listens in its place.

        Two vLLMs of one user share a port without a word (SO_REUSEPORT), and the other's token would be taken for a first one.
        """
        place = urllib.parse.urlsplit(self.url)
        try:
            socket.create_connection((place.hostname or "", place.port or 80), timeout=5.0).close()
        except OSError:
            return False
        return True

    def token(self, seconds: float = 120.0) -> bool:
        """Ask for one token, and tell whether it came."""
        body = {"model": self.model, "prompt": "ready?", "max_tokens": 1}
        said = json.loads(self.ask("/v1/completions", body, seconds))
        return bool(said["usage"]["completion_tokens"] == 1)

    def work(self) -> Optional[tuple[float, tuple[str, ...]]]:
        """Return the number of requests in the server and what it has counted; None where it counts nothing."""
        said = self.ask("/metrics", seconds=5.0).decode(errors="replace")
        requests = [float(number) for number in REQUESTS.findall(said)]
        return (sum(requests), tuple(COUNTERS.findall(said))) if requests else None


class Pulse:
    """Notes when the server last made progress. :meth:`beat` is called every few seconds, and returns at once."""

    def __init__(self, client: Client, seconds: float, now: float) -> None:
        """Take how many seconds without progress mean that it is frozen."""
        self.client, self.seconds = client, seconds
        self.moved_at = now
        self.before: Optional[tuple[float, tuple[str, ...]]] = None
        self._probe: Optional[threading.Thread] = None
        self._answered = False

    def beat(self, now: float) -> bool:
        """Look, and tell whether the server is frozen."""
        if self._answered:
            self._answered, self.moved_at = False, now
        try:
            work = self.client.work()
        except (OSError, ValueError):
            pass  # not even its own page: its patience goes on running out
        else:
            if work != self.before and work is not None:
                self.moved_at = now
            self.before = work
            idle = work is None or work[0] == 0
            if idle and now - self.moved_at >= min(PROBE_SECONDS, self.seconds / 3):
                self._ask()
        # one that counts nothing is judged by the probe alone, which may stand in a queue
        return now - self.moved_at > self.seconds * (1 if self.before else 5)

    def _ask(self) -> None:
        if self._probe is None or not self._probe.is_alive():
            self._probe = threading.Thread(target=self._token, daemon=True)
            self._probe.start()

    def _token(self) -> None:
        try:
            self._answered = self.client.token(self.seconds)
        except urllib.error.HTTPError as error:
            self._answered = error.code < 500  # refused, and alive
        except (OSError, ValueError, KeyError, TypeError):
            pass


def drained(client: Client, seconds: float, wait: Callable[[float], bool], clock: Callable[[], float]) -> bool:
    """Wait until no request is left in the server, at most ``seconds``; tell whether it came so far."""
    end = clock() + seconds
    while clock() < end:
        try:
            work = client.work()
        except (OSError, ValueError):
            return True  # nobody is there to be waited for
        if work is None or work[0] == 0:
            return True
        wait(0.5)
    return False
