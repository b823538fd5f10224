"""Streams, limits, and what comes and goes while they flow."""

import json
import time

from conftest import reloads

RUNNING = "curl -sf https://gw1/metrics/server{1,2}/micro | awk '/^vllm:num_requests_running/ {sum += $2} END {print sum + 0}'"


def test_events_pass_as_they_come(developer, gateway, stream):
    through = json.loads(developer.check_output(stream(400)))
    direct = json.loads(gateway.check_output(stream(400, "internal", "server1 8001 http")))
    assert (through["status"], through["done"], through["tokens"]) == (200, True, 400)
    assert direct["tokens"] == 400
    # the first is there long before the last. Pieces that wait for a busy processor join; buffered, they would be some six
    assert through["first"] < through["last"] / 4
    assert through["reads"] > 40, (through, direct)


def test_who_goes_away_frees_the_server(developer, stream):
    developer.check_output(f"({stream(30000)} >/dev/null 2>&1 & echo $! >/root/reader.pid)")
    wait(lambda: developer.check_output(RUNNING) == "1")
    developer.check_output("kill -KILL $(cat /root/reader.pid)")
    wait(lambda: developer.check_output(RUNNING) == "0")


def test_reloads_lose_no_stream(developer, gateway, stream):
    count = reloads(gateway)
    developer.check_output(f"rm -f /root/s.*; for n in $(seq 20); do ({stream(1500)} >/root/s.$n 2>&1 &); done")
    wait(lambda: developer.check_output(RUNNING) != "0")
    for _ in range(3):
        gateway.check_output("systemctl reload ownmetal-gateway; sleep 1")
    assert reloads(gateway) == count + 3
    wait(lambda: developer.check_output("cat /root/s.* | grep -c tokens || true") == "20", 400)
    ends = [json.loads(line) for line in developer.check_output("cat /root/s.*").splitlines()]
    assert [(end["status"], end["done"], end["tokens"]) for end in ends] == [(200, True, 1500)] * 20


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


def test_large_bodies(developer, ask):
    developer.check_output(
        'python3 -c \'import json; open("/root/big", "w").write(json.dumps({"model": "micro", "input": "word " * 4_000_000}))\''
    )
    try:
        send = "--data-binary @/root/big -X POST"
        status, said = ask("/v1/responses", options=send)
        assert (status, "context length" in said) == (400, True), said[:300]  # 20 MB: judged by vLLM itself
        developer.check_output("cat /root/big /root/big >/root/bigger")
        assert ask("/v1/responses", options="--data-binary @/root/bigger -X POST")[0] == 413
    finally:
        developer.check_output("rm -f /root/big /root/bigger")


def test_slow_headers_are_cut_off(developer):
    script = (
        "import socket, ssl, time; line = socket.create_connection(('gw1', 443)); "
        "s = ssl.create_default_context().wrap_socket(line, server_hostname='gw1'); "
        "s.send(b'POST /v1/responses HTTP/1.1\\r\\nHost: gw1\\r\\n'); t = time.time(); s.recv(1000); print(time.time() - t)"
    )
    assert float(developer.check_output("python3 -c %s", script)) < 20


def test_a_restart_of_the_only_server_is_waited_for(server, developer, playbook, ask):
    """Killed and started again, and the other one drained: who asks meanwhile gets an answer, late."""
    assert playbook("gateways", gateway_drained=["server2"])[0] == 0
    try:
        server.check_output("systemctl kill -s KILL vllm@micro")
        status, said = ask("/v1/responses", body={"model": "micro", "input": "hello"})
        assert status == 200, said
        assert "micro model" in said
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


def wait(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.5)
