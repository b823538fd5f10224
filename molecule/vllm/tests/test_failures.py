"""Each way to fail, provoked with the real vLLM: which ones stay down, which ones are tried again, and what systemd's status says.

The instances are made by hand beside those of the inventory: links to the environment and model of the instance micro, and one thing
that is wrong.
"""

import json
import re
import subprocess
import time

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils.diagnoses import diagnose_journal
from conftest import INVENTORY

from lab import testing
from lab.testing import ROOT

CONFIG = {"host": "127.0.0.1", "max-model-len": 4096, "max-num-seqs": 2, "enforce-eager": True, "tool-call-parser": "hermes"}
VARIABLES = {"OWNMETAL_TRIES": 2, "OWNMETAL_PAUSE_SECONDS": 1}
DROP_INS = {
    "credential": "[Service]\nLoadCredential=\nLoadCredential=api-key:/etc/vllm/none",
    "memory": "[Service]\nMemoryMax=700M",
}
# what is wrong         config, variables, environment's link                         exit, a part of the status line
NEVER = {
    "flag": ({"no-such-flag": 1}, {}, 78, "this release of vLLM has no option --no-such-flag"),
    "value": ({"max-num-seqs": "many"}, {}, 78, "vLLM does not accept the value of --max-num-seqs"),
    "toolparser": ({"tool-call-parser": "nosuch", "enable-auto-tool-choice": True}, {}, 78, "has no tool-call parser nosuch"),
    "reasoning": ({"reasoning-parser": "nosuch"}, {}, 78, "this release of vLLM has no reasoning parser nosuch"),
    "nomodel": ({"model": "/srv/no-such-model"}, {}, 78, "the model directory /srv/no-such-model does not exist"),
    "context": ({"max-model-len": 200000}, {}, 78, "max_model_len 200000 is more than the model was made for"),
    "kvcache": (
        {"max-model-len": 5_000_000},  # what fits into 1 GiB of cache is 4.2 million
        {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": 1},
        78,
        "the KV cache holds no request of max_model_len tokens",
    ),
    "config": (None, {}, 78, "the configuration file /etc/vllm/config.yaml is gone"),
    "environment": ({}, {"link": "/opt/vllm/environments/none"}, 78, "the environment of environment is missing"),
    "credential": ({}, {}, 243, ""),
}
LATER = {
    "port": ({"port": 8001}, {}, 78, "down after 2 tries: another process listens on the port of port"),
    "slow": ({}, {"OWNMETAL_START_SECONDS": 5}, 78, "down after 2 tries: no first token came within vllm_start_timeout, 5 s. It was at:"),
    "memory": ({}, {}, 78, "down after 2 tries: the unit's or the server's memory ran out, and the kernel killed a part of vLLM"),
}
CASES = NEVER | LATER


def make(server, name, config, variables):
    """Make an instance from the one that runs."""
    variables = dict(variables)
    release, home = f"/var/lib/vllm/{name}/releases/1", f"/var/lib/vllm/{name}"
    environment = variables.pop("link", "$(readlink /var/lib/vllm/micro/current/environment)")
    # each its own port: vLLMs of one user would share one (SO_REUSEPORT)
    port = (config or {}).get("port", 8100 + (list(CASES).index(name) if name in CASES else 99))
    own = {"OWNMETAL_READY_URL": f"http://127.0.0.1:{port}", "OWNMETAL_READY_MODEL": name}
    words = "\n".join(f"{key}={value}" for key, value in {**VARIABLES, **own, **variables}.items())
    # JSON is YAML; the model is the one of micro, unless the case names another
    keys = {"model": "/var/lib/vllm/micro/current/model", "served-model-name": [name], "port": port, **CONFIG, **(config or {})}
    text = "\n".join(f"{key}: {json.dumps(value)}" for key, value in keys.items())
    drop_in = DROP_INS.get(name)
    script = [
        f"mkdir -p {release} /etc/systemd/system/vllm@{name}.service.d && ln -sfn {environment} {release}/environment",
        f"ln -sfn releases/1 {home}/current && ln -sfn {home}/current/variables.env /etc/vllm/{name}.env",
        f"grep -v OWNMETAL_READY /etc/vllm/micro.env > {release}/variables.env && cat >> {release}/variables.env <<'E'\n{words}\nE",
        f"sed -i s,/vllm/micro,/vllm/{name}, {release}/variables.env",
        f"cat > {release}/config.yaml <<'E'\n{text}\nE" if config is not None else "true",
        f"ln -sfn {home}/current/config.yaml /etc/vllm/{name}.yaml" if config is not None else "true",
        f"cat > /etc/systemd/system/vllm@{name}.service.d/test.conf <<'E'\n{drop_in}\nE" if drop_in else "true",
    ]
    server.check_output("set -e\n" + "\n".join(script))


def states(server, names):
    """What systemd says of each."""
    words = "ActiveState,SubState,Result,ExecMainStatus,StatusText,NRestarts"
    found = {}
    for name in names:
        lines = server.check_output(f"systemctl show --property={words} vllm@{name}").splitlines()
        found[name] = dict(line.split("=", 1) for line in lines)
    return found


def wait_until(what, seconds):
    """Ask until it is so."""
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def ended(server):
    """Start every case, some at once, and return what became of each."""
    for name, (config, variables, *_) in CASES.items():
        make(server, name, config, variables)
    server.check_output("systemctl daemon-reload")
    found, names = {}, list(CASES)
    try:
        for batch in (names[:4], names[4:8], names[8:]):
            server.check_output("systemctl start --no-block " + " ".join(f"vllm@{name}" for name in batch))
            wait_until(lambda batch=batch: all(one["ActiveState"] == "failed" for one in states(server, batch).values()), 300)
            found.update(states(server, batch))
            for name in batch:
                found[name]["journal"] = server.check_output(f"journalctl -u vllm@{name} -o cat -n 80")
        yield found
    finally:
        for name in names:
            server.run(f"systemctl stop vllm@{name}; systemctl reset-failed vllm@{name}")
            server.run(f"rm -rf /var/lib/vllm/{name} /etc/vllm/{name}.* /etc/systemd/system/vllm@{name}.service.d /var/cache/vllm/{name}")
        server.run("systemctl daemon-reload")


@pytest.mark.parametrize("name", NEVER)
def test_what_only_a_change_mends_stays_down_at_once(ended, name):
    *_, status, words = CASES[name]
    state = ended[name]
    assert (state["ActiveState"], state["ExecMainStatus"], state["NRestarts"]) == ("failed", str(status), "0"), state
    assert words in state["StatusText"]
    cause = diagnose_journal(state["journal"], name).cause  # what a play's error says
    assert cause in state["StatusText"] or cause.startswith("the file with the server's key is missing"), cause


@pytest.mark.parametrize("name", LATER)
def test_what_may_pass_is_tried_again_up_to_a_limit(ended, name):
    *_, status, words = CASES[name]
    state = ended[name]
    assert (state["ActiveState"], state["ExecMainStatus"], state["NRestarts"]) == ("failed", str(status), "1"), state
    assert words in state["StatusText"]


def test_the_others_did_not_notice(server, ended):
    assert states(server, ["micro"])["micro"]["NRestarts"] == "0"


@pytest.fixture(scope="module")
def steady(server):
    """Return an instance that is well, soon taken for frozen, and drains for five seconds."""
    config = {"max-model-len": 32768, "shutdown-timeout": DRAIN}
    make(server, "steady", config, {"OWNMETAL_FROZEN_SECONDS": 12, "OWNMETAL_TRIES": 8})
    server.check_output("systemctl daemon-reload; systemctl start vllm@steady")
    yield "steady"
    server.run("systemctl stop vllm@steady; systemctl reset-failed vllm@steady; rm -rf /var/lib/vllm/steady /etc/vllm/steady.*")


ENGINE = "$(pgrep -f VLLM::EngineCore | xargs -I PID sh -c 'grep -l vllm@steady /proc/PID/cgroup' | cut -d/ -f3)"


def test_a_dead_and_a_frozen_engine_are_noticed_and_started_again(server, steady):
    def ready_again(restarts):
        state = states(server, [steady])[steady]
        return state["ActiveState"] == "active" and state["NRestarts"] == str(restarts) and state

    server.check_output(f"kill -9 {ENGINE}")  # vLLM ends with 0 then
    assert wait_until(lambda: "try 2 of 8" in states(server, [steady])[steady]["StatusText"] or ready_again(1), 60)
    assert wait_until(lambda: ready_again(1), 300)
    frozen = time.monotonic()
    server.check_output(f"kill -STOP {ENGINE}")
    assert wait_until(lambda: states(server, [steady])[steady]["ActiveState"] != "active", 60)
    assert time.monotonic() - frozen < 40
    journal = server.check_output(f"journalctl -u vllm@{steady} -o cat | grep ^vllm-run")
    assert "vLLM's engine or one of its workers died" in journal, journal
    assert re.search(r"it was up and computed nothing for \d+ s: its engine hangs", journal), journal
    assert "waiting 2 s before try 3 of 8: it was up and computed nothing" in wait_until(
        lambda: server.run(f"journalctl -u vllm@{steady} -o cat | grep 'try 3'").stdout, 30
    )
    server.check_output(f"systemctl restart --no-block vllm@{steady}")  # an operator's restart begins with a first try
    assert wait_until(lambda: ready_again(0), 300)
    assert not server.run("ps -e -o stat,comm | grep ^T").stdout  # what was frozen is gone


DRAIN = 5
STOP = """
import http.client, json, subprocess, sys, threading, time, urllib.error, urllib.request
key, url = sys.stdin.readline().strip(), "http://127.0.0.1:8199/v1/completions"
said, flows = {}, {name: threading.Event() for name in ("endless", "short", "late")}
def ask(name, tokens):
    body = {"model": "steady", "prompt": "x", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=60) as answer:
            answer.readline()
            flows[name].set()
            said[name] = "whole" if b"[DONE]" in answer.read() else "cut"
    except urllib.error.HTTPError as error:
        said[name] = error.code
    except http.client.HTTPException:  # an end without the last piece
        said[name] = "cut"
    except OSError as error:
        said[name] = type(getattr(error, "reason", error)).__name__
    said[name + " ended"] = time.time()
threads = [threading.Thread(target=ask, args=row) for row in (("endless", 32000), ("short", 400), ("late", 4))]
threads[0].start(); threads[1].start()
flows["endless"].wait(60); flows["short"].wait(60)
begun = time.time()
stop = subprocess.Popen(["systemctl", "stop", "vllm@steady"])
while subprocess.run(["systemctl", "show", "-P", "ActiveState", "vllm@steady"], capture_output=True).stdout == b"active\\n":
    time.sleep(0.3)  # the endless stream keeps a small host busy, and systemd has to get a turn
said["heard"] = time.time()
time.sleep(1)
threads[2].start()
stop.wait()
said["stopped"] = time.time()
[thread.join() for thread in threads]
print(json.dumps({name: round(value - begun, 1) if isinstance(value, float) else value for name, value in said.items()}))
"""


def test_a_stop_lets_what_runs_end_within_the_limit_and_refuses_what_comes(server, steady, key):
    """An endless stream is cut when the drain is over; a short one is whole; who comes meanwhile is told so at once."""
    server.check_output(f"cat > /run/stop.py <<'E'{STOP}E")
    said = json.loads(server.check_output(f"python3 /run/stop.py <<< '{key}'"))
    print(said)
    assert said["short"] == "whole", said
    assert said["short ended"] > 0, said  # it was running when the stop came
    assert said["late"] in (500, 503, "ConnectionRefusedError"), said
    assert said["late ended"] < said["stopped"], said
    assert said["endless"] != "whole", said
    # from when systemd heard of it: how soon it does beside a stream that never sleeps is the kernel's affair
    assert DRAIN - 1 <= said["stopped"] - said["heard"] <= DRAIN + 12, said
    state = states(server, [steady])[steady]
    assert (state["ActiveState"], state["Result"]) == ("inactive", "success"), state


HOLDER = """
import socket, subprocess
with socket.create_server(("127.0.0.1", 8199)):
    while subprocess.run("systemctl show -P NRestarts vllm@steady | grep -qx 0", shell=True).returncode == 0:
        pass
"""


def test_a_deployment_waits_for_what_may_pass(server, steady):
    """A port that is free again when the first try has failed: the second makes it, and the play says so."""
    server.run("systemctl stop vllm@steady")
    server.check_output(f"cat > /run/holder.py <<'E'{HOLDER}E\nsystemd-run --quiet --collect --unit=holder python3 /run/holder.py; sleep 1")
    asked = json.dumps({"instances": [{"name": "steady", "home": "/var/lib/vllm/steady"}], "proof": False})
    words = ["ansible", "server1", "-i", str(INVENTORY), "--become", "-m", "ownmetal.codex.vllm_units", "-a", asked]
    done = subprocess.run(words, cwd=ROOT, env=testing.environment(), capture_output=True, text=True, check=False)
    server.run("systemctl disable vllm@steady")
    assert done.returncode == 0, done.stdout
    assert states(server, [steady])[steady]["NRestarts"] in ("1", "2")
    assert "waiting 1 s before try 2 of 8: another process listens on the port of steady" in done.stdout
