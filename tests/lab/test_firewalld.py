"""The policy for firewalld, read by a real firewalld: who is named reaches the port, nobody else does, and other ports are the zone's.

Needs root. Takes half a minute once the root is cached.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import instances
from ansible_collections.ownmetal.codex.plugins.module_utils.firewall import firewalld, guarded
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track

CHECKOUT = Path(__file__).resolve().parents[2]
LAB = f"f{secrets.token_hex(2)}"
PORT, OTHER = 8002, 8003
# netbase: firewalld asks for the numbers of protocols
APT = "DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends"
INSTALL = f"apt-get update -qq && {APT} firewalld netbase nftables >/dev/null"

pytestmark = pytest.mark.lab


def lab(*words, **options):
    command = [sys.executable, "-m", "lab", *words]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | {"LAB_ID": LAB}, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{words}: {done.stdout} {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def address():
    """A host on which firewalld rules, with listeners on two ports; its address."""
    try:
        lab("up", "wall:bookworm")
        lab("exec", "wall", "sh", "-c", f"{INSTALL}; systemctl start firewalld && firewall-cmd --state")
        for port in (PORT, OTHER):
            lab("exec", "wall", "systemd-run", "--quiet", "python3", "-m", "http.server", str(port))
        yield json.loads(lab("list", "--json"))[0]["address"]
    finally:
        lab("down", "--all")


def rule(source):
    """Let firewalld read the policy for an instance that one source may reach."""
    entry = {"name": "coder", "model": "/m", "port": PORT, "host": "0.0.0.0", "allowed_sources": [source]}
    policy = firewalld(guarded(instances([[entry]], track("cpu-py311")), []))
    place = "/etc/firewalld/policies/ownmetal-vllm.xml"
    lab("exec", "wall", "sh", "-c", f"cat >{place} && firewall-cmd --check-config && firewall-cmd --reload", input=policy)


def reaches(address, port, seconds=10.0):
    """How a connection from this machine ends: True, or the error's name."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=3).close()
        except OSError as error:
            if time.monotonic() > end:
                return type(error).__name__
            time.sleep(0.5)
        else:
            return True


def test_who_is_named_reaches_the_port_and_nobody_else(address):
    own = ".".join([*address.split(".")[:3], "1"])  # this machine's end of the lab's network
    rule(f"{own}/32")
    assert reaches(address, PORT) is True
    assert reaches(address, OTHER, 0) is not True  # the zone's business, which opens nothing
    rule("192.0.2.7")
    assert reaches(address, PORT, 0) == "ConnectionRefusedError"
