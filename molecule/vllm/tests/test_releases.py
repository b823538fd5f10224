"""An instance changes by releases: only it restarts, a bad one gives way by itself, an old one comes back by a link."""

import json
import re
import subprocess
import threading
import time

import pytest
import yaml
from conftest import INVENTORY, answers, current, on_server1, pids

from lab import testing
from lab.testing import ROOT

MISFIT = {"tool_call_parser": "llama3_json"}  # a parser that vLLM has, and whose marks this model's tokenizer lacks
DEAF = {"tool_call_parser": "pythonic"}  # one that needs no marks, and does not know this model's way to call a tool


class Client(threading.Thread):
    """Asks for a few tokens again and again, and counts what came of it: whole, cut short, or refused.

    Refused is who gets nothing of an answer: no one listens, it is told so, or hung up on (the kernel took the connection for a server
    that was about to end).

    The prompt is of some length: on a processor with AMX a worker of vLLM 0.32 was ended by SIGILL in one of five starts, where the first
    that it had to compute was a prompt of one token, and in none of seven with this one.
    """

    ASK = """
import http.client, json, os, sys, time, urllib.error, urllib.request
key, counts = sys.stdin.readline().strip(), {"whole": 0, "refused": 0, "cut": 0}
body = json.dumps({"model": "micro", "prompt": "Count slowly from one to ten, please. " * 4, "max_tokens": 8, "stream": True}).encode()
headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
end = time.time() + 600
while time.time() < end and not os.path.exists("/run/client-stop"):
    try:
        answer = urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8001/v1/completions", body, headers), timeout=60)
    except urllib.error.HTTPError as error:
        counts["refused" if error.code >= 500 else "cut"] += 1
    except OSError as error:
        reason = getattr(error, "reason", error)
        counts["refused" if isinstance(reason, (ConnectionError, http.client.RemoteDisconnected)) else "cut"] += 1
    else:
        try:
            with answer:
                counts["whole" if b"[DONE]" in answer.read() else "cut"] += 1
        except (OSError, http.client.HTTPException):
            counts["cut"] += 1
    time.sleep(0.1)
print(json.dumps(counts))
"""

    def __init__(self, host, key):
        super().__init__()
        self.host, self.key, self.counts = host, key, None

    def run(self):
        self.host.check_output("rm -f /run/client-stop; cat > /run/client.py <<'E'" + self.ASK + "E")
        self.counts = json.loads(self.host.check_output(f"python3 /run/client.py <<< '{self.key}'"))

    def stop(self):
        self.host.check_output("touch /run/client-stop")
        self.join(60)
        return self.counts


def test_what_changes_in_one_instance_restarts_that_one(server, playbook):
    before, number = pids(server), current(server)
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(max_num_seqs=6))
    assert code == 0, said
    after = pids(server)
    assert after["vllm@second"] == before["vllm@second"]
    assert after["vllm@micro"] != before["vllm@micro"]
    assert current(server) > number
    assert "max-num-seqs: 6" in server.check_output("cat /etc/vllm/micro.yaml")
    assert "server1 | micro: serves (a tool call, and its result sent back)" in said


def test_an_upgrade_to_a_bad_parser_goes_back_by_itself(server, key, playbook):
    """The other instance does not notice; requests are refused while nothing listens, and none is cut short."""
    before, number, config = pids(server), current(server), server.check_output("cat /etc/vllm/micro.yaml")
    client = Client(server, key)
    client.start()
    time.sleep(2)
    code, said = playbook("upgrade", "--limit", "server1", **on_server1(max_num_seqs=6, **MISFIT))
    counts = client.stop()
    print("requests during the upgrade and its revert:", counts)
    assert code != 0
    assert re.search(r"vllm_instances micro: release \d+ did not start: the model's tokenizer has no tokens that", said)
    assert f"Release {number} serves again." in said, said[-3000:]
    assert current(server) == number
    assert server.check_output("cat /etc/vllm/micro.yaml") == config
    assert pids(server)["vllm@second"] == before["vllm@second"]
    assert answers(server, key)
    assert counts["whole"] > 0
    assert counts["refused"] > 0
    assert counts["cut"] == 0


