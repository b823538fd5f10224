# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether GPUs add up together what they should, and how fast: an all-reduce, run with an environment's own Python.

Every rank is a process of its own, without root. One that is silent, wrong or dead is found: by where it stopped, and else by
letting each two try it alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from typing import Any, Optional

from . import all_reduce_rank
from .all_reduce_rank import MARK, STAGES
from .children import spawn

OK, WRONG, SILENT, FAILED = "ok", "wrong", "silent", "failed"
BYTES = {"cuda": 256 << 20, "cpu": 8 << 20}
ROUNDS = {"cuda": 20, "cpu": 10}
SECONDS = 180
PAIR_SECONDS = 20.0  # for the sum of two, besides what starting takes
LOOK_SECONDS = 0.1
END_SECONDS = 10
KEPT = 12  # lines of what a rank wrote that a refusal may show
# what vLLM would be started with and NCCL or CUDA reads; nothing else of an instance's variables goes to the ranks
READ_BY_NCCL = ("NCCL_", "CUDA_", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Ring:
    """Who adds up: ``members`` are GPUs by their number (or numbers alone, on ``device`` "cpu"), ``python`` an environment's.

    ``user`` is whose the processes are (None: who runs this), ``variables`` those of the instance.
    """

    python: str
    members: Sequence[int]
    device: str = "cuda"
    user: Optional[str] = None
    variables: Mapping[str, str] = field(default_factory=dict)
    seconds: float = SECONDS


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    ``members`` are those that it is about where it is not ok, ``said`` their last words, ``stage`` where they were. ``algbw``
    and ``busbw`` are in GB/s (10**9 bytes), as nccl-tests define them: bytes by time, and that times 2 (n-1) / n, which is
    what a link has to carry however many ranks there are.
    """

    kind: str
    members: Sequence[int] = ()
    stage: str = ""
    said: str = ""
    algbw: Optional[float] = None
    busbw: Optional[float] = None
    torch: str = ""
    started: float = 0.0
    pairs: Sequence[Sequence[int]] = ()


class _Rank:
    """One process and what it has said."""

    def __init__(self, ring: Ring, place: int, scratch: str) -> None:
        self.member = ring.members[place]
        self.stage = STAGES[0]
        self.last: dict[str, Any] = {}
        self.lines: deque[str] = deque(maxlen=KEPT)
        job = {
            "member": self.member,
            "rank": place,
            "ranks": len(ring.members),
            "device": ring.device,
            "store": f"{scratch}/store",
            "bytes": BYTES[ring.device],
            "rounds": ROUNDS[ring.device],
            "seconds": ring.seconds,
        }
        # its own session: what it starts goes with it. The program comes by stdin: the user may not read this one's files
        self.process = spawn(
            [ring.python, "-I", "-u", "-", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=scratch,
            env=_environment(ring, scratch),
            start_new_session=True,
            **_identity(ring.user),
        )

    def begin(self, program: str, heard: queue.Queue[_Rank]) -> None:
        """Hand over the program, and listen from now on."""
        threading.Thread(target=self._talk, args=(program, heard), daemon=True).start()

    def _talk(self, program: str, heard: queue.Queue[_Rank]) -> None:
        to_it, from_it = self.process.stdin, self.process.stdout
        if to_it is None or from_it is None:
            return
        with contextlib.suppress(OSError):  # it has ended; its last words say why
            to_it.write(program.encode())
            to_it.close()
        for raw in from_it:
            line = raw.decode(errors="replace").rstrip()
            if line.startswith(MARK):
                self.last = json.loads(line[len(MARK) :])
                self.stage = str(self.last["at"])
                heard.put(self)
            elif line:
                self.lines.append(line)
        heard.put(self)

    @property
    def done(self) -> bool:
        return self.stage == STAGES[-1]

    def end(self) -> None:
        """End it and what it has started. One in the driver's hands may outlive even this."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.lines.append(f"process {self.process.pid} cannot be ended: it hangs in the driver until the server is rebooted")


def _identity(user: Optional[str]) -> dict[str, Any]:
    if user is None:
        return {}
    known = pwd.getpwnam(user)
    return {"user": known.pw_uid, "group": known.pw_gid, "extra_groups": os.getgrouplist(user, known.pw_gid)}


def _environment(ring: Ring, scratch: str) -> dict[str, str]:
    """Return what the ranks see: little of this process, and of the instance what NCCL and CUDA read."""
    own = {name: value for name, value in ring.variables.items() if name.startswith(READ_BY_NCCL)}
    gpus = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, ring.members))} if ring.device == "cuda" else {}
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": scratch,
        "TMPDIR": scratch,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_DEBUG": "WARN",
        "CUDA_CACHE_DISABLE": "1",
        **own,
        **gpus,
    }


def measure(ring: Ring) -> Outcome:
    """Let all add up; where that fails and nobody stands out, let each two, and name who is in all that fail."""
    outcome = _attempt(ring)
    if outcome.kind == OK or (outcome.kind != WRONG and len(outcome.members) < len(ring.members)) or len(ring.members) < 3:
        return outcome
    return _narrowed(ring, outcome)


