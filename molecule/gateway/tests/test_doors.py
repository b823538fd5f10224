"""Which model a body asks for; what of keys and requests is seen on the gateway."""

import json
import re

import pytest

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
    assert gateway.service("logrotate.timer").is_running


def test_the_log_has_who_came_with_a_key_that_has_expired(gateway, ask):
    assert ask("/v1/models", "ben")[0] == 401
    line = json.loads(gateway.check_output("tail -n 1 /var/log/ownmetal-gateway/access.log"))
    assert (line["key"], line["team"], line["status"]) == ("blue/ben", "blue", 401)


def test_it_is_not_root_and_the_distributions_own_is_off(gateway):
    assert set(gateway.check_output("ps -o user:32= -C nginx").split()) == {"ownmetal-gateway"}
    assert not gateway.service("nginx").is_enabled
    rows = gateway.check_output("ss -Hltn").splitlines()
    assert {row.split()[3].rpartition(":")[2] for row in rows} == {"22", "443"}
    said = gateway.check_output("systemd-analyze security --no-pager ownmetal-gateway | tail -n 1")
    assert float(re.search(r"level for \S+: ([\d.]+)", said)[1]) <= 1.4
