"""Two servers of one model: where requests go, and what happens to them when a server is stopped, killed or upgraded."""

import json

import pytest
from conftest import DRAIN

LOG = "/var/log/ownmetal-gateway/access.log"


def asked(ask, gateway, conversation, text="hello"):
    """Ask within a conversation; return the servers that were tried."""
    status, said = ask("/v1/responses", body={"model": "micro", "input": text, "prompt_cache_key": conversation})
    assert status == 200, said
    return json.loads(gateway.check_output(f"tail -n 1 {LOG}"))["server"].split(", ")


@pytest.fixture
def without_server2(server2):
    server2.check_output("systemctl stop vllm@micro")
    yield
    server2.check_output("systemctl start vllm@micro")


def test_a_conversation_stays_with_one_server_and_all_have_some(ask, gateway):
    conversations = {name: asked(ask, gateway, f"conversation {name}") for name in range(12)}
    assert all(len(tried) == 1 for tried in conversations.values())
    assert len({tried[0] for tried in conversations.values()}) == 2
    assert {name: asked(ask, gateway, f"conversation {name}") for name in range(12)} == conversations


def test_a_server_that_is_away_costs_a_try_at_the_other(ask, gateway, without_server2):
    tried = [asked(ask, gateway, f"conversation {name}") for name in range(12)]
    assert any(len(one) == 2 for one in tried), tried
    assert len({one[-1] for one in tried}) == 1


def test_what_fails_leaves_no_argument_in_a_log(developer, ask, gateway, without_server2):
    """A key in an address is never read; it is not kept either."""
    for name in range(6):
        body = {"model": "micro", "input": "hello", "prompt_cache_key": f"conversation {name}"}
        assert ask("/v1/responses?key=SECRET-ARGUMENT", body=body)[0] == 200
    assert 429 in {ask("/v1/models?key=SECRET-ARGUMENT", "bot")[0] for _ in range(5)}
    assert gateway.run("journalctl --no-pager | grep -cF SECRET-ARGUMENT").stdout.strip() == "0"
    assert gateway.run("grep -rlF SECRET-ARGUMENT /var/log /run /etc").stdout == ""


def test_the_only_server_that_is_well_is_not_drained(gateway, without_server2):
    assert gateway.check_output(f"{DRAIN} out server1 5") == ""
    assert " drained" not in gateway.check_output("cat /etc/ownmetal-gateway/nginx.conf")


def test_a_new_servers_key_refuses_nobody_and_cuts_nothing(server, playbook, load, keys, gateway):
    """Both servers restart, drained by the gateway one after another."""
    old = keys["internal"]
    code, said = playbook("rotate_server_key")
    counts = load()
    assert code == 0, said
    assert set(counts) == {"200 whole"}, counts
    print(counts)
    direct = "umask 077; printf 'Authorization: Bearer %%s' %s >/root/.header; curl -s -o /dev/null -w '%%{http_code}' -H @/root/.header %s"
    for host in ("server1", "server2"):
        assert gateway.check_output(direct, old, f"http://{host}:8001/v1/models") == "401"
    assert " drained" not in gateway.check_output("cat /etc/ownmetal-gateway/nginx.conf")
    assert json.loads(gateway.check_output("cat /etc/ownmetal-gateway/state.json"))["models"]["micro"]["authorizations"][1:] == []
    code, said = playbook("site")
    assert code == 0, said
    assert said.count("changed=0") == said.count("unreachable=0"), said


CACHE = "curl -sf https://gw1/metrics/server{1,2}/micro | awk '/^vllm:prefix_cache_%s_total/ {sum += $2} END {print sum + 0}'"


def test_the_next_request_of_a_conversation_finds_its_beginning_in_the_cache(ask, gateway, developer):
    def counted():
        return [int(developer.check_output(CACHE % what)) for what in ("hits", "queries")]

    text = "A line of a long conversation. " * 100
    for name in range(6):
        asked(ask, gateway, f"cached {name}", f"{name} {text}")
    before = counted()
    for name in range(6):
        asked(ask, gateway, f"cached {name}", f"{name} {text} And more.")
    hits, queries = (now - then for now, then in zip(counted(), before))
    print(hits, "of", queries, "tokens")
    assert hits > 0.9 * queries  # were the server left to chance, half of that
