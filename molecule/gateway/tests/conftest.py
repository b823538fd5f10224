"""What the scenario's tests share: the hosts, keys, ways to ask the gateway as another machine does, and playbooks."""

from __future__ import annotations

import json
import shlex

import pytest

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/gateway/inventory"
SECRETS = INVENTORY / ".secrets/gateway"


@pytest.fixture(scope="session")
def server():
    return testing.host("server1", INVENTORY)


@pytest.fixture(scope="session")
def gateway():
    return testing.host("gw1", INVENTORY)


@pytest.fixture(scope="session")
def developer():
    return testing.host("dev1", INVENTORY)


@pytest.fixture(scope="session")
def playbook():
    """Run a playbook of the collection with extra variables; return exit code and output, ready to read."""
    return testing.playbook(INVENTORY)


@pytest.fixture(scope="session")
def keys():
    """Each key by its name, with the servers' own and one that nobody has."""
    people = {path.stem: path.read_text().strip() for path in SECRETS.glob("keys/*/*.key")}
    return {**people, "internal": (INVENTORY / ".secrets/vllm_api_key").read_text().strip(), "wrong": "x" * 43, "none": ""}


@pytest.fixture(scope="session")
def ask(developer, keys):
    """Ask from the developer machine; return (status, body). A body goes by a file, and so does the key."""

    def curl(path, key="anna", body=None, method=None, options=""):
        header = f"Authorization: Bearer {keys[key]}" if keys[key] else "X-None: none"
        words = f"umask 077; printf %s {shlex.quote(header)} >/root/.header; "
        send = f"curl -s -m 400 -w '\\n%{{http_code}}' {options} -H @/root/.header https://gw1{path}"
        send += f" -X {method}" if method else ""
        if body is not None:
            text = body if isinstance(body, str) else json.dumps(body)
            words += f"printf %s {shlex.quote(text)} >/root/.body; "
            send += " -H 'Content-Type: application/json' --data-binary @/root/.body"
        said, _, status = developer.run(words + send).stdout.rpartition("\n")
        return int(status), said

    return curl


READER = """
import http.client, json, ssl, sys, time
host, port, plain, tokens = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "http", int(sys.argv[5])
key = open("/root/.key-" + sys.argv[4]).read()
line = http.client.HTTPConnection(host, port) if plain else http.client.HTTPSConnection(host, port, context=ssl.create_default_context())
message = {"role": "user", "content": "Count. [loop]"}
body = {"model": "micro", "stream": True, "max_tokens": tokens, "messages": [message], "stream_options": {"include_usage": True}}
line.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
answer, start, times, text = line.getresponse(), time.time(), [], b""
while piece := answer.read1(65536):
    times.append(time.time() - start)
    text += piece
last = [json.loads(row[6:]) for row in text.decode().split("\\n\\n") if row.startswith("data: {")]
print(json.dumps({"status": answer.status, "reads": len(times), "first": times[0], "last": times[-1],
                  "done": text.rstrip().endswith(b"[DONE]"), "tokens": (last[-1].get("usage") or {}).get("completion_tokens")}))
"""


@pytest.fixture(scope="session")
def stream(developer, gateway, keys):
    """Return the command that reads a stream on a host, and says how it came."""
    for host in (developer, gateway):
        host.check_output("cat >/root/reader.py <<'E'" + READER + "E")
        for name in ("anna", "bot", "internal"):
            host.check_output("umask 077; printf '%%s' %s >/root/.key-%s", keys[name], name)

    def command(tokens, key="anna", where="gw1 443 https"):
        return f"python3 /root/reader.py {where} {shlex.quote(key)} {tokens}"

    yield command
    for host in (developer, gateway):
        host.check_output("rm -f /root/.key-* /root/reader.py")


def reloads(gateway):
    """How many times the service was told to read its files again."""
    return int(gateway.check_output("journalctl -u ownmetal-gateway --no-pager | grep -c Reloaded || true"))
