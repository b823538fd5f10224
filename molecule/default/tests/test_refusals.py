"""What cannot work is refused in the operator's words, and the hosts stay as they were."""

import re

import pytest

from lab.testing import causes

UNIT = "vllm@micro.service"


def state(host):
    """Everything that a refused run could have changed."""
    return host.check_output(
        "find /etc/vllm /etc/systemd/system /opt/vllm /var/lib/vllm /var/lib/vllm-models /usr/local -path '*/environments/*/*' -prune "
        f"-o -printf '%p %m %u %s %T@ %l\\n' | sort; systemctl show --property=MainPID,ActiveState {UNIT}; "
        "dpkg-query -W | sha256sum; getent passwd | sha256sum"
    )


@pytest.fixture
def unchanged(server, developer):
    """Fail a test that changed a host."""
    before = (
        state(server),
        developer.check_output("dpkg-query -W | sha256sum; ls -lR --time-style=full-iso /home/dev/.codex/config.toml /opt"),
    )
    yield
    after = (
        state(server),
        developer.check_output("dpkg-query -W | sha256sum; ls -lR --time-style=full-iso /home/dev/.codex/config.toml /opt"),
    )
    assert after == before


@pytest.fixture
def old_driver(server):
    """Let the server look like one with two GPUs on driver 570: a stand-in answers for nvidia-smi."""
    script = "#!/bin/sh\\nfor gpu in 0 1; do echo $gpu, NVIDIA L40S, 46068, 8.9, 570.133.20; done\\n"
    server.check_output(f"printf '{script}' > /usr/local/bin/nvidia-smi && chmod 755 /usr/local/bin/nvidia-smi")
    yield
    server.check_output("rm /usr/local/bin/nvidia-smi")


