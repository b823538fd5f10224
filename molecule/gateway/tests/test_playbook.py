"""The playbook as an operator runs it: refusals, revocation, a killed run."""

import json


def test_a_second_run_makes_one_connection(playbook):
    code, said = playbook("gateways", "-vvv")
    assert code == 0
    assert "changed=0" in said
    assert said.count("SSH: EXEC") == 1


def test_what_cannot_be_honoured_is_refused_without_a_connection(playbook):
    code, said = playbook("gateways", "-vvv", gateway_engine="caddy", gateway_burst=40, gateway_routes=["tokenize"], gateway_hold="soon")
    assert code != 0
    assert "SSH: EXEC" not in said
    for words in (
        "gateway_burst: gateway_engine caddy cannot: a rate and a concurrency of each key. Write gateway_engine: nginx",
        "gateway_routes: tokenize: is no route that a gateway opens.",
        "gateway_hold: 'soon' is no whole number",
    ):
        assert words in said


def test_a_misspelt_variable_is_refused(playbook):
    code, said = playbook("gateways", gateway_key=[])
    assert code != 0
    assert "gateway_key: is read by no role. Did you mean gateway_keys?" in said


def test_a_key_is_revoked_for_the_next_request_and_comes_back(playbook, ask):
    assert ask("/v1/models")[0] == 200
    code, said = playbook("gateways", gateway_keys=[{"team": "red", "name": "anna", "state": "absent"}, {"team": "red", "name": "bot"}])
    assert code == 0, said
    assert ask("/v1/models")[0] == 401
    code, said = playbook("gateways", "--diff")
    assert code == 0, said
    assert ask("/v1/models")[0] == 200


def test_a_developer_machine_forgets_a_ca_that_its_gateway_has_no_more(playbook, developer):
    trusted = "/usr/local/share/ca-certificates/ownmetal-gateway.crt"
    asks = "curl -s -o /dev/null https://gw1/health"
    assert (developer.file(trusted).exists, developer.run(asks).rc) == (True, 0)
    for changed in (True, False):
        code, said = playbook("developers", "--limit", "dev1", gateway_tls="files")
        assert code == 0, said
        assert (developer.file(trusted).exists, developer.run(asks).rc) == (False, 60)  # who it is cannot be verified
        assert ("changed=0" not in said) is changed
    code, said = playbook("developers", "--limit", "dev1")
    assert code == 0, said
    assert developer.run(asks).rc == 0


def test_a_key_may_be_for_some_models(playbook, ask):
    rows = [{"team": "red", "name": "anna", "models": []}]
    assert playbook("gateways", gateway_keys=rows)[0] == 0
    try:
        assert ask("/v1/responses", body={"model": "micro", "input": "x"})[0] == 404
        assert json.loads(ask("/v1/models")[1])["data"] == []
    finally:
        assert playbook("gateways")[0] == 0


def test_a_drained_server_gets_nothing_new(playbook, ask):
    assert playbook("gateways", gateway_drained=["server1", "server2"], gateway_hold=0)[0] == 0
    try:
        status, said = ask("/v1/responses", body={"model": "micro", "input": "x"})
        assert (status, json.loads(said)["error"]["code"]) == (503, "model_unavailable")
    finally:
        assert playbook("gateways")[0] == 0


def test_a_run_that_was_killed_before_its_reload_is_finished_by_the_next(playbook, gateway):
    gateway.check_output("sleep 1; touch /etc/ownmetal-gateway/nginx.conf")
    code, said = playbook("gateways")
    assert (code, "changed=1" in said) == (0, True), said
    assert "changed=0" in playbook("gateways")[1]


def test_a_configuration_that_nginx_refuses_is_not_loaded(gateway, ask):
    gateway.check_output("cp /etc/ownmetal-gateway/nginx.conf /root/kept; echo 'nonsense;' >>/etc/ownmetal-gateway/nginx.conf")
    try:
        assert gateway.run("systemctl reload ownmetal-gateway").rc != 0
        assert ask("/v1/models")[0] == 200
    finally:
        gateway.check_output("cat /root/kept >/etc/ownmetal-gateway/nginx.conf; rm /root/kept; systemctl reload ownmetal-gateway")
