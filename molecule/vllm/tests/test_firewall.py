"""Who reaches an instance that listens for other machines, and an ollama service in its place."""

import contextlib
import re
import subprocess
import time

import pytest
from conftest import INVENTORY, answers, on_server1, pids

from lab.testing import ROOT, environment

PORT = 8002  # server1's second instance listens on all addresses; the inventory lets server2 reach it
TABLE = "nft list table inet ownmetal_vllm"


@pytest.fixture(scope="module")
def address(server):
    return server.check_output("ip -4 -o addr show scope global | awk '{print $4}' | cut -d/ -f1 | head -1")


def reaches(host, address, port=PORT):
    """Whether a host gets an answer: 401 is one, without the key."""
    said = host.run(f"curl -s -m 5 -o /dev/null -w '%{{http_code}}' http://{address}:{port}/v1/models")
    return said.rc == 0 and said.stdout == "401"


def eventually(what, seconds):
    """Ask until it is so; tell whether it came to be."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(RuntimeError):  # ssh, while the host reboots
            if what():
                return True
        time.sleep(1)
    return False


def test_who_is_allowed_reaches_it_and_nobody_reaches_the_others(server, server2, address):
    assert reaches(server2, address)
    assert not reaches(server2, address, 8001)  # micro listens on loopback alone
    assert reaches(server, "127.0.0.1")
    rules = server.check_output(TABLE)
    assert 'iifname "lo" accept' in rules
    assert f"tcp dport {PORT} jump instance_second" in rules
    assert "dport 22" not in rules


def test_who_is_not_allowed_is_refused_and_no_model_restarts(server, server2, address, playbook):
    before = pids(server)
    try:
        code, said = playbook("gpu_servers", "--limit", "server1", vllm_allowed_sources=["192.0.2.0/24", "2001:db8::/64"])
        assert code == 0, said
        assert not reaches(server2, address)
        assert server2.run(f"curl -s -m 5 http://{address}:{PORT}/metrics").rc == 7  # at once, and not after a silence
        assert reaches(server, "127.0.0.1")
        assert reaches(server, address)  # from the server itself that is loopback, too
        rules = server.check_output(TABLE)
        assert re.search(r"ip saddr [{ ]*192.0.2.0/24[ }]* counter", rules), rules
        assert re.search(r"ip6 saddr [{ ]*2001:db8::/64[ }]* counter", rules), rules
        assert "counter packets 0" not in rules.partition("reject")[0].rpartition("\n")[2]  # it counted who was refused
        code, said = playbook("gpu_servers", "--limit", "server1", vllm_allowed_sources=["192.0.2.0/24", "2001:db8::/64"])
        assert code == 0, said
        assert "changed=0" in said
    finally:
        code, said = playbook("gpu_servers", "--limit", "server1")
    assert code == 0, said
    assert reaches(server2, address)
    assert pids(server) == before


def test_rules_that_someone_flushed_are_back_before_an_instance_starts(server):
    server.check_output("nft flush ruleset && systemctl restart vllm@second")
    assert "jump instance_second" in server.check_output(TABLE)


def test_rules_that_someone_flushed_are_back_after_the_next_run(server, playbook):
    server.check_output("nft flush ruleset")
    assert server.run(TABLE).rc != 0
    code, said = playbook("gpu_servers", "--limit", "server1")
    assert code == 0, said
    assert "jump instance_second" in server.check_output(TABLE)
    code, said = playbook("gpu_servers", "--limit", "server1")
    assert "changed=0" in said


def test_nothing_starts_where_the_rules_cannot_be_loaded(server):
    """A start brings the rules along; where they do not come it is refused. What runs is left alone."""
    server.check_output(
        "cp /etc/vllm/firewall.nft /run/firewall.nft; echo nonsense >>/etc/vllm/firewall.nft; systemctl stop ownmetal-firewall"
    )
    try:
        said = server.run("systemctl start vllm@third")
        assert said.rc != 0
        assert "Assertion failed" in said.stderr
    finally:
        server.check_output("cat /run/firewall.nft >/etc/vllm/firewall.nft; systemctl stop vllm@third")
        server.check_output("systemctl reset-failed ownmetal-firewall; systemctl start ownmetal-firewall")
    assert "jump instance_second" in server.check_output(TABLE)


def test_an_instance_that_listens_for_others_changes_nothing_for_the_rest(server, server2):
    """Server1 has one, server2 has none: what all instances of a server read is the same, so that none restarts for another's sake."""
    assert server.file("/etc/systemd/system/vllm@.service").sha256sum == server2.file("/etc/systemd/system/vllm@.service").sha256sum


def test_an_instance_that_goes_back_is_guarded_where_it_listened(server, server2, address, key, playbook):
    """By itself, from loopback to where everyone would reach it: the inventory has nothing to say of that port any more."""
    second = pids(server)["vllm@second"]
    try:
        code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(host="0.0.0.0", port=8005))
        assert code == 0, said
        assert reaches(server2, address, 8005)
        misfit = on_server1(tool_call_parser="llama3_json")
        code, said = playbook("upgrade", "--limit", "server1", vllm_allowed_sources=["192.0.2.0/24"], **misfit)
        assert code != 0, said
        assert "serves again" in said
        assert answers(server, key, 8005)
        assert server2.run(f"curl -s -m 5 http://{address}:8005/metrics").rc == 7
    finally:
        code, said = playbook("gpu_servers", "--limit", "server1")
    assert code == 0, said
    assert answers(server, key)
    assert pids(server)["vllm@second"] == second
    code, said = playbook("gpu_servers", "--limit", "server1")
    assert "changed=0" in said


