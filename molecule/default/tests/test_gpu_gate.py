"""The GPU gate on a server without GPUs: processes of the release's own torch add up; stand-ins tell of GPUs."""

import json
import subprocess

import pytest
import yaml
from conftest import INVENTORY

from lab import testing
from lab.testing import ROOT

PYTHON = "/var/lib/vllm/micro/current/environment/bin/python"
MACHINES = ROOT / "tests/unit/fixtures/gpu_machines"
# runs the real Python; the rank 1 does something before, or in between
TROUBLED = """#!/bin/sh
case "$4" in
*'"member": 1,'*) exec {python} -I -u -c 'import sys; exec(open("/srv/troubled/trouble.py").read()); exec(sys.stdin.read())' "$4" ;;
esac
exec {python} "$@"
"""
FROZEN = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
WRONG = """
import torch.distributed
honest = torch.distributed.all_reduce
def all_reduce(tensor):
    tensor[0] += 1
    return honest(tensor)
torch.distributed.all_reduce = all_reduce
"""


def gate(python, ranks, seconds):
    one = {"name": "micro", "device": "cpu", "gpus": list(range(ranks)), "python": python}
    arguments = json.dumps({"server": "server1", "user": "vllm", "timeout": seconds, "instances": [one]})
    words = ["ansible", "server1", "-i", str(INVENTORY), "--become", "-m", "ownmetal.codex.gpu_gate", "-a", arguments]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=testing.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return yaml.safe_load(done.stdout.partition("SUCCESS => ")[2])


@pytest.fixture
def troubled(server):
    """An environment whose second rank is in trouble."""
    server.check_output("mkdir -p /srv/troubled/bin")

    def trouble(text):
        for path, content in (("trouble.py", text), ("bin/python", TROUBLED.format(python=PYTHON))):
            server.check_output(f"cat > /srv/troubled/{path} <<'E'\n{content}\nE\nchmod 755 /srv/troubled/{path}")
        return "/srv/troubled/bin/python"

    yield trouble
    server.check_output("rm -rf /srv/troubled")


def left(server):
    return server.run("ps -eo args= | grep '[-]I -u'").stdout


def test_two_processes_of_the_release_add_up(server):
    server.check_output("rm -rf /run/ownmetal-gpu-gate")
    found = gate(PYTHON, 2, 120)
    print(found["lines"])
    assert (found["refused"], found["measured"]["micro"]["kind"]) == ([], "ok")
    assert found["measured"]["micro"]["busbw"] > 0.01
    assert found["measured"]["micro"]["torch"]
    again = gate(PYTHON, 2, 120)
    assert again["lines"][0].endswith("GB/s (measured since the last boot)")
    assert left(server) == ""


def test_a_process_that_hangs_is_named_and_ended(server, troubled):
    found = gate(troubled(FROZEN), 2, 60)
    assert "ranks [1] did not answer in time (while importing)" in found["refused"][0]
    assert found["lines"] == []
    assert left(server) == ""


def test_one_that_adds_up_wrongly_is_found_among_three(server, troubled):
    found = gate(troubled(WRONG), 3, 120)
    assert "the sums that went through ranks [1] are wrong" in found["refused"][0]
    assert "these fail: 0 and 1, 1 and 2." in found["refused"][0]


NVIDIA_SMI = """#!/bin/sh
cd /srv/machine
case "$*" in
"-q -x") cat smi.xml ;;
"topo -m") cat topo.txt ;;
"topo -p2p r") cat p2p.txt ;;
--query-gpu=uuid,compute_cap*) cat caps.csv ;;
--query-gpu=index,name*) for gpu in 0 1 2 3; do echo "$gpu, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05"; done ;;
esac
"""


@pytest.fixture
def sick_gpus(server):
    """Let the server look like one with four H100, of which the second and the fourth have bad memory."""
    server.check_output("mkdir -p /srv/machine")
    for path in ("smi.xml", "topo.txt", "p2p.txt", "caps.csv"):
        server.check_output(f"cat > /srv/machine/{path} <<'E'\n{(MACHINES / 'ecc' / path).read_text()}\nE")
    server.check_output(f"cat > /usr/local/bin/nvidia-smi <<'E'\n{NVIDIA_SMI}E\nchmod 755 /usr/local/bin/nvidia-smi")
    yield
    server.check_output("rm -r /usr/local/bin/nvidia-smi /srv/machine")


FIRST, SECOND, FOURTH = "9900299000000", "9900299000001", "9900299000003"
# what is left out                  words of the play
OUT = [
    ([], ["micro: 1 x H100 80GB HBM3"]),
    ([FIRST], [f"GPU 1 (serial {SECOND}, NVIDIA H100 80GB HBM3) of server1 is sick: 3 errors in", f'["{FIRST}", "{SECOND}", "{FOURTH}"]']),
    ([FIRST, SECOND], ["micro: 1 x H100 80GB HBM3"]),
    ([FIRST, 1, 2], [f"GPU 3 (serial {FOURTH}, NVIDIA H100 80GB HBM3) of server1 is sick", f'["{FIRST}", 1, 2, "{FOURTH}"]']),
    ([FIRST, 1, 2, FOURTH], ["1 GPUs (4) are wanted, and server1 has 4 (0, 1, 2, 3), 4 of them for other instances or left out."]),
]


@pytest.mark.parametrize(("left_out", "words"), OUT)
def test_a_sick_gpu_is_refused_and_the_rest_serves(sick_gpus, playbook, left_out, words):
    """No environment is built here: the preflight alone tells."""
    options = {"vllm_track": "cu13-py312", "python_version": "3.12", "python_source": "managed", "vllm_gpus_left_out": left_out}
    _, said = playbook("gpu_servers", "--tags=vllm_preflight", vllm_free_space_gib=0.01, **options)
    said = said.replace('\\"', '"')
    assert [part for part in words if part not in said] == [], said[-3000:]
