"""The start program's judgement: when it tries again, how long a start may take, and what is a frozen server."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.diagnoses import journal_signatures

PROGRAM = Path(__file__).resolve().parents[2] / "roles/vllm/files/usr/local/libexec/ownmetal"
sys.path.insert(0, str(PROGRAM))

from vllm_run import gpus, health, limits, processes  # noqa: E402 - the path above leads to it
from vllm_run.failures import LATER, NEVER, Log  # noqa: E402 - the path above leads to it
from vllm_run.tries import Tries  # noqa: E402 - the path above leads to it


def test_the_pauses_grow_up_to_a_limit_and_a_stop_forgets_them(tmp_path):
    path, pauses = str(tmp_path / "tries.json"), []
    for _ in range(9):
        tries = Tries(path, {})
        pauses.append(None if tries.used_up else tries.pause)
        tries.begin()
        tries.fail("the port is taken")
    assert pauses == [0, 5, 10, 20, 40, 80, 160, 300, None]
    assert Tries(path, {}).cause == "the port is taken"
    Tries(path, {}).forget()
    assert (Tries(path, {}).number, Tries(path, {}).pause) == (1, 0)


def test_a_try_that_ended_without_a_word_counts(tmp_path):
    path = str(tmp_path / "tries.json")
    Tries(path, {}).begin()
    tries = Tries(path, {"OWNMETAL_TRIES": "3", "OWNMETAL_PAUSE_SECONDS": "1"})
    assert (tries.number, tries.limit, tries.pause) == (2, 3, 1)
    assert "killed together" in tries.cause


def test_another_server_on_the_port_is_seen_before_the_start():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert health.Client(url, "coder", "key").answered_by_another()
    assert not health.Client(url, "coder", "key").answered_by_another()


GIB = 1 << 30
LIMITS = [
    # weights     disk        environment                       what happens: (second, line or bytes)     at     over
    (0, "solid", {}, [], 599, None),
    (0, "solid", {}, [], 601, "nothing moved for 601 s"),
    (0, "solid", {}, [(590, "Loading weights")], 890, None),
    (0, "solid", {}, [(t, "waiting for 60 seconds") for t in range(0, 700, 60)], 601, "nothing moved"),  # the same line again
    (0, "solid", {}, [(t, t << 21) for t in range(0, 900, 10)], 905, None),  # beyond the limit, and moving
    (0, "solid", {}, [(t, t << 21) for t in range(0, 900, 10)], 1020, "no first token came within 900 s"),
    (700 * GIB, "spinning", {}, [(5000, "x")], 5500, None),  # 700 GiB from a disk of 60 MB/s take hours
    (0, "solid", {"OWNMETAL_START_SECONDS": "60"}, [(59, "x")], 61, "no first token came within vllm_start_timeout, 60 s"),
    (0, "solid", {"OWNMETAL_START_SECONDS": "9000"}, [], 8999, None),
]


@pytest.mark.parametrize(("weights", "disk", "environment", "events", "at", "words"), LIMITS)
def test_a_start_may_take_what_the_model_needs_and_longer_while_something_moves(weights, disk, environment, events, at, words):
    limit = limits.StartLimit(weights, disk, environment)
    for when, what in events:
        (limit.line if isinstance(what, str) else limit.bytes)(what, when)
    why = limit.over(at)
    assert (why is None) == (words is None), why
    assert words is None or words in why


def test_weights_and_disk_are_what_they_are(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "b.bin").write_bytes(b"x" * 9000)  # the same weights in another format, which vLLM does not load
    assert limits.weight_bytes(str(tmp_path)) == 1000
    assert limits.weight_bytes(str(tmp_path / "none")) == limits.weight_bytes(None) == 0
    number = os.stat(tmp_path).st_dev
    queue = tmp_path / f"{os.major(number)}:{os.minor(number)}/queue"
    assert limits.kind_of_disk(str(tmp_path), str(tmp_path)) == "network"
    queue.mkdir(parents=True)
    for text, kind in (("1\n", "spinning"), ("0\n", "solid")):
        (queue / "rotational").write_text(text)
        assert limits.kind_of_disk(str(tmp_path), str(tmp_path)) == kind


class Engine:
    """A server whose counters and answers a test sets."""

    def __init__(self):
        self.requests, self.steps, self.answers, self.asked = 0.0, 0, True, 0

    def work(self):
        return self.requests, (str(self.steps),)

    def token(self, seconds):
        self.asked += 1
        if not self.answers:
            raise OSError("timed out")
        return True


def frozen_after(engine, pulse, seconds, steps=0):
    """The second at which it is taken for frozen, None when it is not."""
    for now in range(0, seconds, 5):
        engine.steps += steps
        if pulse.beat(float(now)):
            return now
        if pulse._probe:
            pulse._probe.join()
    return None


FROZEN = [
    # requests  answers  steps   frozen at
    (0, True, 0, None),  # idle, and a probe is answered
    (0, False, 0, 185),  # idle, and it is not
    (500, False, 3, None),  # a queue in which no probe would come through: its counters move
    (500, False, 0, 185),
]


@pytest.mark.parametrize(("requests", "answers", "steps", "when"), FROZEN)
def test_a_busy_server_is_judged_by_its_counters(requests, answers, steps, when):
    engine = Engine()
    engine.requests, engine.answers = requests, answers
    assert frozen_after(engine, health.Pulse(engine, 180.0, 0.0), 900, steps) == when
    assert bool(engine.asked) == (requests == 0)


def test_the_metrics_of_vllm_are_read():
    client = health.Client("http://x", "m", "k")
    text = b"""vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1293.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 447.0
