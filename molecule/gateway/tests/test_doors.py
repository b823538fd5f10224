"""Who is let in, to what: every route that vLLM has, asked through the gateway and beside it, with each kind of key."""

import json
import re

import pytest

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


def test_an_expired_key_is_told_apart_and_a_revoked_one_has_no_file(ask, keys):
    assert "expired" in ask("/v1/models", "ben")[1]
    assert "expired" not in ask("/v1/models", "wrong")[1]
    assert "gone" not in keys


def test_the_server_itself_is_reached_by_the_gateway_alone(developer, gateway):
    assert developer.run("curl -s -m 3 http://server1:8001/health").rc == 7  # refused by the firewall
    assert gateway.check_output("curl -s -o /dev/null -w '%{http_code}' http://server1:8001/health") == "200"


def test_monitors_see_the_servers_numbers_and_others_do_not(developer, server):
    assert "vllm:num_requests_running" in developer.check_output("curl -sf https://gw1/metrics/server1/micro")
    for path in ("health", "metrics/server1/micro"):
        assert server.check_output("curl -sk -o /dev/null -w '%%{http_code}' https://gw1/%s", path) == "404"


MODELS = [
    # the body                                               status
    ('{"model": "nope", "input": "x"}', 404),
    ('{"input": "x"}', 400),
    ('{"model": ["micro"], "input": "x"}', 400),
    ('{"model": null, "input": "x"}', 400),
    ("[]", 400),
    ("", 400),
    ('{"model": "micro", ', 400),
    ('{"model": "nope", "model": "micro", "input": "x"}', 200),  # the last one wins, as in vLLM
    ('{"model": "micro", "model": "nope", "input": "x"}', 404),
    ('{"\\u006dodel": "micro", "input": "x"}', 200),
]


@pytest.mark.parametrize(("body", "status"), MODELS)
def test_the_model_is_read_as_the_server_reads_it(ask, body, status):
    assert ask("/v1/responses", body=body)[0] == status


def test_models_are_listed_with_their_length(ask):
    rows = json.loads(ask("/v1/models")[1])["data"]
    assert [(row["id"], row["max_model_len"]) for row in rows] == [("micro", 32768)]


def test_old_tls_is_refused_and_http2_spoken(developer):
    assert developer.run("curl -s --tls-max 1.1 --ciphers DEFAULT@SECLEVEL=0 https://gw1/health").rc == 35
    assert developer.check_output("curl -s -o /dev/null -w '%{http_version}' https://gw1/health") == "2"


def test_keys_and_prompts_are_nowhere_on_the_gateway(gateway, developer, ask, keys):
    ask("/v1/responses", body={"model": "micro", "input": "SECRET-PROMPT"})
    assert ask("/v1/responses?key=SECRET-PROMPT", "wrong", {"model": "micro"})[0] == 401
    # one that nginx keeps in a file while it is there
    developer.check_output(
        """python3 -c 'print("{\\"model\\": \\"micro\\", \\"input\\": \\"" + "SECRET-PROMPT " * 200_000 + "\\"}")' >/root/.big"""
    )
    assert ask("/v1/responses", options="-X POST --data-binary @/root/.big")[0] == 400
    developer.check_output("rm /root/.big")
    gateway.run_expect([0], "umask 077; cat >/root/.pattern <<'E'\n" + keys["anna"] + "\nSECRET-PROMPT\nE")
    try:
        assert gateway.run("grep -rlsF -f /root/.pattern --exclude=.pattern /etc /var /run /usr/local /tmp").stdout == ""
        assert gateway.run("(journalctl --no-pager; ps -eww -o args) | grep -cF -f /root/.pattern").stdout.strip() == "0"
    finally:
        gateway.check_output("rm /root/.pattern")
    # the servers' key has to be there, for the service alone
    found = gateway.run("grep -rlsF -e '%s' /etc", keys["internal"]).stdout.split()
    assert [(path, gateway.file(path).mode, gateway.file(path).group) for path in found] == [
        ("/etc/ownmetal-gateway/state.json", 0o640, "ownmetal-gateway")
    ]


def test_the_log_says_who_asked_for_what(gateway, ask):
    ask("/v1/responses", body={"model": "micro", "input": "hello"})
    line = json.loads(gateway.check_output("tail -n 1 /var/log/ownmetal-gateway/access.log"))
    assert (line["key"], line["team"], line["route"], line["model"], line["status"]) == ("red/anna", "red", "responses", "micro", 200)
    assert line["seconds"] > 0
    assert line["bytes_out"] > 100


def test_the_log_is_rotated_and_goes_on(gateway, ask):
    gateway.check_output("logrotate --force /etc/logrotate.d/ownmetal-gateway")
    ask("/v1/models")
    assert "models" in gateway.check_output("sleep 1; cat /var/log/ownmetal-gateway/access.log")
    assert gateway.file("/var/log/ownmetal-gateway/access.log.1").exists


def test_it_is_not_root_and_the_distributions_own_is_off(gateway):
    assert set(gateway.check_output("ps -o user:32= -C nginx").split()) == {"ownmetal-gateway"}
    assert not gateway.service("nginx").is_enabled
    rows = gateway.check_output("ss -Hltn").splitlines()
    assert {row.split()[3].rpartition(":")[2] for row in rows} == {"22", "443"}
    said = gateway.check_output("systemd-analyze security --no-pager ownmetal-gateway | tail -n 1")
    assert float(re.search(r"level for \S+: ([\d.]+)", said)[1]) <= 1.4