def test_an_upgrade_that_starts_and_calls_no_tools_goes_back_by_itself(server, key, playbook):
    """It serves, and only the proof finds out that Codex could do nothing with it."""
    before, number = pids(server), current(server)
    code, said = playbook("upgrade", "--limit", "server1", **on_server1(max_num_seqs=6, **DEAF))
    assert code != 0
    assert f"Release {number} serves again." in said, said[-3000:]
    assert "tool" in said.partition(f"Release {number} serves again.")[0].rpartition("vllm_instances micro")[2], said[-3000:]
    assert current(server) == number
    assert pids(server)["vllm@second"] == before["vllm@second"]
    assert answers(server, key)


def test_an_upgrade_stops_at_the_first_server_that_fails(server, server2, playbook):
    before = (current(server2), server2.check_output("systemctl show --property=MainPID vllm@micro"))
    code, said = playbook("upgrade", **on_server1(max_num_seqs=6, **MISFIT))
    assert code != 0, said
    assert (current(server2), server2.check_output("systemctl show --property=MainPID vllm@micro")) == before


@pytest.fixture
def one_start(server):
    """A limit of one start in an hour, for the first instance."""
    folder = "/etc/systemd/system/vllm@micro.service.d"
    server.check_output(f"mkdir -p {folder} && printf '[Unit]\\nStartLimitBurst=1\\n' >{folder}/zz-test.conf && systemctl daemon-reload")
    assert server.check_output("systemctl show -P StartLimitBurst vllm@micro") == "1"
    yield
    server.check_output(f"rm {folder}/zz-test.conf; rmdir --ignore-fail-on-non-empty {folder}; systemctl daemon-reload")


@pytest.mark.usefixtures("one_start")  # what a deployment starts is none of the tries that a crash has
def test_a_rollback_restores_flags_and_downloads_nothing(server, key, playbook):
    number = current(server)
    releases = "/var/lib/vllm/micro/releases"
    oldest = int(server.check_output(f"dirname $(ls {releases}/*/served.json | sort -V | head -n 1) | xargs basename"))
    config = server.check_output(f"cat {releases}/{oldest}/config.yaml")
    assert (oldest < number, config != server.check_output("cat /etc/vllm/micro.yaml")) == (True, True)
    code, said = playbook("rollback", "--limit", "server1", instance="micro", release=oldest)
    assert code == 0, said
    assert current(server) == oldest
    assert server.check_output("cat /etc/vllm/micro.yaml") == config
    assert answers(server, key, yaml.safe_load(config)["port"])  # so many are kept, and the oldest can be another test's
    assert "The inventory still says what it said" in said
    code, said = playbook("rollback", "--limit", "server1", instance="micro", release=number)
    assert code == 0, said
    assert current(server) == number


ROLLBACKS = [
    ({"instance": "micro", "release": 99}, "-e instance=micro: release 99 is not there. It has:"),
    ({"instance": "mirco"}, "-e instance=mirco: no server of this run has such an instance. They have: micro, second."),
]


@pytest.mark.parametrize(("asked", "words"), ROLLBACKS)
def test_a_rollback_to_what_is_not_there_is_refused(server, playbook, asked, words):
    before = (current(server), pids(server))
    code, said = playbook("rollback", "--limit", "server1", **asked)
    assert code != 0
    assert words in said
    assert (current(server), pids(server)) == before


def test_a_rollback_without_a_name_lists_the_releases(server, playbook):
    code, said = playbook("rollback", "--limit", "server1")
    assert code == 0
    assert re.search(r"\* +\d+ +cpu-py311-\w+ +\w+ +served since", said)
    assert "changed=0" in said


