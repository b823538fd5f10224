"""What is refused leaves all as it was; a changed unit restarts; another engine leaves nothing of the first."""

import json

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import gateway_tls
from conftest import ENGINES, NAME, key, main_pid, streams_through

# systemd names a service's private /tmp anew at each start
LEFT = (
    "find /etc /var /run /usr/local -name 'systemd-private-*' -prune -o "
    "-name '*ownmetal-gateway*' -prune -exec find {} ! -name '.*' -printf '%p\\n' ';' | sort"
)
OF_NGINX = {"/etc/ownmetal-gateway/nginx.conf", "/etc/ownmetal-gateway/state.json", "/etc/logrotate.d/ownmetal-gateway"}
OF_CADDY = {"/etc/ownmetal-gateway/Caddyfile", "/etc/ownmetal-gateway/secrets.caddy", "/run/ownmetal-gateway/admin.sock"}
NONSENSE = {  # what the role's own checks would not let through
    "caddy": {"__gateway_listing": "` nonsense {"},
    "nginx": {"__gateway_said_limits": '" nonsense;'},
}
SUMS = "cat /etc/ownmetal-gateway/* /etc/systemd/system/ownmetal-gateway.service | sha256sum"


REFUSED = {
    "gateway_burst": (40, "gateway_burst: gateway_engine caddy cannot: a rate and a concurrency of each key. Write gateway_engine: nginx"),
    "gateway_keys": (
        [{"team": "red", "name": "ci", "models": ["micro"]}],
        "gateway_keys red/ci: models: gateway_engine caddy cannot: keys for some models only.",
    ),
}


@pytest.mark.parametrize("name", ["gateways", "rotate_keys", "rotate_server_key", "upgrade"])
def test_what_caddy_cannot_do_is_refused_without_a_connection(playbook, name):
    held = key("anna"), key("internal")
    code, said = playbook(name, "-vvv", **{variable: value for variable, (value, _) in REFUSED.items()})
    assert code != 0
    assert "SSH: EXEC" not in said
    assert [words for _, words in REFUSED.values() if words not in said] == []
    assert (key("anna"), key("internal")) == held


@pytest.fixture(params=ENGINES)
def engine(request, converge):
    limits = {} if request.param == "caddy" else {"gateway_engine": "nginx"}
    converge(**limits)
    yield request.param
    converge()


def test_what_the_engine_refuses_leaves_configuration_and_secrets(engine, playbook, gateway, ask):
    before, running = gateway.check_output(SUMS), main_pid(gateway)
    more = [{"team": "red", "name": "anna"}, {"team": "red", "name": "new"}]
    for other in ENGINES:  # from the same engine, and from the other
        code, said = playbook("gateways", gateway_engine=other, gateway_keys=more, **NONSENSE[other])
        assert code != 0
        assert "its validator refused it" in said, said[-3000:]
        assert "Nothing was replaced." in said
        assert (gateway.check_output(SUMS), main_pid(gateway)) == (before, running)
    gateway.check_output("systemctl restart ownmetal-gateway")  # as the host's next start would
    assert [ask("/v1/models", key(name))[0] for name in ("anna", "new")] == [200, 401]


def test_a_changed_unit_restarts_and_a_changed_key_does_not(engine, converge, gateway):
    started = main_pid(gateway)
    converge(gateway_engine=engine, gateway_keys=[{"team": "red", "name": "anna"}])
    assert main_pid(gateway) == started
    gateway.check_output("echo '# of before' >>/etc/systemd/system/ownmetal-gateway.service")
    converge(gateway_engine=engine)
    assert main_pid(gateway) not in (started, "0")
    assert "NeedDaemonReload=no" in gateway.check_output("systemctl show ownmetal-gateway -p NeedDaemonReload")
    assert "changed=0" in converge(gateway_engine=engine)


def test_given_files_are_what_is_shown(engine, converge, client, tmp_path):
    given = gateway_tls.made(str(tmp_path), "gw1", [NAME])
    files = {f"gateway_tls_{what}": str(tmp_path / f"gateway-gw1.{end}") for what, end in (("certificate", "crt"), ("key", "key"))}
    converge(gateway_engine=engine, gateway_tls="files", **files)
    shown = client.check_output(f"openssl s_client -connect {NAME}:443 </dev/null 2>/dev/null | openssl x509")
    assert shown.strip() in given.certificate
    assert "changed=0" in converge(gateway_engine=engine, gateway_tls="files", **files)


def test_completions_and_embeddings_are_open_where_they_are_asked_for(engine, converge, ask):
    paths = ("/v1/completions", "/v1/embeddings")
    body = {"model": "micro", "input": "x"}
    assert {ask(path, body=body)[0] for path in paths} == {404}
    converge(gateway_engine=engine, gateway_routes=["chat/completions", "responses", "completions", "embeddings"])
    assert [json.loads(ask(path, body=body)[1])["path"] for path in paths] == list(paths)
    assert {ask(path, "wrong", body)[0] for path in paths} == {401}
    converge(gateway_engine=engine)
    assert {ask(path, body=body)[0] for path in paths} == {404}


def test_from_caddy_to_nginx_and_back_leaves_nothing_of_the_other(converge, gateway, ask):
    """Streams have their time to end: the one that goes is stopped by its own unit's signal."""
    first = set(gateway.check_output(LEFT).splitlines())
    assert first >= OF_CADDY
    assert not first & OF_NGINX
    converge(gateway_engine="nginx")
    there = set(gateway.check_output(LEFT).splitlines())
    assert there >= OF_NGINX
    assert not there & OF_CADDY
    assert not [path for path in there if path.startswith("/var/lib/")]
    assert gateway.run("pgrep -x caddy").rc == 1
    assert ask("/v1/models")[0] == 200
    converge()
    last = set(gateway.check_output(LEFT).splitlines())
    # a log's folder and nginx's own of caches are the service's, whichever it is
    assert {path for path in last - first if "/var/cache/" not in path} == set()
    assert gateway.run("pgrep -x nginx").rc == 1
    assert ask("/v1/models")[0] == 200


SWITCHES = [("nginx", "caddy"), ("caddy", "nginx")]


@pytest.mark.parametrize(("one", "other"), SWITCHES)
def test_a_stream_of_the_engine_that_goes_ends_well(converge, client, ask, one, other):
    converge(gateway_engine=one)
    ask("/v1/models")
    ends = streams_through(client, lambda: converge(gateway_engine=other), 4, 500)
    converge()
    assert [(status, whole) for status, _, _, _, whole in ends] == [(200, True)] * 4