def _attempt(ring: Ring) -> Outcome:
    program = _program()
    scratch = tempfile.mkdtemp(prefix="ownmetal-all-reduce-")
    ranks: list[_Rank] = []
    try:
        if ring.user is not None:
            identity = _identity(ring.user)
            os.chown(scratch, identity["user"], identity["group"])
        heard: queue.Queue[_Rank] = queue.Queue()
        for place in range(len(ring.members)):
            ranks.append(_Rank(ring, place, scratch))
            ranks[-1].begin(program, heard)
        return _judge(ring, ranks, *_wait(ranks, heard, ring.seconds))
    except (OSError, KeyError) as error:
        return Outcome(FAILED, tuple(ring.members), STAGES[0], f"{ring.python} cannot be run as {ring.user}: {error}")
    finally:
        for rank in ranks:
            rank.end()
        shutil.rmtree(scratch, ignore_errors=True)


def _program() -> str:
    """Return the text of the ranks' program: on a managed host this file is in an archive."""
    found = util.find_spec(all_reduce_rank.__name__)
    # typeshed's Loader has no get_source; the loaders of files and of archives have it
    source = found.loader.get_source(all_reduce_rank.__name__) if found and found.loader else None  # type: ignore[attr-defined]
    if not source:
        raise OSError("the program of the ranks is not there")
    return str(source)


def _wait(ranks: Sequence[_Rank], heard: queue.Queue[_Rank], seconds: float) -> tuple[float, list[_Rank]]:
    """Wait until all are done, one has died, or the time is over; return how long starting took, and who has died."""
    start, started = time.monotonic(), 0.0
    while time.monotonic() - start < seconds:
        with contextlib.suppress(queue.Empty):
            heard.get(timeout=LOOK_SECONDS)
        if not started and all(_place(rank) >= STAGES.index("adding") for rank in ranks):
            started = time.monotonic() - start
        if all(rank.done for rank in ranks):
            return started, []
        if any(rank.process.poll() is not None and not rank.done for rank in ranks):
            # its last words may still be on the way, and who died of its death a moment later is told from it by its stage
            time.sleep(LOOK_SECONDS)
            return started, [rank for rank in ranks if rank.process.poll() is not None and not rank.done]
    return started, []


def _place(rank: _Rank) -> int:
    return STAGES.index(rank.stage)


def _judge(ring: Ring, ranks: Sequence[_Rank], started: float, dead: Sequence[_Rank]) -> Outcome:
    if dead:
        killed = [rank for rank in dead if (rank.process.returncode or 0) < 0] or dead
        first = min(map(_place, killed))
        return _about(FAILED, [rank for rank in killed if _place(rank) == first], started)
    silent = [rank for rank in ranks if not rank.done]
    if silent:
        first = min(map(_place, silent))
        return _about(SILENT, [rank for rank in silent if _place(rank) == first], started)
    slowest = max(float(rank.last["seconds"]) for rank in ranks)
    count = len(ranks)
    algbw = BYTES[ring.device] / slowest / 1e9
    wrong = [rank for rank in ranks if rank.last["wrong"]]
    if wrong:
        return Outcome(WRONG, [rank.member for rank in wrong], STAGES[-1], f"{wrong[0].last['wrong']} sums are wrong", started=started)
    return Outcome(OK, algbw=algbw, busbw=algbw * 2 * (count - 1) / count, torch=ranks[0].last["torch"], started=started)


def _about(kind: str, ranks: Sequence[_Rank], started: float) -> Outcome:
    said = "\n".join(ranks[0].lines)
    code = ranks[0].process.poll()
    if kind == FAILED and not said and code is not None and code < 0:
        said = f"ended by signal {-code}"
    return Outcome(kind, [rank.member for rank in ranks], ranks[0].stage, said, started=started)


def _narrowed(ring: Ring, outcome: Outcome) -> Outcome:
    """Let each two try alone, as many pairs at once as have nobody in common, until one stands out or the ring's time has passed again."""
    seconds = 2 * outcome.started + PAIR_SECONDS if outcome.started else ring.seconds / 3
    over = time.monotonic() + ring.seconds
    bad: list[tuple[int, ...]] = []
    for pairs in rounds(ring.members):
        seconds = min(seconds, over - time.monotonic())
        if seconds <= 0 or (len(bad) > 1 and len(culprits(bad, ring.members)) == 1):
            break
        found: dict[tuple[int, ...], Outcome] = {}
        threads = [threading.Thread(target=_try_pair, args=(ring, pair, seconds, found)) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bad += [pair for pair in pairs if pair not in found or found[pair].kind != OK]
    bad.sort()
    return Outcome(outcome.kind, culprits(bad, ring.members), outcome.stage, outcome.said, started=outcome.started, pairs=bad)


def _try_pair(ring: Ring, pair: tuple[int, ...], seconds: float, found: dict[tuple[int, ...], Outcome]) -> None:
    found[pair] = _attempt(Ring(ring.python, pair, ring.device, ring.user, ring.variables, seconds))


def rounds(members: Sequence[int]) -> list[list[tuple[int, ...]]]:
    """Return every pair once, in rounds in which nobody stands twice (all but one in a circle, that goes round)."""
    circle: list[Optional[int]] = [*members, *([None] if len(members) % 2 else [])]
    found = []
    for _ in range(len(circle) - 1):
        pairs = [(circle[at], circle[-1 - at]) for at in range(len(circle) // 2)]
        found.append([tuple(sorted(each for each in pair if each is not None)) for pair in pairs if None not in pair])
        circle = [circle[0], circle[-1], *circle[1:-1]]
    return found


def culprits(bad: Sequence[Sequence[int]], members: Sequence[int]) -> list[int]:
    """Return who is in every pair that failed; where nobody is, all that are in one; where no pair failed, everybody."""
    if not bad:
        return list(members)
    shared = [member for member in members if all(member in pair for pair in bad)]
    return shared or [member for member in members if any(member in pair for pair in bad)]
