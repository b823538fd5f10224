"""What the scenario's tests share: the hosts, keys, ways to ask the gateway as another machine does, and playbooks."""

from __future__ import annotations

import json
import shlex
import time

import pytest

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/gateway/inventory"
SECRETS = INVENTORY / ".secrets/gateway"
DRAIN = "/usr/local/libexec/ownmetal-gateway/drain"


@pytest.fixture(scope="session")
def server():
    return testing.host("server1", INVENTORY)


@pytest.fixture(scope="session")
def server2():
    return testing.host("server2", INVENTORY)


@pytest.fixture(scope="session")
def gateway():
    return testing.host("gw1", INVENTORY)


@pytest.fixture(scope="session")
def developer():
    return testing.host("dev1", INVENTORY)


@pytest.fixture(scope="session")
def developer2():
    return testing.host("dev2", INVENTORY)


@pytest.fixture(scope="session")
def playbook():
    """Run a playbook of the collection with extra variables; return exit code and output, ready to read."""
    return testing.playbook(INVENTORY)


class Keys:
    """Each person's key by name as it is now, with the servers' own and one that nobody has: some tests rotate them."""

    def __getitem__(self, name):
        if name in ("wrong", "none"):
            return {"wrong": "x" * 43, "none": ""}[name]
        files = [INVENTORY / ".secrets/vllm_api_key"] if name == "internal" else SECRETS.glob(f"keys/*/{name}.key")
        return next(iter(files)).read_text().strip()


@pytest.fixture(scope="session")
def keys():
    return Keys()


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
import hashlib, http.client, json, ssl, sys, time
host, port, plain, tokens = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "http", int(sys.argv[5])
key = open("/root/.key-" + sys.argv[4]).read()
line = http.client.HTTPConnection(host, port) if plain else http.client.HTTPSConnection(host, port, context=ssl.create_default_context())
message = {"role": "user", "content": "Count. [loop]"}
body = {"model": "micro", "stream": True, "max_tokens": tokens, "messages": [message], "stream_options": {"include_usage": True}}
body["temperature"] = 0
line.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
answer, start, times, text = line.getresponse(), time.time(), [], b""
while piece := answer.read1(65536):
    times.append(time.time() - start)
    text += piece
last = [json.loads(row[6:]) for row in text.decode().split("\\n\\n") if row.startswith("data: {")]
said = {}  # a busy server puts several tokens into one event: the text is compared, and not its pieces
for row in last:
    for choice in row["choices"]:
        for part, piece in choice["delta"].items():
            said[part] = said.get(part, "") + (piece if isinstance(piece, str) else "")
gaps = [one - other for one, other in zip(times[1:], times)]
print(json.dumps({"status": answer.status, "came": start, "reads": len(times),
                  "first": times[0], "last": times[-1], "ended": time.time(), "gap": max(gaps, default=0),
                  "said": hashlib.sha256(json.dumps(said).encode()).hexdigest(),
                  "done": text.rstrip().endswith(b"[DONE]"), "tokens": (last[-1].get("usage") or {}).get("completion_tokens")}))
"""


@pytest.fixture
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


LOAD = """
import collections, http.client, itertools, json, pathlib, ssl, threading, time
stop, counts, numbers = pathlib.Path("/root/stop"), collections.Counter(), itertools.count()
key, context = open("/root/.key-anna").read(), ssl.create_default_context()
def one(stream):
    body = {"model": "micro", "input": "Count. [loop]" if stream else "hello", "max_output_tokens": 600 if stream else 20, "stream": stream,
            "prompt_cache_key": "conversation %d" % next(numbers)}
    try:
        line = http.client.HTTPSConnection("gw1", context=context, timeout=400)
        line.request("POST", "/v1/responses", json.dumps(body), {"Authorization": "Bearer " + key, "Content-Type": "application/json"})
        answer = line.getresponse()
        text = answer.read()
        whole = b"response.completed" in text or b"response.incomplete" in text if stream else json.loads(text).get("object") == "response"
        return "%d %s" % (answer.status, "whole" if whole else text[-200:].decode())
    except http.client.IncompleteRead:
        return "cut"
    except OSError as error:
        return repr(error)
