"""Limits, a restart that is waited for, servers by IPv6, and some that are well and answer nothing."""

import json

from conftest import DRAIN, RUNNING, codex_calls_a_tool, wait


def test_a_key_has_limits_and_another_does_not_feel_them(developer, ask, stream):
    """bot: 6 a minute, 2 above that at once, 1 at a time."""
    developer.check_output(f"({stream(30000, 'bot')} >/dev/null 2>&1 & echo $! >/root/reader.pid)")
    try:
        wait(lambda: developer.check_output(RUNNING) == "1")
        status, said = ask("/v1/responses", "bot", {"model": "micro", "input": "x"})
        assert (status, json.loads(said)["error"]["code"]) == (429, "rate_limited")
    finally:
        developer.check_output("kill -KILL $(cat /root/reader.pid)")
    assert [ask("/v1/models", "bot")[0] for _ in range(4)][-1] == 429
    assert {ask("/v1/models", "anna")[0] for _ in range(10)} == {200}


def test_a_restart_of_the_only_server_is_waited_for(server, developer, gateway):
    """Killed and started again, and the other one drained: Codex, which gives up on its own after 3 s, gets its answers, late."""
    assert gateway.check_output(f"{DRAIN} out server2 30") == "micro"
    try:
        server.check_output("systemctl kill -s KILL vllm@micro")
        assert server.run("curl -s -m 2 127.0.0.1:8001/health").rc != 0
        codex_calls_a_tool(developer)
        wait(lambda: server.run("systemctl is-active vllm@micro").stdout.strip() == "active", 120)
    finally:
        assert gateway.check_output(f"{DRAIN} back server2") == "micro"


# by IPv6: the lab's model servers have none
IPV6 = """
import http.server, json, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Model(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.say({"data": [{"id": "micro", "max_model_len": 4711}]})
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.say({"by": "ipv6"})
    def say(self, what):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(what).encode())
Server(("::1", 8199), Model).serve_forever()
"""
DEAF = IPV6.replace('self.say({"by": "ipv6"})', "pass")


def test_a_server_by_ipv6_is_waited_for_and_asked_for_its_length(stand_in, ask, gateway):
    stand_in.lead("[::1]:8199")
    gateway.run_expect([0], "cat >/run/stand_in.py <<'E'" + IPV6 + "E")
    gateway.check_output("systemd-run --quiet --collect --on-active=4 --unit=stand-in python3 /run/stand_in.py")
    status, said = ask("/v1/responses", body={"model": "micro", "input": "x"})
    assert (status, json.loads(said)) == (200, {"by": "ipv6"})
    assert json.loads(ask("/v1/models")[1])["data"][0]["max_model_len"] == 4711


def test_servers_that_are_well_and_drop_every_request_end_in_a_503(stand_in, ask, playbook):
    assert playbook("gateways", gateway_hold=10)[0] == 0
    try:
        stand_in.start(DEAF)
        stand_in.lead("[::1]:8199")
        status, said = ask("/v1/responses", body={"model": "micro", "input": "x"})
        assert (status, json.loads(said)["error"]["code"]) == (503, "model_unavailable")
    finally:
        assert playbook("gateways")[0] == 0


FULL = IPV6.replace('self.say({"by": "ipv6"})', "self.send_error(429)")


def test_a_servers_own_429_is_not_said_to_be_the_keys(stand_in, ask):
    stand_in.start(FULL)
    stand_in.lead("[::1]:8199")
    status, said = ask("/v1/responses", body={"model": "micro", "input": "x"})
    assert (status, json.loads(said)["error"]["message"]) == (429, "the model's server takes no more requests now")
