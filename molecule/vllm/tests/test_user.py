"""vLLM runs as a user that was there before, with a group that others have, too."""

import re

import pytest
from conftest import answers


@pytest.fixture
def llm(server2, playbook):
    server2.check_output("useradd --system --no-create-home --gid users llm")
    yield "llm"
    code, said = playbook("gpu_servers", "--limit", "server2")
    assert code == 0, said
    server2.check_output("userdel llm")


def test_a_user_whose_group_has_another_name(server2, key, llm, playbook):
    code, said = playbook("gpu_servers", "--limit", "server2", vllm_user=llm)
    assert code == 0, said
    pid = server2.check_output("systemctl show -P MainPID vllm@micro")
    assert server2.check_output(f"ps -o user=,group= -p {pid}").split() == ["llm", "users"]
    assert answers(server2, key)
    code, said = playbook("gpu_servers", "--limit", "server2", vllm_user=llm)
    assert (code, re.findall(r"changed=(\d+)", said)) == (0, ["0"]), said