def go(stream):
    while not stop.exists():
        counts[one(stream)] += 1
        time.sleep(0.5)  # four of them stay below the key's limit, and leave the servers a turn
threads = [threading.Thread(target=go, args=(stream,)) for stream in (False, False, True, True)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(json.dumps(counts))
"""


@pytest.fixture
def load(developer, stream):
    """Start requests, short ones and streams, each its own conversation; return the function that ends them and says how they went."""
    developer.check_output("cat >/root/load.py <<'E'" + LOAD + "E\nrm -f /root/stop")
    developer.check_output("(python3 /root/load.py >/root/load.out 2>&1 &)")

    def ended():
        developer.check_output("touch /root/stop; for n in $(seq 400); do pgrep -f '[l]oad.py' >/dev/null || break; sleep 1; done")
        return json.loads(developer.check_output("cat /root/load.out"))

    yield ended
    developer.run("touch /root/stop; sleep 2; pkill -xf 'python3 /root/load.py'; rm -f /root/load.py /root/load.out")


@pytest.fixture
def stand_in(gateway):
    """Lead the gateway to a program of its own host, where no real server can be made to do a thing."""
    folder, unit = "/etc/ownmetal-gateway", "systemctl {} ownmetal-gateway; sleep 1"
    files = [name for name in ("nginx.conf", "state.json", "Caddyfile") if gateway.file(f"{folder}/{name}").exists]
    gateway.check_output(f"mkdir -m 700 /root/kept; cd {folder}; cp -p {' '.join(files)} /root/kept/")

    class StandIn:
        def lead(self, address):
            gateway.check_output(f"cd {folder}; sed -i -E 's/[0-9.]+:8001/{address}/g' {' '.join(files)}; {unit.format('reload')}")

        def start(self, script):
            gateway.run_expect([0], "cat >/run/stand_in.py <<'E'" + script + "E")
            gateway.check_output("systemd-run --quiet --collect --unit=stand-in python3 /run/stand_in.py")

    yield StandIn()
    gateway.check_output(f"cp -p /root/kept/* {folder}/; rm -r /root/kept; {unit.format('reload')}")
    gateway.run("systemctl stop stand-in; rm -f /run/stand_in.py")


@pytest.fixture
def reloading(gateway):
    """Reload every two seconds from now on; return the function that ends this and says when it was done.

    Who waited for a stream first, to reload then, would on two busy processors often see it when it has ended.
    """
    again = "while sleep 2; do systemctl reload ownmetal-gateway && date +%s.%N >>/run/reloads; done"
    gateway.check_output(f"rm -f /run/reloads; systemd-run --quiet --collect --unit=reloads sh -c '{again}'")
    count = reloads(gateway)

    def ended():
        gateway.check_output("systemctl stop reloads")
        times = [float(line) for line in gateway.check_output("cat /run/reloads").split()]
        assert reloads(gateway) >= count + len(times) - 1
        return times

    yield ended
    gateway.run("systemctl stop reloads; rm -f /run/reloads")


def reloads(gateway):
    """How many times the service was told to read its files again."""
    return int(gateway.check_output("journalctl -u ownmetal-gateway --no-pager | grep -c Reloaded || true"))


def answered(developer, word):
    """The status that a key gets."""
    developer.check_output("umask 077; printf 'Authorization: Bearer %%s' %s >/root/.header", word)
    return developer.check_output("curl -s -o /dev/null -w '%{http_code}' -H @/root/.header https://gw1/v1/models; rm /root/.header")


RUNNING = "curl -sf https://gw1/metrics/server{1,2}/micro | awk '/^vllm:num_requests_running/ {sum += $2} END {print sum + 0}'"


def wait(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.5)


def codex_calls_a_tool(developer):
    """Let the real Codex do what the micro model always wants: a file; tell whether its turn ended well and the file is there."""
    developer.check_output("install -d -o dev -g dev /home/dev/work")
    run = "cd /home/dev/work && rm -f hello.txt && codex exec --json --ephemeral --skip-git-repo-check 'Create hello.txt' </dev/null"
    said = developer.run("runuser -l dev -c %s", run).stdout
    assert '"type":"turn.completed"' in said.splitlines()[-1], said
    assert developer.file("/home/dev/work/hello.txt").content_string == "hi"
