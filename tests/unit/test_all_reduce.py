"""An all-reduce among processes: a real one needs torch; who is found when one is silent, wrong or dead does not."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import time

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import all_reduce
from ansible_collections.ownmetal.codex.plugins.module_utils.all_reduce import Outcome, Ring, culprits, measure, rounds

# an environment's Python with torch, where there is one; molecule/default has one on its server
REAL = os.environ.get("OWNMETAL_TORCH_PYTHON", "")

# stands in for an environment's Python: it says what a rank says, and {trouble} at one place. Ranks wait for one another in the
# scratch folder as those of torch do.
STAND_IN = """\
#!/usr/bin/python3
import json, os, pathlib, sys, time
program = sys.stdin.read()
assert "all_reduce" in program
job = json.loads(sys.argv[-1])
member, ranks = job["member"], job["ranks"]
here = pathlib.Path(job["store"]).parent
def say(at, **more):
    print("ownmetal-rank " + json.dumps(dict(at=at, **more)), flush=True)
def meet(place):
    (here / f"{{place}}.{{member}}").touch()
    while len(list(here.glob(f"{{place}}.*"))) < ranks:
        time.sleep(0.01)
say("importing"); say("device"); say("joining")
wrong = 0
{trouble}
meet("join")
say("adding")
{later}
meet("add")
say("timing"); say("adding again")
say("done", wrong=wrong, seconds=0.001, torch="stand-in")
"""
FREEZE = "time.sleep(600)"


def stand_in(folder, trouble="", later=""):
    path = folder / "python"
    path.write_text(STAND_IN.format(trouble=trouble, later=later))
    path.chmod(0o755)
    return str(path)


CASES = [
    # who does what                                          kind      members    where it was
    ({}, "ok", [], ""),
    ({"trouble": f"if member == 2: {FREEZE}"}, "silent", [2], "joining"),
    ({"trouble": "if member == 2: sys.exit('CUDA error: out of memory')"}, "failed", [2], "joining"),
    ({"trouble": "if member == 2: os.kill(os.getpid(), 11)"}, "failed", [2], "joining"),
    # all wait for each other in the sum: each two are tried, and those with 1 fail
    ({"later": f"if member == 1: {FREEZE}"}, "silent", [1], "adding"),
    # everybody has a wrong sum, if one has added something wrong
    ({"later": "wrong = 7 if ranks > 2 or member == 1 else 0"}, "wrong", [1], "done"),
]


@pytest.mark.parametrize(("trouble", "kind", "members", "stage"), CASES)
def test_who_is_in_the_way_is_named(tmp_path, monkeypatch, trouble, kind, members, stage):
    monkeypatch.setattr(all_reduce, "PAIR_SECONDS", 1.0)
    outcome = measure(Ring(stand_in(tmp_path, **trouble), [0, 1, 2], "cpu", seconds=2.0))
    assert (outcome.kind, list(outcome.members), outcome.stage) == (kind, members, stage)


def test_what_a_rank_wrote_last_is_kept(tmp_path):
    python = stand_in(tmp_path, "if member == 2: sys.exit('CUDA error: out of memory')")
    assert "out of memory" in measure(Ring(python, [0, 2], "cpu", seconds=5)).said


def test_bandwidths_are_those_of_nccl_tests(tmp_path):
    outcome = measure(Ring(stand_in(tmp_path), range(4), "cpu", seconds=20))
    assert outcome.algbw == pytest.approx(all_reduce.BYTES["cpu"] / 0.001 / 1e9)
    assert outcome.busbw == pytest.approx(outcome.algbw * 1.5)


def test_an_environment_that_is_gone_is_said(tmp_path):
    outcome = measure(Ring(str(tmp_path / "bin/python"), [0, 1], "cpu"))
    assert outcome.kind == "failed"
    assert "cannot be run" in outcome.said


def alive(python):
    """Ranks of a stand-in, with their state and user; what has ended and nobody asked about does not count."""
    found = subprocess.run(["ps", "-eo", "stat=,user=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if f"{python} -I" in line and not line.startswith("Z")]


@pytest.mark.parametrize("frozen", [False, True], ids=["silent", "stopped"])
def test_nobody_is_left(tmp_path, frozen):
    stop = f"os.kill(os.getpid(), {int(signal.SIGSTOP)})" if frozen else FREEZE
    python = stand_in(tmp_path, f"os.fork(); {stop}")
    assert measure(Ring(python, [0, 1], "cpu", seconds=1.5)).kind == "silent"
    assert alive(python) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as another user")
def test_ranks_of_another_user_end_with_who_started_them():
    """A play that is killed has no time to end them."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder).chmod(0o755)
        python = stand_in(pathlib.Path(folder), FREEZE)
        text = f"""
            import sys
            sys.path.insert(0, {os.getcwd() + "/.collections"!r})
            from ansible_collections.ownmetal.codex.plugins.module_utils.all_reduce import Ring, measure
            measure(Ring({python!r}, [0, 1], "cpu", user="nobody", seconds=60))
        """
        starter = subprocess.Popen([sys.executable, "-c", textwrap.dedent(text)])
        try:
            wait_until(lambda: [line.split()[1] for line in alive(python)] == ["nobody", "nobody"])
        finally:
            starter.kill()
            starter.wait()
        wait_until(lambda: not alive(python))


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_every_two_meet_once_and_nobody_twice_in_a_round(count):
    found = rounds(range(count))
    assert sorted(itertools.chain.from_iterable(found)) == list(itertools.combinations(range(count), 2))
    for pairs in found:
        assert len(set(itertools.chain.from_iterable(pairs))) == 2 * len(pairs)


class Clock:
    """Time that passes as somebody waits for it."""

    def __init__(self):
        self.now, self.waited = 0.0, []

    def monotonic(self):
        return self.now


# started (0: not even that) -> how long each pair of the rounds may take; the time of one attempt is the limit of all of them
LIMITS = [(0.0, [60.0, 60.0]), (50.0, [120.0, 60.0]), (200.0, [180.0])]


@pytest.mark.parametrize(("started", "limits"), LIMITS)
def test_trying_pairs_ends_when_one_stands_out_or_the_time_is_over(started, limits, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(all_reduce, "time", clock)

    def attempt(ring):
        sick = 2 in ring.members
        if sick:
            clock.waited.append(ring.seconds)
            clock.now += ring.seconds
        return Outcome("silent" if sick else "ok")

    monkeypatch.setattr(all_reduce, "_attempt", attempt)
    found = all_reduce._narrowed(Ring("python", range(8), seconds=180), Outcome("silent", range(8), started=started))
    assert clock.waited == limits
    assert 2 in found.members
    assert (len(found.members) == 1) == (len(limits) > 1)


CULPRITS = [
    ([], [0, 1, 2]),  # only all together fail
    ([(0, 1)], [0, 1]),  # one cable, or one of two
    ([(0, 1), (1, 2)], [1]),
    ([(0, 1), (1, 2), (0, 2)], [0, 1, 2]),
]


@pytest.mark.parametrize(("bad", "named"), CULPRITS)
def test_who_is_in_all_that_fail_is_named(bad, named):
    assert culprits(bad, [0, 1, 2]) == named


@pytest.mark.skipif(not REAL, reason="OWNMETAL_TORCH_PYTHON names no Python with torch")
def test_a_real_one_adds_up():
    outcome = measure(Ring(REAL, [0, 1], "cpu"))
    print(f"all-reduce of two processes: {outcome.busbw:.2f} GB/s")
    assert isinstance(outcome, Outcome)
    assert outcome.kind == "ok"
