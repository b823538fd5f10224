"""What the scenario's tests share: the hosts, the key, and a way to run playbooks as an operator does."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import testinfra

ROOT = Path(__file__).resolve().parents[3]
INVENTORY = ROOT / "inventories/lab"
KEY_FILE = INVENTORY / ".secrets/vllm_api_key"


def lab_host(name):
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY))


@pytest.fixture(scope="session")
def server():
    return lab_host("server1")


@pytest.fixture(scope="session")
def developer():
    return lab_host("dev1")


@pytest.fixture(scope="session")
def key():
    return KEY_FILE.read_text().strip()


@pytest.fixture(scope="session")
def base_url(server):
    """Where the instance was told to listen."""
    address = re.search(r"^host: (\S+)", server.check_output("cat /etc/vllm/micro.yaml"), re.MULTILINE)[1]
    return f"http://{address}:8001/v1"


@pytest.fixture(scope="session", autouse=True)
def endpoint(base_url):
    """Tell test_micro_model.py which server to ask."""
    os.environ["OWNMETAL_BASE_URL"], os.environ["OWNMETAL_KEY_FILE"] = base_url, str(KEY_FILE)


def causes(said):
    """The causes that a run names; each is told in the error and again in the report."""
    return sorted(set(re.findall(r"\| cause: (.*?) \| next:", said)))


@pytest.fixture(scope="session")
def playbook():
    """Run a playbook of the collection with extra variables; return exit code and output, ready to read."""

    def run(name, *options, **variables):
        command = ["ansible-playbook", f"playbooks/{name}.yml", "-i", str(INVENTORY), "-e", json.dumps(variables), *options]
        plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=plain)
        # Ansible wraps what it prints: a sentence is looked for whatever the line breaks
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run
