"""What the scenario's tests share: the two servers, the key, and a way to run playbooks as an operator does."""

from __future__ import annotations

import json

import pytest

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/vllm/inventory"


@pytest.fixture(scope="session")
def server():
    return testing.host("server1", INVENTORY)


@pytest.fixture(scope="session")
def server2():
    return testing.host("server2", INVENTORY)


@pytest.fixture(scope="session")
def key():
    return (INVENTORY / ".secrets/vllm_api_key").read_text().strip()


@pytest.fixture(scope="session")
def playbook():
    """Run a playbook of the collection with extra variables; return exit code and output, ready to read."""
    return testing.playbook(INVENTORY)


def pids(host):
    """The main process of each instance."""
    units = ("vllm@micro", "vllm@second")
    return {unit: host.check_output(f"systemctl show --property=MainPID --value {unit}") for unit in units}


def current(host, instance="micro"):
    """The number of the release that an instance runs."""
    return int(host.check_output(f"basename $(readlink /var/lib/vllm/{instance}/current)"))


def on_server1(**keys):
    """The inventory's own entry for server1's second instance stays, with changes to the first."""
    return {"vllm_instances_group": [{"name": "micro", **keys}]}


def answers(host, key, port=8001, model="micro"):
    """Whether an instance gives a token. (A prompt of one token can end a worker of vLLM's CPU build: see docs/units.md.)"""
    body = json.dumps({"model": model, "prompt": "Count slowly from one to ten, please. " * 4, "max_tokens": 1})
    ask = f"curl -sS -H @- -H 'Content-Type: application/json' -d '{body}' http://127.0.0.1:{port}/v1/completions"
    said = host.run(f"{ask} <<< 'Authorization: Bearer {key}'")
    state = host.run(f"systemctl --no-pager status 'vllm@*'; ss -Hltn 'sport = :{port}'").stdout
    print(f"port {port} said:", said.stdout, said.stderr, state)
    return '"completion_tokens":1' in said.stdout