MICRO = {"name": "micro"}
REFUSED = {
    "an unknown key": (
        {**MICRO, "max_model_length": 1},
        "vllm_instances micro: max_model_length: is not a key of an instance. Did you mean max_model_len?",
    ),
    "an unknown flag": (
        {**MICRO, "args": {"enable-auto-tool-call": True}},
        "vLLM 0.32.0 has no flag --enable-auto-tool-call. Did you mean enable-auto-tool-choice?",
    ),
    "a parser that the release does not have": (
        {**MICRO, "tool_call_parser": "hermess"},
        "tool_call_parser: vLLM 0.32.0 has no parser 'hermess'. Did you mean hermes?",
    ),
    "a model that is not there": (
        {"name": "second", "model": "/srv/models/none", "port": 8100},
        "vllm_instances second: model: there is no folder /srv/models/none (on server1).",
    ),
    "a context that the model does not have": (
        {**MICRO, "max_model_len": 200000},
        "vllm_instances micro: max_model_len: cannot be 200000: the model's longest context is 131072 tokens. Write max_model_len: 131072.",
    ),
    "ranks that the model cannot be split over": (
        {**MICRO, "tensor_parallel_size": 2},
        "vllm_instances micro: tensor_parallel_size: cannot be 2: its 1 attention heads do not divide by 2.",
    ),
    "more cache than the server has memory": (
        {**MICRO, "environment": {"VLLM_CPU_KVCACHE_SPACE": 4000}},
        "vllm_instances micro: max_model_len: does not fit: server1 has",
    ),
    "a name that Codex takes for its vendor's": (
        {**MICRO, "served_model_name": ["gpt-5"]},
        "vllm_instances micro: served_model_name: Codex takes 'gpt-5' for one of its vendor's models",
    ),
    "two instances on one port": (
        {"name": "second", "model": "/srv/models/none", "host": "0.0.0.0", "port": 8001},
        "vllm_instances second: port: the port 8001 is micro's already.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_inventory_is_refused(case, playbook, unchanged):
    instance, sentence = REFUSED[case]
    code, said = playbook("site", vllm_instances_host=[instance])
    assert code != 0
    assert sentence in said


def test_a_misspelt_variable_is_refused(playbook, unchanged):
    code, said = playbook("site", vllm_instances_hosts=[])
    assert code != 0
    assert "vllm_instances_hosts: is read by no role. Did you mean vllm_instances_host?" in said


def test_a_variable_of_other_guides_is_refused(playbook, unchanged):
    code, said = playbook("site", vllm_port=8000)
    assert code != 0
    assert "vllm_port: is read by no role." in said
    assert "vllm_instances" in said


def test_a_release_that_the_driver_cannot_run_is_refused(old_driver, unchanged, playbook):
    # the driver is somebody else's: the role cuda would find no GPU on the PCI bus first
    code, said = playbook("site", vllm_track="cu13-py312", python_version="3.12", cuda_driver_source="none")
    assert code != 0
    assert "vllm_track cu13-py312: its CUDA 13.0 needs the driver 580 or newer, and server1 has 570.133.20." in said


def test_one_refused_server_stops_all_or_itself_alone(server, developer, playbook, unchanged):
    """As a second server, the developer machine (Debian 13) has no Python for the track."""
    why = "its wheels are for Python 3.11, and dev1 (debian 13) has 3.13 in its packages"
    code, said = playbook("site", gpu_servers_group="all")
    assert code != 0
    assert why in said
    assert "Nothing is changed on server1: dev1 is refused or was not reached" in said
    code, said = playbook("gpu_servers", gpu_servers_group="all", vllm_plan_strict=False)
    assert code != 0
    assert why in said
    assert "Nothing is changed on server1" not in said
    assert re.search(r"server1 +: ok=\d+ +changed=0 +unreachable=0 +failed=0", said)
    assert re.search(r"dev1 +: ok=\d+ +changed=0 +unreachable=0 +failed=1", said)


def test_a_taken_port_is_refused(server, playbook, unchanged):
    server.check_output("systemd-run --quiet --unit=squatter python3 -m http.server 8100")
    try:
        code, said = playbook("site", vllm_instances_host=[{**MICRO, "port": 8100}])
    finally:
        server.check_output("systemctl stop squatter")
    assert code != 0
    assert "vllm_instances micro: port: 8100 on server1 is taken by python3 (pid" in said
    assert "squatter.service). Give the instance another port, or stop that program." in said


def test_an_instance_that_cannot_start_says_why_and_leaves_the_other_alone(server, playbook):
    """Only vLLM itself finds that a parser wants tokens which the tokenizer lacks; the play's error has the cause."""
    model = server.file("/var/lib/vllm/micro/current/model").linked_to
    before = server.check_output(f"systemctl show --property=MainPID {UNIT}")
    broken = {"name": "broken", "model": model, "port": 8100, "tool_call_parser": "mistral", "args": {"enforce-eager": True}}
    broken["environment"] = {"VLLM_CPU_KVCACHE_SPACE": 1}
    code, said = playbook("gpu_servers", vllm_instances_host=[broken])
    assert code != 0
    assert "vllm_instances broken: did not start:" in said
    assert "the model's tokenizer has no tokens that --tool-call-parser mistral look for" in said
    assert server.check_output("systemctl show --property=ExecMainStatus --value vllm@broken") == "78"  # a restart would not help
    code, said = playbook("gpu_servers", vllm_instances_host=[{"name": "broken", "state": "absent"}])
    assert code == 0, said
    assert not server.file("/etc/vllm/broken.yaml").exists
    assert server.check_output(f"systemctl show --property=MainPID {UNIT}") == before


def test_a_wrong_key_on_the_developer_machine_is_diagnosed(developer, playbook):
    (path,) = developer.check_output("ls /home/dev/.codex/*.key").split()
    developer.check_output(f"cp -p {path} /root/kept && echo wrong-wrong-wrong-wrong > {path}")
    try:
        code, said = playbook("verify", "--limit", "developers")
    finally:
        developer.check_output(f"cp -p /root/kept {path} && rm /root/kept")
    assert code != 0
    assert len(causes(said)) == 1
    assert "key" in causes(said)[0]


def test_a_server_that_is_down_is_diagnosed_from_both_sides(server, playbook):
    server.check_output(f"systemctl stop {UNIT}")
    try:
        code_server, said_server = playbook("verify", "--limit", "gpu_servers")
        code_developer, said_developer = playbook("verify", "--limit", "developers")
    finally:
        code, said = playbook("gpu_servers")
    assert code_server != 0
    assert code_developer != 0
    assert causes(said_server) == ["nothing listens there: the instance is down or still starting"]
    assert "systemctl status vllm@micro" in said_server
    assert causes(said_developer) == causes(said_server)  # worded once, wherever it is met
    assert code == 0, said
    assert server.service(UNIT).is_running
