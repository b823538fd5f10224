# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run of a vLLM server: start it, wait for a token, watch it, stop it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from . import gpus, health, limits, processes
from .failures import LATER, LOADING, NEVER, Log
from .systemd import Systemd
from .tries import STEADY_SECONDS, Tries

POLL_SECONDS, LOOK_SECONDS = 0.5, 5.0
EXTENSION = "EXTEND_TIMEOUT_USEC=120000000"  # until the next look: a start program that hangs itself is ended by systemd
GRACE_SECONDS = 10.0  # for vLLM's own end, after what it drains
CONFIG_LINE = re.compile(r"^['\"]?(model|shutdown-timeout)['\"]?:\s*['\"]?(.*?)['\"]?\s*$", re.M)


class Server:
    """One run of vLLM, and what is known of the runs before it."""

    def __init__(self, instance: str, signatures: Sequence[dict[str, Any]], command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Take the command, and the environment with OWNMETAL_* (see docs/units.md) and what systemd gives a service."""
        self.instance, self.command = instance, list(command)
        self.environment = {name: value for name, value in environment.items() if not name.startswith("OWNMETAL_")}
        self.own = {name: value for name, value in environment.items() if name.startswith("OWNMETAL_")}
        self.systemd = Systemd(self.environment.pop("NOTIFY_SOCKET", None))
        self.environment.pop("WATCHDOG_USEC", None)
        self.tries = Tries(os.path.join(environment.get("RUNTIME_DIRECTORY", "/run"), "tries.json"), self.own)
        self.log = Log(instance, signatures)
        self.config = self._read_config()
        self.drain = float(self.own.get("OWNMETAL_DRAIN_SECONDS") or 0)
        self.asked_to_stop = threading.Event()
        self.ready_at: Optional[float] = None
        self.fault: Optional[tuple[int, str]] = None
        self.stage = "Python and vLLM are loading"
        self.process: Optional[subprocess.Popen[bytes]] = None

    def _read_config(self) -> dict[str, str]:
        """Return what this program wants to know of the file after --config; vLLM itself complains of one that is not there."""
        path = next((after for word, after in zip(self.command, self.command[1:]) if word == "--config"), "")
        try:
            with open(path, encoding="utf-8") as stream:
                return dict(CONFIG_LINE.findall(stream.read()))
        except OSError:
            return {}

    def run(self) -> int:
        """Return the exit code: 0 asked to stop, NEVER, LATER."""
        self._heed_stop_signals()
        processes.adopt_orphans()
        key = self._key()
        if key is None or self.tries.used_up:
            empty = "the credential api-key is empty: set vllm_api_key, then run ansible-playbook site.yml"
            return self._down(f"down after {self.tries.failed} tries: {self.tries.cause}" if key else empty)
        if not self._wait_for_this_try():
            return self._stopped()
        self.tries.begin()
        self.client = health.Client(self.own["OWNMETAL_READY_URL"], self.own["OWNMETAL_READY_MODEL"], key)
        self.limit = limits.StartLimit(
            limits.weight_bytes(self.config.get("model")), limits.kind_of_disk(self.config.get("model", "/")), self.own
        )
        self.started, self.killed_before = time.monotonic(), processes.oom_kills()
        if self.client.answered_by_another():
            return self._end(LATER, f"another process listens on the port of {self.instance}")
        try:
            self.process = subprocess.Popen(
                self.command, env={**self.environment, "VLLM_API_KEY": key}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            return self._down(f"the environment of {self.instance} is missing or damaged: {error}")
        output = threading.Thread(target=self._pass_output_on, daemon=True)
        output.start()
        self._attend(self.process)
        if self.asked_to_stop.is_set():
            self._stop(self.process)
            return self._stopped()
        status = self.process.wait()
        killed = processes.oom_kills() - self.killed_before
        processes.kill_all()
        output.join(timeout=2)
        return self._end(*(self.fault or self.log.verdict(status, self.ready_at is not None, killed)))

    def _heed_stop_signals(self) -> None:
        """See a stop at once, whatever the main thread waits for.

        A handler runs in the main thread, so an Event.set there could wait for ever for a lock that this thread holds.
        """
        told, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

        def wait() -> None:
            told.recv(1)
            self.asked_to_stop.set()

        threading.Thread(target=wait, daemon=True).start()

    def _key(self) -> Optional[str]:
        """Return the key of the unit's credential; None for an empty one, with which vLLM would let everyone in."""
        with open(os.path.join(self.environment["CREDENTIALS_DIRECTORY"], "api-key"), encoding="ascii") as stream:
            return stream.read().strip() or None

    def _pause(self, seconds: float) -> bool:
        """Sleep while systemd is kept at ease, and tell whether a stop was asked for."""
        end = time.monotonic() + seconds
        while not self.asked_to_stop.is_set() and time.monotonic() < end:
            self.systemd.tell(EXTENSION, "WATCHDOG=1")
            self.asked_to_stop.wait(min(LOOK_SECONDS, max(0.0, end - time.monotonic())))
        return self.asked_to_stop.is_set()

    def _wait_for_this_try(self) -> bool:
        """Wait as long as the failures before this try ask for; return False when stopped meanwhile."""
        pause, tries = self.tries.pause, self.tries
        if pause:
            words = f"waiting {pause:.0f} s before try {tries.number} of {tries.limit}: {tries.cause}"
            print(f"vllm-run: {words}", flush=True)
            self.systemd.say(words)
        if self._pause(pause):
            return False
        gpus.wait_for_memory(self.environment, self.systemd.say, self._pause)
        return not self.asked_to_stop.is_set()

    def _pass_output_on(self) -> None:
        """Copy vLLM's output to the journal, keep its end, and name the stage."""
        assert self.process is not None and self.process.stdout is not None  # noqa: S101 - its thread begins after the start
        for line in self.process.stdout:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            text = line.decode(errors="replace")
            stage = self.log.add(text)
            if self.ready_at is None:
                self.limit.line(text, time.monotonic() - self.started)
                self._reach(stage or self.stage)

    def _reach(self, stage: str) -> None:
        """Name the stage at once: a short one would be over at the next look."""
        if stage != self.stage:
            self.stage = stage
            self.systemd.say(f"starting: {stage}")

    def _attend(self, process: subprocess.Popen[bytes]) -> None:
        """Stay beside vLLM until it ends, has to end, or a stop is asked for."""
        threading.Thread(target=self._wait_for_a_token, daemon=True).start()
        pulse: Optional[health.Pulse] = None
        look, loading = 0.0, (0, 0.0)
        while process.poll() is None and not self.asked_to_stop.is_set() and not self.fault:
            self.asked_to_stop.wait(POLL_SECONDS)
            now = time.monotonic()
            if now < look:
                continue
            look = now + LOOK_SECONDS
            if self.ready_at is None:
                loading = self._look_at_start(now - self.started, loading)
                continue
            self.systemd.tell("WATCHDOG=1")
            if self.tries.failed and now - self.ready_at > STEADY_SECONDS:
                self.tries.forget()
                self.tries.begin()
            if pulse is None:
                seconds = float(self.own.get("OWNMETAL_FROZEN_SECONDS") or health.FROZEN_SECONDS)
                pulse = health.Pulse(self.client, seconds, self.ready_at)
            elif pulse.beat(now):
                self.fault = LATER, f"it was up and computed nothing for {now - pulse.moved_at:.0f} s: its engine hangs"
        if self.fault:
            processes.kill_all()

    def _look_at_start(self, seconds: float, loading: tuple[int, float]) -> tuple[int, float]:
        """Extend systemd's patience or end the start; return the bytes read, and the time, at which loading began."""
        read, moved = processes.bytes_moved()
        self.limit.bytes(moved, seconds)
        stage = self.stage
        if not stage.startswith(LOADING):
            loading = (read, seconds)
        elif self.limit.weights:
            self.limit.measured(read - loading[0], seconds - loading[1])
            share = min(99, (read - loading[0]) * 100 // self.limit.weights)
            if stage == LOADING and share:  # weights that lie in memory already are not read from a disk
                stage = f"{LOADING}, {share} %"
        why = self.limit.over(seconds)
        if why:
            self.fault = LATER, f"{why}. It was at: {stage}"
        else:
            self.systemd.say(f"starting: {stage}", EXTENSION, "WATCHDOG=1")
        return loading

    def _wait_for_a_token(self) -> None:
        """Ask until a token comes: /health is 200 before the engine can compute, and stays so when it cannot."""
        while not self.asked_to_stop.is_set() and not self.fault and self.process and self.process.poll() is None:
            try:
                self.client.ask("/health")
                self._reach("the API is up, asking for a first token")
                if self.client.token():
                    self.ready_at = time.monotonic()
                    self.systemd.say(f"ready: first token after {self.ready_at - self.started:.0f} s", "READY=1")
                    return
            except urllib.error.HTTPError as error:
                said = error.read(300).decode(errors="replace")
                if error.code in (400, 401, 404):  # this server will give no other answer
                    self.fault = NEVER, f"the first token was refused: HTTP {error.code} {said}"
                    return
            except (OSError, KeyError, TypeError, ValueError):
                pass  # not listening yet, or still between the two
            time.sleep(POLL_SECONDS)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """Let running requests end, within the limit; then end vLLM, whatever it does."""
        own = self.config.get("shutdown-timeout", "")
        drain = float(own) if own.isdecimal() else self.drain
        drain = drain if self.ready_at is not None else 0.0
        limit = drain + GRACE_SECONDS
        extension = f"EXTEND_TIMEOUT_USEC={int((limit + GRACE_SECONDS) * 1e6)}"
        self.systemd.say(f"stopping: running requests have {drain:.0f} s to end" if drain else "stopping", "STOPPING=1", extension)
        if not own.isdecimal() and drain:  # a release that cannot wait by itself
            health.drained(self.client, drain, lambda seconds: bool(time.sleep(seconds)), time.monotonic)
            limit = GRACE_SECONDS
        process.terminate()
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            print(f"vllm-run: vLLM did not end within {limit:.0f} s, so it is killed", flush=True)
        processes.kill_all()

    def _stopped(self) -> int:
        self.tries.forget()
        self.systemd.say("stopped")
        return 0

    def _end(self, code: int, reason: str) -> int:
        """Count a failure, say what follows from it, and return the exit code."""
        seconds = time.monotonic() - self.started
        if self.ready_at is not None and time.monotonic() - self.ready_at > STEADY_SECONDS:
            self.tries.forget()
        if code == NEVER:
            return self._down(reason, f"ended after {seconds:.0f} s, a changed configuration is needed")
        self.tries.fail(reason)
        if self.tries.used_up:
            return self._down(f"down after {self.tries.failed} tries: {reason}", "no further try")
        print(f"vllm-run: ended after {seconds:.0f} s, another try follows in {self.tries.pause:.0f} s: {reason}", flush=True)
        self.systemd.say(reason)
        return LATER

    def _down(self, reason: str, words: str = "cannot start") -> int:
        print(f"vllm-run: {words}: {reason}", flush=True)
        self.tries.forget()
        self.systemd.say(reason)
        return NEVER
