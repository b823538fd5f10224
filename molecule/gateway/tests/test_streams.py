"""Limits, a restart that is waited for, a long silence."""

import json

from conftest import RUNNING, codex_calls_a_tool, wait


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


def test_a_restart_of_the_only_server_is_waited_for(server, developer, playbook):
    """Killed and started again, and the other one drained: Codex, which gives up on its own after 3 s, gets its answers, late."""
    assert playbook("gateways", gateway_drained=["server2"])[0] == 0
    try:
        server.check_output("systemctl kill -s KILL vllm@micro")
        assert server.run("curl -s -m 2 127.0.0.1:8001/health").rc != 0
        codex_calls_a_tool(developer)
        wait(lambda: server.run("systemctl is-active vllm@micro").stdout.strip() == "active", 120)
    finally:
        assert playbook("gateways")[0] == 0


def test_a_silence_longer_than_any_common_limit_is_waited_for(gateway, developer, keys):
    """A stand-in for a model that thinks for 75 s between two events: the real one cannot be made to."""
    gateway.check_output("cat >/run/silent.py <<'E'" + SILENT + "E\nsystemd-run --quiet --collect --unit=silent python3 /run/silent.py")
    config = gateway.check_output("cat /etc/ownmetal-gateway/nginx.conf")
    try:
        gateway.check_output("sed -i -E 's/server [0-9.]+:8001 /server 127.0.0.1:8199 /' /etc/ownmetal-gateway/nginx.conf")
        gateway.check_output("systemctl reload ownmetal-gateway; sleep 1")
        said = developer.check_output(
            "umask 077; printf 'Authorization: Bearer %%s' %s >/root/.header; curl -sN -H @/root/.header "
            "-H 'Content-Type: application/json' -d %s https://gw1/v1/responses; rm /root/.header",
            keys["anna"],
            '{"model": "micro", "input": "x", "stream": true}',
        )
        assert said.split() == ["data:", "first", "data:", "last"]
    finally:
        gateway.run_expect([0], "cat >/etc/ownmetal-gateway/nginx.conf <<'E'\n" + config + "\nE")
        gateway.check_output("systemctl stop silent; systemctl reload ownmetal-gateway")


SILENT = """
import http.server, time
class Silent(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"data: first\\n\\n")
        time.sleep(75)
        self.wfile.write(b"data: last\\n\\n")
http.server.ThreadingHTTPServer(("127.0.0.1", 8199), Silent).serve_forever()
"""
