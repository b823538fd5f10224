"""What the scenario's tests share: the hosts, the key, and a way to run playbooks as an operator does."""

from __future__ import annotations

import os
import re

import pytest

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "inventories/lab"
KEY_FILE = INVENTORY / ".secrets/vllm_api_key"


@pytest.fixture(scope="session")
def server():
    return testing.host("server1", INVENTORY)


@pytest.fixture(scope="session")
def developer():
    return testing.host("dev1", INVENTORY)


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


@pytest.fixture(scope="session")
def playbook():
    """Run a playbook of the collection with extra variables; return exit code and output, ready to read."""
    return testing.playbook(INVENTORY)
