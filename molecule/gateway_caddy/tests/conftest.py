"""What the scenario's tests share: the hosts, keys, a way to ask the gateway from another machine, streams, and playbooks."""

from __future__ import annotations

import json
import shlex
import time

import pytest

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/gateway_caddy/inventory"
SECRETS = INVENTORY / ".secrets"
LOG = "/var/log/ownmetal-gateway/access.log"
ENGINES = ("caddy", "nginx")
NAME = "gw1.lab.test"


def host(name):
    return testing.host(name, INVENTORY)


@pytest.fixture(scope="session")
def gateway():
    return host("gw1")


@pytest.fixture(scope="session")
def client():
    found = host("client1")
    found.check_output("cat >/root/stream.py <<'E'" + STREAM + "E")
    address = host("gw1").check_output("hostname -I").split()[0]
    found.check_output(f"grep -q {NAME} /etc/hosts || echo {address} {NAME} >>/etc/hosts")
    return found


def key(name):
    """A person's key as it is now, or the servers' own."""
    files = [SECRETS / "vllm_api_key"] if name == "internal" else SECRETS.glob(f"gateway/keys/*/{name}.key")
    return next(iter(files)).read_text().strip()


@pytest.fixture(scope="session")
def servers():
    """The stand-ins, with the servers' key."""
    found = {name: host(name) for name in ("server1", "server2")}
    for one in found.values():
        give_key(one, key("internal"))
    return found


def give_key(server, word):
    server.check_output("umask 077; printf %%s %s >/root/key", word)


@pytest.fixture(scope="session")
def playbook():
    """Run a playbook of the collection with extra variables; return exit code and output, ready to read."""
    return testing.playbook(INVENTORY)


@pytest.fixture
def converge(playbook):
    """Run gateways.yml, which has to pass; return what it said."""

    def run(**variables):
        code, said = playbook("gateways", **variables)
        assert code == 0, said[-3000:]
        return said

    return run


@pytest.fixture(scope="session")
def ask(client, servers):
    """Ask from the client with a word as key; return (status, body). Nothing secret is on a command line."""

    def curl(path, word=None, body=None, options=""):
        client.check_output("umask 077; cat >/root/ca.crt <<'E'\n" + (SECRETS / "gateway/ca.crt").read_text() + "E")
        header = f"Authorization: Bearer {word if word is not None else key('anna')}"
        words = f"umask 077; printf %s {shlex.quote(header)} >/root/header; "
        words += f"curl -s -m 100 -w '\\n%{{http_code}}' --cacert /root/ca.crt {options} -H @/root/header https://{NAME}{path}"
        if body is not None:
            words += f" --data-binary {shlex.quote(body if isinstance(body, str) else json.dumps(body))}"
        said, _, status = client.run(words).stdout.rpartition("\n")
        return int(status), said

    return curl


# one stream: status, reads, when the first and the last came, whether it ended well
STREAM = """
import http.client, json, ssl, sys, time
context = ssl.create_default_context(cafile=sys.argv[1])
line = http.client.HTTPSConnection("gw1.lab.test", context=context)
headers = {"Authorization": open("/root/header").read().split(": ")[1], "session_id": sys.argv[3]}
line.request("POST", "/v1/responses", json.dumps({"model": "micro", "events": int(sys.argv[2])}), headers)
answer, start, times, text = line.getresponse(), time.time(), [], b""
while piece := answer.read1(65536):
    times.append(time.time() - start)
    text += piece
print(json.dumps([answer.status, len(times), times[0], times[-1], text.endswith(b"data: [DONE]\\n\\n")]))
"""


def stream(events, conversation="a", ca="/root/ca.crt"):
    """Return the command that reads a stream on the client."""
    return f"python3 /root/stream.py {ca} {events} {conversation}"


def streams_through(client, what, count=10, events=160, ca="/root/ca.crt"):
    """Do something while streams flow; return how each ended."""
    client.check_output(f"rm -f /root/s.*; for n in $(seq {count}); do ({stream(events, '$n', ca)} >/root/s.$n 2>&1 &); done; sleep 2")
    what()
    wait(lambda: client.check_output("cat /root/s.* | wc -l") == str(count), 60 + events * 0.06)
    return [json.loads(line) for line in client.check_output("cat /root/s.*").splitlines()]


def main_pid(gateway):
    return gateway.check_output("systemctl show -P MainPID ownmetal-gateway")


def wait(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.5)
