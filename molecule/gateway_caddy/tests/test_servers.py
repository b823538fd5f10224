"""Streams, servers that come and go, and new keys, with Caddy."""

import json

from ansible_collections.ownmetal.codex.plugins.module_utils import gateway_rotation
from conftest import NAME, SECRETS, give_key, key, main_pid, stream, streams_through, wait

DRAIN = "/usr/local/libexec/ownmetal-gateway/drain"
RUNNING = "curl -sk https://gw1/metrics/server{1,2}/micro | awk '{sum += $2} END {print sum + 0}'"


def who(ask, count=12):
    """The servers that answer conversations, by conversation."""
    said = {name: ask("/v1/responses", body={"input": "x"}, options=f"-H 'session_id: s{name}'") for name in range(count)}
    assert {status for status, _ in said.values()} == {200}, said
    return {name: json.loads(text)["server"] for name, (_, text) in said.items()}


def test_events_pass_as_they_come(client, ask):
    ask("/v1/models")
    status, reads, first, last, whole = json.loads(client.check_output(stream(60)))
    print(f"{reads} reads, the first after {first:.2f} s, the last after {last:.2f} s")
    assert (status, whole) == (200, True)
    assert first < 0.5
    assert last > 2.9  # 60 times 0.05 s: nothing was kept back and sent at once
    assert reads > 40


def test_who_goes_away_frees_the_server(client, ask):
    ask("/v1/models")
    client.check_output(f"({stream(2000)} >/dev/null 2>&1 & echo $! >/root/stream.pid)")
    wait(lambda: client.check_output(RUNNING) == "1")
    client.check_output("kill -KILL $(cat /root/stream.pid)")
    wait(lambda: client.check_output(RUNNING) == "0", 10)


def test_reloads_lose_no_stream(client, gateway, ask):
    ask("/v1/models")
    before = main_pid(gateway)
    ends = streams_through(client, lambda: gateway.check_output("for n in 1 2 3; do systemctl reload ownmetal-gateway; sleep 1; done"))
    assert [(status, whole) for status, _, _, _, whole in ends] == [(200, True)] * 10
    assert main_pid(gateway) == before


def test_a_conversation_stays_and_a_dead_server_costs_nothing(ask, servers):
    first = who(ask)
    assert set(first.values()) == {"server1", "server2"}
    assert who(ask) == first
    servers["server2"].check_output("systemctl stop stand-in")
    try:
        assert set(who(ask).values()) == {"server1"}
    finally:
        servers["server2"].check_output("systemctl start stand-in")


def test_a_request_waits_while_no_server_answers(ask, servers):
    for server in servers.values():
        server.check_output("systemctl stop stand-in")
    servers["server1"].check_output("systemd-run --quiet --on-active=6 --timer-property=AccuracySec=100ms systemctl start stand-in")
    try:
        status, said = ask("/v1/responses", body={"input": "x"})
        assert (status, json.loads(said)["server"]) == (200, "server1")
    finally:
        for server in servers.values():
            server.check_output("systemctl start stand-in")


def test_a_server_that_is_ill_costs_nothing(ask, servers):
    assert set(who(ask).values()) == {"server1", "server2"}
    servers["server2"].check_output("touch /root/ill")
    try:
        assert set(who(ask).values()) == {"server1"}
    finally:
        servers["server2"].check_output("rm /root/ill")
    wait(lambda: set(who(ask).values()) == {"server1", "server2"}, 10)


def test_requests_wait_while_every_server_is_ill(ask, client, servers):
    ask("/v1/models")
    for server in servers.values():
        server.check_output("touch /root/ill; systemd-run --quiet --on-active=6 --timer-property=AccuracySec=100ms rm /root/ill")
    # side by side: who comes later finds servers that are known to be ill
    options = "-s -m 100 -o /dev/null -w '%{http_code} %{time_total}\\n' --cacert /root/ca.crt -H @/root/header --data '{}'"
    asked = f'curl {options} -H "session_id: s$n" https://{NAME}/v1/responses'
    try:
        said = client.check_output(f"for n in 1 2 3 4; do {asked} & sleep 0.3; done; wait").splitlines()
        assert [line.split()[0] for line in said] == ["200"] * 4, said
        assert min(float(line.split()[1]) for line in said) > 1, said
    finally:
        for server in servers.values():
            server.check_output("rm -f /root/ill")


def test_a_drained_server_ends_its_streams_and_gets_nothing_new(ask, client, gateway):
    ask("/v1/models")

    def drain():
        assert gateway.check_output(f"{DRAIN} out server2 60") == "micro"  # returns when its streams have ended
        assert client.check_output("curl -sk https://gw1/metrics/server2/micro | cut -d ' ' -f 2") == "0"

    ends = streams_through(client, drain)
    assert [(status, whole) for status, _, _, _, whole in ends] == [(200, True)] * 10
    assert set(who(ask).values()) == {"server1"}
    assert gateway.check_output(f"{DRAIN} back server2") == "micro"
    assert set(who(ask).values()) == {"server1", "server2"}


def test_a_rotation_has_an_overlap_and_an_end(playbook, ask, gateway):
    before, count = key("anna"), main_pid(gateway)
    code, said = playbook("rotate_keys", key_team="red")
    assert code == 0, said[-3000:]
    assert key("anna") != before
    assert [ask("/v1/models", word)[0] for word in (before, key("anna"))] == [200, 200]
    code, said = playbook("rotate_keys", key_team="red", gateway_key_overlap_hours=0)
    assert code == 0, said[-3000:]
    assert [ask("/v1/models", word)[0] for word in (before, key("anna"))] == [401, 200]
    assert main_pid(gateway) == count


def test_a_new_servers_key_refuses_nobody_while_servers_have_either(ask, servers, converge):
    """The two ends of playbooks/rotate_server_key.yml. What is between them restarts servers, which here only stand in."""
    file = str(SECRETS / "vllm_api_key")
    assert gateway_rotation.rotate_servers([file]) == [file]
    converge()
    assert set(who(ask).values()) == {"server1", "server2"}  # both have the old one
    give_key(servers["server1"], key("internal"))
    assert set(who(ask).values()) == {"server1", "server2"}
    give_key(servers["server2"], key("internal"))
    gateway_rotation.finish_servers([file])
    converge()
    assert set(who(ask).values()) == {"server1", "server2"}
    give_key(servers["server1"], "another-key-than-the-gateway-has")
    try:
        said = [ask("/v1/responses", body={"input": "x"}, options=f"-H 'session_id: s{name}'") for name in range(12)]
    finally:
        give_key(servers["server1"], key("internal"))
    # of a client's key nothing is wrong
    assert {status for status, _ in said} == {200, 502}
