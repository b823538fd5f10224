"""Who is let in, to what, with which headers; and what is seen of it on the gateway."""

import json
import re

import pytest
from conftest import LOG, key

BODY = {"model": "micro", "input": "x"}
DOORS = [
    # path, key, asked by POST, status, words of the answer
    ("/v1/responses", "anna", True, 200, '"path": "/v1/responses"'),
    ("/v1/chat/completions", "anna", True, 200, '"path": "/v1/chat/completions"'),
    ("/v1/responses?key=x", "anna", True, 200, '"path": "/v1/responses"'),
    ("/v1/models", "anna", False, 200, '"max_model_len":32768'),
    ("/v1/models", "wrong", False, 401, "unknown key"),
    ("/v1/models", "", False, 401, "unknown key"),
    ("/v1/models", "ben", False, 401, "this key has expired"),
    ("/v1/models", "internal", False, 401, "unknown key"),
    ("/v1/responses", "wrong", True, 401, "unknown key"),
    ("/v1/responses", "anna", False, 404, "there is no such route"),
    ("/v1/models", "anna", True, 404, "there is no such route"),
    ("/v1/embeddings", "anna", True, 404, "there is no such route"),
    ("/v1/../invocations", "anna", True, 404, "there is no such route"),
    ("/v1/responses/%2e%2e/%2e%2e/invocations", "anna", True, 404, "there is no such route"),
    ("//invocations", "anna", True, 404, "there is no such route"),
    ("/v1/responses/", "anna", True, 404, "there is no such route"),
    ("/docs", "anna", False, 404, "there is no such route"),
    ("/metrics", "anna", False, 404, "there is no such route"),
]


@pytest.mark.parametrize(("path", "name", "post", "status", "words"), DOORS)
def test_who_is_let_in_to_what(ask, path, name, post, status, words):
    word = key(name) if name in ("anna", "ben", "internal") else name
    got = ask(path, word, BODY if post else None, "--path-as-is")
    assert got[0] == status, got
    assert words in got[1]


def test_nothing_of_the_client_but_its_body_reaches_a_server(ask):
    options = "-H 'X-Evil: 1' -H 'Cookie: a=b' -H 'X-Forwarded-For: 192.0.2.9' -H 'X-Gateway-Key: red/eve' -H 'Content-Type: text/plain'"
    options += " -H '1234: a' -H '_: a' -H '!: a'"
    said = json.loads(ask("/v1/responses", body=BODY, options=options)[1])
    assert set(said["headers"]) == {"Host", "Content-Length", "Content-Type", "Authorization", "X-Request-Id"}
    assert said["headers"]["Authorization"] == f"Bearer {key('internal')}"
    assert said["headers"]["Content-Type"] == "application/json"


SENDS = ["--data-binary @/root/big", "-X POST -T - </root/big", "-X POST -T - --http1.1 </root/big"]


@pytest.mark.parametrize("options", SENDS)
def test_a_body_has_a_limit_with_and_without_a_length(client, ask, options):
    client.check_output('python3 -c \'open("/root/big", "w").write("x" * (33 << 20))\'')
    assert ask("/v1/responses", options=options)[0] == 413
    client.check_output('python3 -c \'import json; json.dump({"input": "x" * 20_000_000}, open("/root/big", "w"))\'')
    status, said = ask("/v1/responses", options=options)
    assert (status, json.loads(said)["bytes"]) == (200, 20_000_000 + len('{"input": ""}'))


def test_monitors_see_numbers_and_others_do_not(client, servers):
    ask = "curl -sk -o /dev/null -w '%{http_code}' https://gw1/"
    for path in ("health", "metrics/server1/micro"):
        assert client.check_output(ask + path) == "200"
        assert servers["server1"].check_output(ask + path) == "404"


def test_keys_and_prompts_are_nowhere_on_the_gateway(gateway, ask):
    ask("/v1/responses?key=SECRET-PROMPT", body={"input": "SECRET-PROMPT"})
    gateway.run_expect([0], "umask 077; cat >/root/.pattern <<'E'\n" + key("anna") + "\nSECRET-PROMPT\nE")
    try:
        assert gateway.run("grep -rlsF -f /root/.pattern --exclude=.pattern /etc /var /run /usr/local /tmp").stdout == ""
        assert gateway.run("(journalctl --no-pager; ps -eww -o args) | grep -cF -f /root/.pattern").stdout.strip() == "0"
    finally:
        gateway.check_output("rm /root/.pattern")
    found = gateway.run("grep -rlsF -e '%s' /etc", key("internal")).stdout.split()
    assert [(path, gateway.file(path).mode, gateway.file(path).group) for path in found] == [
        ("/etc/ownmetal-gateway/secrets.caddy", 0o640, "ownmetal-gateway")
    ]


def test_the_log_says_who_asked_for_what(gateway, ask):
    ask("/v1/responses?key=x", body=BODY)
    line = json.loads(gateway.check_output(f"tail -n 1 {LOG}"))
    assert (line["user_id"], line["status"], line["request"]["uri"]) == ("red/anna", 200, "/v1/responses")
    assert (line["duration"] > 0, "headers" in line["request"]) == (True, False)


def test_it_is_not_root_and_the_distributions_own_is_off(gateway):
    assert set(gateway.check_output("ps -o user:32= -C caddy").split()) == {"ownmetal-gateway"}
    assert not gateway.service("caddy").is_enabled
    rows = gateway.check_output("ss -Hltn").splitlines()
    assert {row.split()[3].rpartition(":")[2] for row in rows} == {"22", "443"}
    said = gateway.check_output("systemd-analyze security --no-pager ownmetal-gateway | tail -n 1")
    assert float(re.search(r"level for \S+: ([\d.]+)", said)[1]) <= 1.4
