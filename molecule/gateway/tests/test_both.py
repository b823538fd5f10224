"""What holds with either engine: who is let in to what of all that vLLM has, streams, faults, new keys, and the real Codex."""

import hashlib
import json
import re
import time

import pytest
from conftest import RUNNING, SECRETS, answered, codex_calls_a_tool, reloads, wait

# what Caddy cannot honour is left out of these
KEYS = [{"team": "red", "name": "anna"}, {"team": "blue", "name": "bea"}, {"team": "blue", "name": "ben", "expires": "2026-01-31"}]
ALSO = {"nginx": {}, "caddy": {"gateway_engine": "caddy", "gateway_keys": KEYS}}


@pytest.fixture(scope="module", params=["nginx", "caddy"], autouse=True)
def engine(request, playbook, gateway):
    if request.param == "caddy":
        code, said = playbook("gateways", **ALSO["caddy"])
        assert code == 0, said[-3000:]
    assert gateway.run("pgrep -x %s", request.param).rc == 0
    yield request.param
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
# what vLLM's source declares, in whatever way it starts; with what FastAPI adds by itself
FRAMEWORK = {("get", path) for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect")}
DECLARED = r"""
import json, pathlib, re, sys
words = re.compile(r'(?:[.](get|post|put|delete|websocket|add_api_route|mount)|Mount)[(]\s*"(/[^"]*)"')
found = pathlib.Path(sys.argv[1]).rglob("*.py")
print(json.dumps(sorted({row.groups() for path in found for row in words.finditer(path.read_text())}, key=str)))
"""


@pytest.fixture(scope="session")
def routes(gateway, server):
    """What vLLM itself says it has, and what its source has besides."""
    said = json.loads(gateway.check_output("curl -sf http://server1:8001/openapi.json"))["paths"]
    known = {(method, path) for path, methods in said.items() for method in methods}
    source = server.check_output("find / -xdev -path '*/site-packages/vllm/entrypoints' -prune -print | head -n 1")
    server.run_expect([0], "cat >/run/declared.py <<'E'" + DECLARED + "E")
    declared = json.loads(server.check_output("python3 /run/declared.py %s; rm /run/declared.py", source))
    methods = {"websocket": "get", "mount": "get", None: "get", "add_api_route": "post"}
    every = known | FRAMEWORK | {(methods.get(method, method), path) for method, path in declared}
    assert {("post", "/invocations"), ("get", "/metrics"), ("post", "/collective_rpc"), ("get", "/v1/realtime")} <= every
    return sorted({(method, re.sub(r"\{\w+\}", "x", path)) for method, path in every})


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


def test_a_key_of_another_team_reaches_no_model_that_is_not_its_own(sweep, engine):
    """eve may use none. Caddy refuses such an inventory, so it does not know her key."""
    answers = {(method, path): (status, said) for method, path, status, said in sweep("eve")}
    posts = {answers[route][0] for route in OPEN if route[0] == "post"}
    assert posts == {404 if engine == "nginx" else 401}
    assert engine == "caddy" or json.loads(answers["get", "/v1/models"][1])["data"] == []
    assert {route for route, (status, _) in answers.items() if status == 200} <= {("get", "/v1/models"), ("get", "/health")}


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


def test_the_servers_themselves_are_reached_by_the_gateway_alone(developer, developer2, gateway):
    for server in ("server1", "server2"):
        for host in (developer, developer2):
            assert host.run("curl -s -m 3 http://%s:8001/health", server).rc == 7  # refused by the firewall, whatever the route
        assert gateway.check_output("curl -s -o /dev/null -w '%%{http_code}' http://%s:8001/health", server) == "200"


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
    assert (direct["tokens"], through["said"]) == (400, direct["said"])  # the same, in the same order
    # the first is there long before the last. Pieces that wait for a busy processor join; buffered, they would be some six
    assert through["first"] < through["last"] / 4
    assert through["reads"] > 40, (through, direct)
    assert through["gap"] < through["last"] / 2, (through, direct)


def test_who_goes_away_frees_the_server(developer, stream):
    developer.check_output(f"({stream(30000)} >/dev/null 2>&1 & echo $! >/root/reader.pid)")
    wait(lambda: developer.check_output(RUNNING) == "1")
    developer.check_output("kill -KILL $(cat /root/reader.pid)")
    wait(lambda: developer.check_output(RUNNING) == "0")


def test_reloads_lose_no_stream(developer, stream, reloading):
    developer.check_output(f"rm -f /root/s.*; for n in $(seq 20); do ({stream(5000)} >/root/s.$n 2>&1 &); done")
    wait(lambda: developer.run("pgrep -f '^python3 /root/reader.py'").rc != 0, 400)
    times = reloading()
    said = developer.check_output("tail -n 5 /root/s.*")
    assert said.count('"tokens"') == 20, said
    ends = [json.loads(line) for line in developer.check_output("cat /root/s.*").splitlines()]
    assert [(end["status"], end["done"], end["tokens"]) for end in ends] == [(200, True, 5000)] * 20
    under_way = [sum(end["came"] < time < end["ended"] for end in ends) for time in times]
    assert max(under_way) >= 5, (under_way, ends)


def test_reloads_lose_no_stream_of_http2(developer, keys, reloading):
    """Six in one connection."""
    body = {"model": "micro", "stream": True, "max_tokens": 6000, "messages": [{"role": "user", "content": "Count. [loop]"}]}
    developer.run_expect([0], "umask 077; cat >/root/.body <<'E'\n" + json.dumps(body) + "\nE")
    developer.check_output("umask 077; printf 'Authorization: Bearer %%s\\nContent-Type: application/json' %s >/root/.header", keys["anna"])
    one = "-sN --http2 -H @/root/.header --data-binary @/root/.body -w '%{http_version}\\n' https://gw1/v1/chat/completions -o /root/h2."
    every = " --next ".join(f"{one}{number}" for number in range(6))
    asked, *versions, ended = developer.check_output(
        f"rm -f /root/h2.*; date +%s.%N; timeout 400 curl -Z --parallel-max 6 {every}; date +%s.%N"
    ).split()
    assert any(float(asked) < time < float(ended) for time in reloading())
    assert versions == ["2"] * 6
    assert developer.check_output("grep -l 'DONE' /root/h2.[0-9] | wc -l") == "6"
    developer.check_output("rm /root/h2.* /root/.header /root/.body")


SLOW = """
import http.server, time
class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        for pause in PAUSES:
            self.wfile.write(b"data: one\\n\\n")
            time.sleep(pause)
        self.wfile.write(b"data: last\\n\\n")
http.server.ThreadingHTTPServer(("127.0.0.1", 8199), Slow).serve_forever()
"""


def test_a_new_certificate_cuts_no_stream(developer, keys, stand_in, playbook, engine):
    """As when the old one nears its end. A stand-in says a word each second: the real vLLM would leave no processor to the rest."""
    stand_in.start(SLOW.replace("PAUSES", "[1] * 90"))
    stand_in.lead("127.0.0.1:8199")
    serial = "echo | openssl s_client -connect gw1:443 2>/dev/null | openssl x509 -noout -serial"
    before = developer.check_output(serial)
    words = "Authorization: Bearer %s\nContent-Type: application/json\n"
    developer.check_output("umask 077; printf %s >/root/.header", words % keys["anna"])
    body = json.dumps({"model": "micro", "input": "x", "stream": True})
    developer.check_output(f"(curl -sN -H @/root/.header -d '{body}' https://gw1/v1/responses >/root/slow 2>&1 &)")
    wait(lambda: developer.check_output("cat /root/slow") != "")
    for kind in ("crt", "key"):
        (SECRETS / f"gateway-gw1.{kind}").unlink()
    code, said = playbook("gateways", **ALSO[engine])
    assert code == 0, said
    assert developer.check_output(serial) != before
    assert "last" not in developer.check_output("cat /root/slow")  # it was at work all along
    wait(lambda: developer.run("pgrep -x curl").rc != 0, 120)
    assert developer.check_output("cat /root/slow; rm /root/slow /root/.header").split() == ["data:", "one"] * 90 + ["data:", "last"]


def test_a_server_that_is_killed_under_load_costs_only_what_it_was_saying(server2, load, engine):
    time.sleep(10)
    server2.check_output("systemctl kill -s KILL vllm@micro")
    time.sleep(60)
    said = load()
    print(engine, said)
    lost = said.get("cut", 0)
    if engine == "caddy":  # see the table in docs/gateway.md: such an answer ends as if it were whole, or nobody else is asked
        broken = [answer for answer in said if answer.startswith("200 event:") or '"model_unavailable"' in answer]
        lost += sum(said[answer] for answer in broken)
    assert lost + said["200 whole"] == sum(said.values()), said
    assert lost <= 4  # of four at a time: with nginx, those whose first byte had come
    assert said["200 whole"] > 20, said
    wait(lambda: server2.run("systemctl is-active vllm@micro").stdout.strip() == "active", 240)


CODEX = """
cd /home/dev/work && while [ ! -e stop ]; do
codex exec --json --ephemeral --skip-git-repo-check 'Create hello.txt' </dev/null 2>/dev/null |
grep -o '"type":"turn[.][a-z]*"' | tail -n 1 >>turns; done
"""


def test_a_rotation_fails_no_run_of_codex_and_the_old_key_ends_by_itself(playbook, developer, gateway, keys, engine):
    word = f"autumn-{time.time_ns()}"
    before, others = keys["anna"], keys["bea"]
    developer.check_output("install -d -o dev -g dev /home/dev/work; rm -f /home/dev/work/turns /home/dev/work/stop")
    developer.check_output("cat >/run/loop.sh <<'E'" + CODEX + "E")
    developer.check_output("systemd-run --quiet --collect --unit=loop --uid=dev --setenv=HOME=/home/dev bash /run/loop.sh")
    count = reloads(gateway)
    try:
        code, said = playbook("rotate_keys", key_team="red", key_rotation=word, **ALSO[engine])
        assert code == 0, said
        developer.check_output("sleep 8")
    finally:
        developer.check_output("touch /home/dev/work/stop; for n in $(seq 60); do systemctl -q is-active loop || break; sleep 1; done")
    turns = developer.check_output("cat /home/dev/work/turns").splitlines()
    print(engine, len(turns), "runs of Codex")
    assert len(turns) > 3
    assert set(turns) == {'"type":"turn.completed"'}
    after = keys["anna"]
    assert after != before
    assert (answered(developer, before), answered(developer, after)) == ("200", "200")
    assert (keys["bea"], reloads(gateway)) == (others, count + 1)
    assert developer.check_output("cat /home/dev/.codex/ownmetal-vllm.key") == after

    code, said = playbook("rotate_keys", key_team="red", key_rotation=word, **ALSO[engine])
    assert (code, said.count("changed=0")) == (0, 5), said

    # the window is of hours: its end is brought forward, in the file that a rotation keeps
    file = SECRETS / "keys/red/anna.old"
    kept = json.loads(file.read_text())
    end = int(time.time()) + 60
    for row in kept["keys"]:
        row["until"] = end
    assert hashlib.sha256(before.encode()).hexdigest() in file.read_text()
    file.write_text(json.dumps(kept))
    code, said = playbook("gateways", **ALSO[engine])
    assert code == 0, said
    assert (time.time() < end, answered(developer, before)) == (True, "200")
    count = reloads(gateway)
    time.sleep(max(0, end - time.time()) + 2)
    assert (answered(developer, before), answered(developer, after), reloads(gateway)) == ("401", "200", count)


def test_a_silence_longer_than_any_common_limit_is_waited_for(stand_in, ask):
    """A stand-in for a model that thinks for 75 s between two events: the real one cannot be made to."""
    stand_in.start(SLOW.replace("PAUSES", "[75]"))
    stand_in.lead("127.0.0.1:8199")
    status, said = ask("/v1/responses", body={"model": "micro", "input": "x", "stream": True})
    assert (status, said.split()) == (200, ["data:", "one", "data:", "last"])


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
    assert 5 < float(developer.check_output("python3 -c %s", script)) < 20


def test_the_real_codex_makes_a_tool_call_through_the_gateway(developer):
    assert "https://gw1/v1" in developer.file("/home/dev/.codex/config.toml").content_string
    codex_calls_a_tool(developer)