def test_a_play_that_is_killed_leaves_its_job_to_end(server, key, playbook):
    """kill -9 of the play: what it started on the host goes on, and the next run has nothing to do."""
    number = current(server)
    words = testing.command("gpu_servers", INVENTORY, "--limit", "server1", **on_server1(max_num_seqs=7))
    play = subprocess.Popen(words, cwd=ROOT, env=testing.environment(), stdout=subprocess.PIPE, text=True, start_new_session=True)
    for line in play.stdout:
        if "server1 | micro: st" in line:
            play.kill()
            break
    subprocess.run(["pkill", "-KILL", "-s", str(play.pid)], check=False)
    play.wait()
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(max_num_seqs=7))
    assert code == 0, said
    assert "max-num-seqs: 7" in server.check_output("cat /etc/vllm/micro.yaml")
    made = current(server)
    assert made > number
    assert answers(server, key)
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(max_num_seqs=7))
    assert code == 0, said
    assert "changed=0" in said, said
    assert current(server) == made


def test_a_job_that_is_killed_at_the_switch_is_made_good(server, key, playbook):
    """kill -9 on the host in the moment that the link is switched: the old process runs on or none, with the new release's files."""
    number = current(server)
    server.check_output(
        "cat > /run/killer <<'E'\n"
        "old=$(readlink /var/lib/vllm/micro/current); end=$(($(date +%s) + 120))\n"
        'while [ "$(readlink /var/lib/vllm/micro/current)" = "$old" ] && [ $(date +%s) -lt $end ]; do :; done\n'
        "pkill -KILL -f '[A]nsiballZ_vllm_units'\n"
        "E\n"
        "systemd-run --quiet --unit=killer bash /run/killer"
    )
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(max_num_seqs=5))
    assert code != 0
    assert "the job on this host: was ended from outside, before it had a result. Run the playbook again: it goes on." in said
    switched = current(server)
    assert switched > number
    assert not answers(server, key)
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(max_num_seqs=5))
    assert code == 0, said
    assert current(server) == switched
    assert answers(server, key)


def test_a_bad_release_that_nobody_watched_gives_way_in_the_next_run(server, key, playbook):
    """An earlier run switched to it and died: the next one finds it down, and goes back."""
    number = current(server)
    server.check_output(
        "cd /var/lib/vllm/micro && cp -a releases/{0} releases/{1} && rm releases/{1}/served.json && echo {0} > releases/{1}/replaces && "
        "sed -i 's/hermes/llama3_json/' releases/{1}/config.yaml && ln -sfn releases/{1} current && systemctl stop vllm@micro".format(
            number, number + 50
        )
    )
    code, said = playbook("gpu_servers", "--limit", "server1", **on_server1(max_num_seqs=5, **MISFIT))
    assert code != 0
    assert f"Release {number} serves again." in said
    assert answers(server, key)


def test_few_old_releases_are_kept(server, playbook):
    code, said = playbook("gpu_servers", "--limit", "server1", vllm_keep_releases=2, **on_server1(max_num_seqs=8))
    assert code == 0, said
    kept = server.check_output("ls /var/lib/vllm/micro/releases").split()
    assert 2 <= len(kept) <= 3
    assert str(current(server)) in kept


def test_a_damaged_environment_is_made_again_by_what_its_diagnosis_advises(server2, key, playbook):
    environment = server2.check_output("readlink -f /var/lib/vllm/micro/current/environment")
    server2.check_output(f"rm $(find {environment}/lib -path '*/site-packages/vllm/version.py')")
    assert server2.run("systemctl restart vllm@micro").rc != 0
    status = server2.run("systemctl status --no-pager --lines=0 vllm@micro").stdout
    assert "the environment lacks the Python module vllm.version" in status
    code, said = playbook("gpu_servers", "--limit", "server2")
    assert code == 0, said[-3000:]
    assert answers(server2, key)
    assert server2.check_output("readlink -f /var/lib/vllm/micro/current/environment") == environment
