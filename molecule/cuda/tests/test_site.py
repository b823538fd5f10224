"""The whole chain on a server with stand-ins for GPUs: the driver first, then Python, then vLLM, which computes on the CPU."""

from __future__ import annotations

from conftest import INVENTORY, NEW, installed

from lab import testing


def test_the_whole_chain(blank):
    server = blank["server1"]
    # named: a server whose models are computed on the CPU would be left alone
    code, said = testing.playbook(INVENTORY)(
        "site", "--limit", "server1", "-e", "@molecule/cuda/vars/cpu.yml", cuda_driver_source="repository"
    )
    assert code == 0, said
    assert installed(server) == NEW
    assert said.index("nvidia-driver-cuda") < said.index("vllm@micro")
    assert server.service("vllm@micro").is_running
    assert "chat_tool_call" in said
