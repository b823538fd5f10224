"""What holds with either engine: who is let in to what of all that vLLM has, streams, and the real Codex."""

import json
import re

import pytest
from conftest import RUNNING, SECRETS, codex_calls_a_tool, reloads, wait

# what Caddy cannot honour is left out of these
KEYS = [{"team": "red", "name": "anna"}, {"team": "blue", "name": "bea"}, {"team": "blue", "name": "ben", "expires": "2026-01-31"}]


@pytest.fixture(scope="module", params=["nginx", "caddy"], autouse=True)
def engine(request, playbook, gateway):
    if request.param == "caddy":
        code, said = playbook("gateways", gateway_engine="caddy", gateway_keys=KEYS)
        assert code == 0, said[-3000:]
    assert gateway.run("pgrep -x %s", request.param).rc == 0
    yield
    if request.param == "caddy":
        code, said = playbook("gateways")
        assert code == 0, said[-3000:]


BODIES = {
    "/v1/responses": {"model": "micro", "input": "x"},
    "/v1/embeddings": {"model": "micro", "input": "x"},
    "/v1/completions": {"model": "micro", "prompt": "x", "max_tokens": 1},
}
BODY = {"model": "micro", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
OPEN = {("post", "/v1/chat/completions"), ("post", "/v1/responses"), ("get", "/v1/models")}
HIDDEN = {("get", path) for path in ("/metrics", "/docs", "/redoc", "/openapi.json", "/health", "/ping", "/version", "/load")}


@pytest.fixture(scope="session")
def routes(gateway):
    """What vLLM itself says it has, and what it does not say."""
    said = json.loads(gateway.check_output("curl -sf http://server1:8001/openapi.json"))["paths"]
    known = {(method, re.sub(r"\{\w+\}", "x", path)) for path, methods in said.items() for method in methods}
    assert ("post", "/invocations") in known, known
    return sorted(known | HIDDEN)


SWEEP = """
import http.client, json, ssl, sys
asked, answers = json.load(open("/root/.asked")), []
for method, path, key, body in asked:
    line = http.client.HTTPSConnection("gw1", context=ssl.create_default_context())
    headers = {"Content-Type": "application/json", **({"Authorization": "Bearer " + key} if key else {})}
    line.request(method.upper(), path, json.dumps(body) if method == "post" else None, headers)
    answer = line.getresponse()
    answers.append([method, path, answer.status, answer.read().decode()])
print(json.dumps(answers))
"""


@pytest.fixture(scope="session")
def sweep(developer, routes, keys):
    """Ask every route with a key, in one go; return method, path, status and text of each answer."""

    def run(name):
        asked = [[method, path, keys[name], BODIES.get(path, BODY)] for method, path in routes]
        developer.check_output("umask 077; cat >/root/.asked <<'E'\n" + json.dumps(asked) + "\nE")
        return json.loads(developer.check_output("python3 - <<'E'" + SWEEP + "E"))

    yield run
    developer.check_output("rm -f /root/.asked")


@pytest.mark.parametrize("key", ["none", "wrong", "ben", "internal"])
def test_without_a_good_key_no_route_answers(sweep, key):
    """ben's key has expired; the servers' own is none of a client's."""
    for method, path, status, said in sweep(key):
        # dev1 is a monitor: /health is the gateway's own
        wanted = 200 if path == "/health" and method == "get" else 401 if (method, path) in OPEN else 404
        assert status == wanted, (method, path, said)
        assert "choices" not in said


def test_with_a_good_key_the_open_routes_answer_and_nothing_else(sweep):
    answers = sweep("anna")
    assert {(method, path) for method, path, status, _ in answers if status == 200} == OPEN | {("get", "/health")}
    assert {status for _, _, status, _ in answers} == {200, 404}
    assert len(answers) > 20


@pytest.mark.parametrize(
    "path", ["/v1/../invocations", "/v1/models/../../invocations", "//invocations", "/v1/responses/%2e%2e/%2e%2e/invocations"]
)
def test_no_way_around(ask, path):
    assert ask(path, "anna", BODY, "POST", "--path-as-is")[0] == 404


def test_an_expired_key_is_told_apart_and_a_revoked_one_has_no_file(ask):
    assert "expired" in ask("/v1/models", "ben")[1]
    assert "expired" not in ask("/v1/models", "wrong")[1]
    assert list(SECRETS.glob("keys/*/gone.key")) == []


def test_the_server_itself_is_reached_by_the_gateway_alone(developer, gateway):
    assert developer.run("curl -s -m 3 http://server1:8001/health").rc == 7  # refused by the firewall
    assert gateway.check_output("curl -s -o /dev/null -w '%{http_code}' http://server1:8001/health") == "200"


def test_monitors_see_the_servers_numbers_and_others_do_not(developer, server):
    assert "vllm:num_requests_running" in developer.check_output("curl -sf https://gw1/metrics/server1/micro")
    for path in ("health", "metrics/server1/micro"):
        assert server.check_output("curl -sk -o /dev/null -w '%%{http_code}' https://gw1/%s", path) == "404"


def test_models_are_listed_with_their_length(ask):
    rows = json.loads(ask("/v1/models")[1])["data"]
    assert [(row["id"], row["max_model_len"]) for row in rows] == [("micro", 32768)]


def test_old_tls_is_refused_and_http2_spoken(developer):
    assert developer.run("curl -s --tls-max 1.1 --ciphers DEFAULT@SECLEVEL=0 https://gw1/health").rc == 35
    assert developer.check_output("curl -s -o /dev/null -w '%{http_version}' https://gw1/health") == "2"


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
    wait(lambda: developer.run("pgrep -f '^python3 /root/reader.py'").rc != 0, 400)
    said = developer.check_output("tail -n 5 /root/s.*")
    assert said.count('"tokens"') == 20, said
    ends = [json.loads(line) for line in developer.check_output("cat /root/s.*").splitlines()]
    assert [(end["status"], end["done"], end["tokens"]) for end in ends] == [(200, True, 1500)] * 20


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


def test_large_headers_are_refused(ask):
    assert ask("/v1/models", options=f"--http1.1 -H 'X-Long: {'x' * 40_000}'")[0] in (400, 431)


def test_slow_headers_are_cut_off(developer):
    script = (
        "import socket, ssl, time; line = socket.create_connection(('gw1', 443)); "
        "s = ssl.create_default_context().wrap_socket(line, server_hostname='gw1'); "
        "s.send(b'POST /v1/responses HTTP/1.1\\r\\nHost: gw1\\r\\n'); t = time.time(); s.recv(1000); print(time.time() - t)"
    )
    assert float(developer.check_output("python3 -c %s", script)) < 20


def test_the_real_codex_makes_a_tool_call_through_the_gateway(developer):
    assert "https://gw1/v1" in developer.file("/home/dev/.codex/config.toml").content_string
    codex_calls_a_tool(developer)
