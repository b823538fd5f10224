"""The whole chain on a server with stand-ins for GPUs: the driver first, then Python, then vLLM, which computes on the CPU."""

from __future__ import annotations

from conftest import INVENTORY, NEW, installed, state

from lab import testing
from lab.testing import ROOT

MODEL = [{"name": "micro", "model_source": str(ROOT / ".cache/micro-model"), "port": 8001}]


def test_check_mode_goes_on_to_what_needs_the_driver_and_says_so(blank):
    before = {name: state(server) for name, server in blank.items()}
    code, said = testing.playbook(INVENTORY)("site", "--check", "--diff", vllm_instances=MODEL)
    assert code == 0, said
    assert "nvidia-driver-cuda is installed" in said
    for name in blank:
        assert f"{name} gets its driver in a real run, and vLLM on it is judged then" in said
    assert {name: state(server) for name, server in blank.items()} == before


def test_the_whole_chain(blank):
    server = blank["server1"]
    # named: a server whose models are computed on the CPU would be left alone
    code, said = testing.playbook(INVENTORY)(
        "site", "--limit", "server1", "-e", "@molecule/cuda/vars/cpu.yml", cuda_driver_source="repository"
    )
    assert code == 0, said
    assert installed(server) == NEW
    assert said.rindex("TASK [ownmetal.codex.cuda : ") < said.index("TASK [ownmetal.codex.vllm : Run | Switch, start")
    assert server.service("vllm@micro").is_running
    assert "chat_tool_call" in said