"""
    client.ask = lambda *_, **__: text
    assert client.work() == (3.0, ("1293.0", "447.0"))
    client.ask = lambda *_, **__: b"python_info 1.0\n"  # --disable-log-stats
    assert client.work() is None


def test_a_gpu_is_waited_for(tmp_path, monkeypatch):
    left = tmp_path / "left"
    left.write_text("70000\n40000\n3\n")
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked; head -1 {left}; sed -i 1d {left}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said, slept = [], []
    gpus.wait_for_memory({"CUDA_VISIBLE_DEVICES": "2,3"}, said.append, lambda seconds: bool(slept.append(seconds)))
    assert len(slept) == 2
    assert "70000 MiB" in said[0]
    assert "--id=2,3" in (tmp_path / "asked").read_text()
    gpus.wait_for_memory({}, said.append, lambda _: pytest.fail("nothing to wait for"))


def test_orphans_are_adopted_and_killed(tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(PROGRAM)!r})\n"
        "import subprocess, time\nfrom vllm_run import processes\nprocesses.adopt_orphans()\n"
        "subprocess.run(['sh', '-c', 'setsid sh -c \"sleep 300 & sleep 300\" &'])\n"
        "time.sleep(0.3)\nprint(len(processes.descendants()), flush=True)\nprocesses.kill_all()\nprint(len(processes.descendants()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30)
    before, after = map(int, done.stdout.split())
    assert before >= 2
    assert after == 0
    assert processes.oom_kills() >= 0


ENDS = [
    # vLLM's log                                   status  ready  kernel's kills   exit, reason
    ("error: unrecognized arguments: --x", 2, False, 0, NEVER, "no option --x"),
    ("OSError: [Errno 98] Address already in use", 1, False, 0, LATER, "another process listens on the port of coder"),
    ("", 0, True, 0, LATER, "engine or one of its workers died"),
    ("", -9, True, 0, LATER, "killed by signal 9"),
    ("", -9, False, 1, LATER, "memory ran out"),
    ("", 127, False, 0, NEVER, "the environment of coder is missing"),
    ("", 1, False, 0, LATER, "no known reason"),
    ("error: unrecognized arguments: --x", 1, True, 0, LATER, "no known reason"),  # it served: that line is no reason
]


@pytest.mark.parametrize(("text", "status", "ready", "kills", "code", "words"), ENDS)
def test_an_end_has_a_kind(text, status, ready, kills, code, words):
    log = Log("coder", json.loads(json.dumps(journal_signatures())))
    log.add(text)
    found, reason = log.verdict(status, ready, kills)
    assert found == code
    assert words in reason


def test_a_stop_waits_for_requests_where_vllm_cannot():
    engine, end = Engine(), time.monotonic() + 60
    engine.requests = 2

    def wait(seconds):
        engine.requests -= 1

    assert health.drained(engine, 30, wait, time.monotonic)
    engine.requests = 1e9
    assert not health.drained(engine, 0.2, lambda seconds: bool(time.sleep(0.05)), time.monotonic)
    assert time.monotonic() < end