def test_an_instance_that_the_inventory_forgot_is_named_and_guarded(server, playbook):
    server.check_output(
        "mkdir -p /var/lib/vllm/forgotten/releases/1 && ln -s releases/1 /var/lib/vllm/forgotten/current && "
        "printf 'host: 0.0.0.0\\nport: 8009\\n' >/var/lib/vllm/forgotten/releases/1/config.yaml"
    )
    try:
        code, said = playbook("gpu_servers", "--limit", "server1")
        assert code == 0, said
        assert "vllm_instances forgotten: is on server1, and its inventory does not name it" in " ".join(said.split())
        assert "tcp dport 8009 jump instance_forgotten" in server.check_output(TABLE)
    finally:
        server.check_output("rm -r /var/lib/vllm/forgotten")
        code, said = playbook("gpu_servers", "--limit", "server1")
    assert code == 0, said
    assert "8009" not in server.check_output(TABLE)


def test_the_limits_of_an_instance_are_its_unit_s(server):
    """The inventory gives the second instance of server1 12 GiB and a CPU; the first has no limit, and the same hardening."""
    words = "MemoryMax,CPUAffinity,PrivateDevices,NeedDaemonReload"
    second, micro = (
        dict(line.split("=") for line in server.check_output(f"systemctl show --property={words} vllm@{name}").splitlines())
        for name in ("second", "micro")
    )
    assert second == {"MemoryMax": str(12 << 30), "CPUAffinity": "0", "PrivateDevices": "yes", "NeedDaemonReload": "no"}
    assert micro == {"MemoryMax": "infinity", "CPUAffinity": "", "PrivateDevices": "yes", "NeedDaemonReload": "no"}
    for name in ("second", "micro"):
        said = server.check_output(f"systemd-analyze security --no-pager vllm@{name} | tail -1")
        assert float(said.split(": ")[1].split()[0]) <= 1.2, said


OLLAMA = """
[Service]
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 11434 --directory /srv/ollama
[Install]
WantedBy=multi-user.target
"""
# it answers for the driver 580 and one GPU, whose memory ollama has
NVIDIA_SMI = """#!/bin/sh
case "$1" in
--query-gpu=index,uuid) echo 0, GPU-1;;
--query-compute-apps=*) echo GPU-1, $(systemctl show -P MainPID ollama), ollama, 20480;;
*) echo 0, NVIDIA H100 80GB HBM3, 81559, 9.0, 580.95.05;;
esac
"""
BACK = """
- hosts: server2
  gather_facts: false
  become: true
  tasks:
    - ansible.builtin.import_role: {name: ownmetal.codex.vllm, tasks_from: ollama_back.yml}
"""


@pytest.fixture
def ollama(server2):
    """Return what systemd says of a stand-in for ollama on server2."""
    server2.check_output(
        f"mkdir -p /srv/ollama && touch /srv/ollama/model && cat > /etc/systemd/system/ollama.service <<'E'\n{OLLAMA}E\n"
        f"cat > /usr/local/bin/nvidia-smi <<'E'\n{NVIDIA_SMI}E\nchmod 755 /usr/local/bin/nvidia-smi\n"
        "systemctl daemon-reload && systemctl enable --quiet --now ollama"
    )
    yield lambda: server2.check_output("systemctl show --property=ActiveState,UnitFileState --value ollama").split()
    server2.run("systemctl disable --now ollama; rm -rf /etc/systemd/system/ollama.service /srv/ollama")
    server2.run("rm -f /usr/local/bin/nvidia-smi /etc/vllm/ollama.json; systemctl daemon-reload")


def test_ollama_is_named_replaced_and_brought_back(server2, ollama, key, playbook, tmp_path):
    micro = {"name": "micro", "port": 11434}
    try:
        code, said = playbook("gpu_servers", "--limit", "server2", vllm_instances_host=[micro])
        assert code != 0
        assert "vllm_instances micro: port: 11434 on server2 is taken by python3" in said
        assert "ollama.service). Write vllm_replace_ollama: true" in said
        assert ollama() == ["active", "enabled"]
        gpu = {"name": "gpu", "model": "/srv/ollama", "port": 8010, "track": "cu13-py312"}
        code, said = playbook("plan", "--limit", "server2", vllm_instances_host=[gpu])
        assert "vllm_instances gpu: gpus: 20 GiB of the GPU 0 of server2 are held by ollama" in said, said
        server2.check_output("rm /usr/local/bin/nvidia-smi")
        code, said = playbook("gpu_servers", "--limit", "server2", vllm_instances_host=[micro], vllm_replace_ollama=True)
        assert code == 0, said
        assert ollama() == ["inactive", "disabled"]
        assert server2.file("/srv/ollama/model").exists
        assert answers(server2, key, 11434)
        code, said = playbook("gpu_servers", "--limit", "server2", vllm_instances_host=[micro], vllm_replace_ollama=True)
        assert "changed=0" in said
    finally:
        code, said = playbook("gpu_servers", "--limit", "server2")
    assert code == 0, said
    (tmp_path / "back.yml").write_text(BACK)
    words = ["ansible-playbook", str(tmp_path / "back.yml"), "-i", str(INVENTORY)]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert ollama() == ["active", "enabled"]


def test_a_reboot_keeps_the_rules_and_the_instances_come_up_by_themselves(server, server2, address, key):
    booted = "systemctl show -P UserspaceTimestampMonotonic"
    before = server.check_output(booted)
    # a second later: this connection ends first
    server.check_output("systemd-run --quiet --on-active=1 --timer-property=AccuracySec=100ms systemctl reboot")
    assert eventually(lambda: server.run(booted).stdout.strip() not in ("", before), 60)
    assert eventually(lambda: "jump instance_second" in server.run(TABLE).stdout, 20)
    assert eventually(lambda: answers(server, key) and reaches(server2, address), 300)
