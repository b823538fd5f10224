"""The gateway's decisions: what is refused, what nginx and its program are told, and the private CA."""

import datetime
import hashlib
import json
import os
import ssl

import pytest
from ansible_collections.ownmetal.codex.plugins.filter import gateway as gateway_filter
from ansible_collections.ownmetal.codex.plugins.module_utils import (
    gateway_keys,
    gateway_leftovers,
    gateway_plan,
    gateway_rotation,
    gateway_state,
    gateway_tls,
)
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.timezone.utc)


def instance(server="gpu1", name="coder", **keys):
    host = keys.pop("host", "10.0.0.5")
    shared = {"name": name, "server": server, "host": host, "port": 8000, "base_url": f"http://{host}:8000/v1"}
    return {**shared, "served_model_name": [name], "max_model_len": 32768, "model": "/srv/coder", **keys}


def settings(**changes):
    usual = {
        "host": "gw1", "engine": "nginx", "listen": "0.0.0.0", "port": 443, "names": ["gw1"], "tls": "private_ca",
        "tls_certificate": "", "tls_key": "", "secrets": "/srv/secrets", "keys": [], "routes": ["responses"],
        "requests_per_minute": 600, "burst": 40, "concurrency": 16, "body_limit_mib": 32, "hold": 120, "key_overlap_hours": 24,
        "stream_timeout": 3600, "monitors": [], "drained": [],
    "setup": False, "user": "ownmetal-gateway", "acme_directory": "", "acme_email": "", "acme_ca": "", "acme_agreed": False,
    }  # fmt: skip
    return {**usual, **changes}


SERVER_KEYS = {"gpu1": ("internal-key-of-the-servers", "")}
CADDY = {"engine": "caddy", "requests_per_minute": 0, "burst": 0, "concurrency": 0}
ACME = {"tls": "acme", "acme_directory": "https://acme.example.com/directory", "acme_email": "ops@example.com", "acme_agreed": True}


ANNA = {"team": "red", "name": "anna"}
REFUSED = [
    # settings                                           words of the refusal, or none
    ({}, None),
    (CADDY, None),
    (
        {**CADDY, "burst": 40},
        "gateway_burst: gateway_engine caddy cannot: a rate and a concurrency of each key. Write gateway_engine: nginx",
    ),
    ({**CADDY, "keys": [{"team": "red", "name": "ci", "models": ["coder"]}]}, "gateway_keys red/ci: models: gateway_engine caddy cannot"),
    ({**CADDY, "keys": [{"team": "red", "name": "ci", "concurrency": 2}]}, "gateway_keys red/ci: concurrency: gateway_engine caddy cannot"),
    ({**CADDY, "keys": [{"team": "red", "name": "ci", "concurrency": 2, "state": "absent"}]}, None),
    ({**CADDY, "keys": [{"team": "red", "name": "ci", "expires": "2027-01-31"}]}, None),
    ({"burst": 0}, "gateway_burst: 0 is no whole number above 0."),
    ({"engine": "apache"}, "is no engine"),
    (ACME, None),
    ({**ACME, **CADDY}, None),
    ({**ACME, "acme_directory": "http://acme.example.com/"}, "gateway_acme_directory: 'http://acme.example.com/' is no https address."),
    ({**ACME, "acme_directory": "https://a/ --pre-hook=x"}, "gateway_acme_directory"),
    ({**ACME, "acme_email": "ops"}, "gateway_acme_email: 'ops' is no address for mail."),
    ({**ACME, "acme_agreed": False}, "gateway_acme_agreed: is not true"),
    ({**ACME, "acme_ca": "/nowhere"}, "gateway_acme_ca: /nowhere is no file of the controller."),
    ({**ACME, "names": ["gw1", "192.0.2.1"]}, "gateway_names: 192.0.2.1 is an address"),
    ({"acme_email": "ops@example.com"}, "gateway_acme_email: is read with gateway_tls: acme alone."),
    ({"tls": "letsencrypt"}, "is no way to a certificate"),
    ({"tls": "files"}, "gateway_tls_certificate: is empty."),
    ({"tls_key": "/srv/key"}, "is read with gateway_tls: files alone"),
    ({"tls": "files", "tls_certificate": "/a", "tls_key": "/b"}, None),
    ({"listen": "eth0"}, "gateway_listen: 'eth0' is no address."),
    ({"listen": "::"}, None),
    ({"names": []}, "gateway_names: names nothing."),
    ({"names": ["https://gw1/"]}, "without scheme, port and path"),
    ({"names": ["llm.example.com", "192.0.2.1", "2001:db8::1"]}, None),
    ({"names": ["gw1; return 200"]}, "is neither a host's name nor an address"),
    ({"monitors": ["192.0.2.5/24"]}, "write 192.0.2.0/24"),
    ({"secrets": ".secrets"}, "depends on where Ansible is started"),
    ({"routes": []}, "gateway_routes: opens nothing."),
    ({"routes": ["response"]}, "Did you mean responses?"),
    ({"routes": ["tokenize"]}, "Known are"),
    ({"routes": [["responses"]]}, "gateway_routes: ['responses']: is no route"),
    ({"routes": ["responses", "responses"]}, "gateway_routes: responses: stands twice. Remove one."),
    ({"names": ["gw_1"]}, "A host's name has no '_': write the names and addresses that clients use."),
    ({"user": "root"}, "gateway_user: is root"),
    ({"user": ""}, "gateway_user: '' is no user's name."),
    ({"user": None}, "gateway_user: None is no user's name."),
    ({"user": "0"}, "gateway_user: '0' is no user's name."),
    ({"user": "a b"}, "gateway_user: 'a b' is no user's name."),
    ({"user": "svc.gateway"}, None),
    ({"port": 65535}, None),
    ({"port": 70000}, "gateway_port: 70000 is no port: the last one is 65535."),
    ({**ACME, "port": 80}, "gateway_port: 80 is where certbot answers the authority"),
    ({**ACME, **CADDY, "port": 80}, None),
    ({"port": 80}, None),
    ({"drained": [{"gpu1": 1}]}, "gateway_drained: {'gpu1': 1}: leads to no instance."),
    ({"port": 0}, "gateway_port: 0 is no whole number above 0."),
    ({"hold": 0}, None),
    ({"hold": -1}, "gateway_hold"),
    ({"hold": "soon"}, "gateway_hold: 'soon' is no whole number"),
    ({"key_overlap_hours": 0}, None),
    ({"key_overlap_hours": "24h"}, "gateway_key_overlap_hours: '24h' is no whole number"),
    ({"key_overlap_hours": -1}, "gateway_key_overlap_hours: -1 is no whole number"),
    ({"key_overlap_hours": False}, "gateway_key_overlap_hours: False is no whole number"),
    ({"port": "8443"}, None),  # from a command line
    ({"drained": ["gpu1"]}, None),
    ({"drained": ["gpu1/coder"]}, None),
    ({"drained": ["gpu2"]}, "gateway_drained: gpu2: leads to no instance. Did you mean gpu1?"),
    ({"drained": "gpu1"}, "is not a list"),
    ({"keys": {}}, "gateway_keys: is not a list."),
    ({"keys": ["anna"]}, "gateway_keys[0]: is no mapping."),
    ({"keys": [ANNA]}, None),
    ({"keys": [ANNA, ANNA]}, "gateway_keys red/anna: stands twice."),
    ({"keys": [{"team": "red"}]}, "its name None cannot be a file's name"),
    ({"keys": [{"team": "..", "name": "x"}]}, "its team '..' cannot be a file's name"),
    ({"keys": [{"team": "red", "name": "a/b"}]}, "cannot be a file's name"),
    ({"keys": [{**ANNA, "expires": "2027-02-30"}]}, "gateway_keys red/anna: expires: '2027-02-30' is no day."),
    ({"keys": [{**ANNA, "expires": datetime.date(2027, 1, 31)}]}, None),
    ({"keys": [{**ANNA, "expire": "2027-01-31"}]}, "Did you mean expires?"),
    ({"keys": [{**ANNA, "state": "gone"}]}, "Write present or absent."),
    ({"keys": [{**ANNA, "burst": 0}]}, "gateway_keys red/anna: burst: 0 is no whole number above 0."),
    ({"keys": [{**ANNA, "models": ["code"]}]}, "no instance serves code. Did you mean coder?"),
    ({"keys": [{**ANNA, "models": ["old"], "state": "absent"}]}, None),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_cannot_work_is_refused(changes, words):
    found = " ".join(map(str, gateway_plan.problems(gateway_plan.numbers(settings(**changes)), [instance()])))
    assert bool(found) == bool(words), found
    assert words is None or words in found


INSTANCES = [
    # instances                                                                   words of the refusal, or none
    ([], "gateway_instances: is empty"),
    ([instance(host="127.0.0.1")], "listens on loopback of gpu1, where the gateway gw1 cannot reach it"),
    ([instance("gw1", host="127.0.0.1")], None),
    ([instance(), instance("gpu2", host="10.0.0.6")], None),
    ([instance(), instance("gpu2", model="/mnt/coder/")], None),  # the same model in another place
    ([instance(), instance("gpu2", model="/srv/other")], "is served by different models: coder of gpu1 and coder of gpu2"),
    (
        [instance(model_repository="a/b", model_revision="1"), instance("gpu2", model_repository="a/b", model_revision="2")],
        "different models",
    ),
]


@pytest.mark.parametrize(("instances", "words"), INSTANCES)
def test_instances_that_cannot_be_led_to_are_refused(instances, words):
    found = " ".join(map(str, gateway_plan.problems(settings(), instances)))
    assert bool(found) == bool(words), found
    assert words is None or words in found


def test_two_servers_of_one_model_are_one_upstream_with_the_shorter_context():
    rows = [instance(), instance("gpu2", host="10.0.0.6", max_model_len=16384), instance("gpu2", "small", host="10.0.0.6")]
    coder, small = gateway_plan.models(rows, ["gpu2"], "gw1")
    assert [(row["address"], row["down"]) for row in coder["servers"]] == [("10.0.0.5:8000", False), ("10.0.0.6:8000", True)]
    assert (coder["max_model_len"], coder["upstream"], small["upstream"]) == (16384, "model0", "model1")
    assert gateway_plan.lua_models([coder])["coder"]["servers"] == ["10.0.0.5:8000"]  # held requests do not wait for a drained one


def test_caddy_leads_to_one_pool_of_servers():
    one = [instance(served_model_name=["coder", "alias"]), instance("gpu2", served_model_name=["coder", "alias"])]
    assert gateway_plan.problems(settings(**CADDY), one) == []
    found = " ".join(map(str, gateway_plan.problems(settings(**CADDY), [instance(), instance("gpu2", "small")])))
    assert "gateway_engine caddy: cannot see which model a body asks for, and these have servers of their own: coder, small." in found


def test_caddy_lists_no_length_that_it_does_not_know():
    found = " ".join(map(str, gateway_plan.problems(settings(**CADDY), [instance(max_model_len=None)])))
    assert "vllm_instances coder: max_model_len: is left to vLLM, and gateway_engine caddy lists" in found
    assert gateway_plan.problems(settings(), [instance(max_model_len=None)]) == []


def test_caddy_has_digests_of_keys_too_and_the_servers_own(tmp_path):
    given = settings(**CADDY, keys=[ANNA, {**ANNA, "name": "ben", "expires": "2027-01-31"}], secrets=str(tmp_path))
    text = gateway_state.text(given, [instance()], SERVER_KEYS, "pem", True)
    anna = (tmp_path / "keys/red/anna.key").read_text().strip()
    assert anna not in text
    assert f'"{hashlib.sha256(anna.encode()).hexdigest()}" "red/anna 9999999999"' in text
    assert '"red/ben 1801440000"' in text
    assert 'vars gateway_authorization "Bearer internal-key-of-the-servers"' in text
    other = gateway_state.text({**given, "stream_timeout": 60}, [instance()], SERVER_KEYS, "pem", True)
    assert other != text  # so that its digest tells whether the other file was loaded


ETC, STATE, TIMER = "/etc/ownmetal-gateway", "/var/lib/ownmetal-gateway", "/etc/systemd/system/ownmetal-gateway-acme.timer"
LEFT = [
    # settings, what goes, what stays
    ({}, {f"{ETC}/Caddyfile", f"{ETC}/acme-ca.crt", TIMER, STATE}, {f"{ETC}/nginx.conf", f"{ETC}/tls.key"}),
    (CADDY, {f"{ETC}/nginx.conf", f"{ETC}/state.json", f"{STATE}/caddy/acme", TIMER}, {f"{ETC}/Caddyfile", f"{ETC}/tls.key", STATE}),
    (ACME, {f"{ETC}/Caddyfile", f"{ETC}/tls.key", f"{STATE}/caddy"}, {TIMER, STATE, f"{STATE}/acme"}),
    ({**ACME, **CADDY, "acme_ca": "/ca"}, {TIMER, f"{STATE}/acme"}, {f"{ETC}/acme-ca.crt", STATE, f"{STATE}/caddy", f"{STATE}/caddy/acme"}),
]


@pytest.mark.parametrize(("changes", "gone", "kept"), LEFT)
def test_what_another_engine_or_way_to_a_certificate_has_left_goes(changes, gone, kept):
    found = set(gateway_leftovers.leftovers(settings(**changes)))
    assert gone <= found
    assert not kept & found


def test_a_length_that_vllm_decides_is_not_made_up():
    assert gateway_plan.models([instance(), instance("gpu2", max_model_len=None)], [], "gw1")[0]["max_model_len"] is None


def test_servers_of_one_model_have_one_key():
    found = gateway_plan.models([instance(), instance("gpu2")], [], "gw1")
    assert gateway_plan.backend_authorizations(found, {"gpu1": ("k", ""), "gpu2": ("k", "")}) == {"model0": ["Bearer k"]}
    rotating = {"gpu1": ("k", "old"), "gpu2": ("k", "old")}
    assert gateway_plan.backend_authorizations(found, rotating) == {"model0": ["Bearer k", "Bearer old"]}
    with pytest.raises(Refused, match="vllm_api_key: differs between gpu1, gpu2"):
        gateway_plan.backend_authorizations(found, {"gpu1": ("k", ""), "gpu2": ("other", "")})


def test_each_different_limit_is_a_class_and_nothing_else_is():
    keys = [ANNA, {**ANNA, "name": "ben", "burst": 40}, {**ANNA, "name": "ci", "concurrency": 2}, {**ANNA, "burst": 9, "state": "absent"}]
    names = [row["name"] for row in gateway_plan.classes(keys, gateway_state.usual(settings()))]
    assert names == ["r600b40c16", "r600b40c2"]


def test_developers_are_told_of_the_gateway():
    told = gateway_plan.client_instances([instance(), instance("gpu2", max_model_len=8192)], "gw1", {"gateway_names": ["llm.example.com"]})
    assert {row["base_url"] for row in told} == {"https://llm.example.com/v1"}
    assert {row["max_model_len"] for row in told} == {8192}
    address = {"gateway_names": ["2001:db8::1"], "gateway_port": 8443}
    assert gateway_plan.client_instances([instance()], "gw1", address)[0]["base_url"] == "https://[2001:db8::1]:8443/v1"
    assert gateway_plan.client_instances([instance()], "gw1", {})[0]["base_url"] == "https://gw1/v1"


OBSERVED = {"system": {"name": "debian", "version": "12"}, "ports": {"443": []}}
HOSTS = [
    ({}, None),
    ({"system": {"name": "rocky", "version": "9.6"}}, "gw1: runs rocky 9.6"),
    ({"ports": {"443": [{"address": "0.0.0.0", "unit": "ownmetal-gateway.service"}]}}, None),
    ({"ports": {"443": [{"address": "0.0.0.0", "unit": "apache2.service"}]}}, "gateway_port 443: apache2.service listens there already"),
    ({"ports": {"443": [{"address": "0.0.0.0"}]}}, "somebody listens there already"),
    ({"ports": {"443": [], "80": [{"address": "0.0.0.0", "unit": "nginx.service"}]}}, "gateway_tls acme, port 80: nginx.service listens"),
]


@pytest.mark.parametrize(("changes", "words"), HOSTS)
def test_a_host_that_cannot_be_a_gateway_is_refused(changes, words):
    found = " ".join(map(str, gateway_plan.host_problems("gw1", {**OBSERVED, **changes}, 443, "ownmetal-gateway.service")))
    assert bool(found) == bool(words), found
    assert words is None or words in found


def test_the_state_holds_digests_and_no_key_of_a_person(tmp_path):
    keys = [ANNA, {**ANNA, "name": "ben", "expires": "2027-01-31", "models": ["coder"]}, {**ANNA, "name": "gone", "state": "absent"}]
    given = settings(keys=keys, secrets=str(tmp_path))
    text = gateway_state.text(given, [instance()], SERVER_KEYS, "pem", True)
    anna = (tmp_path / "keys/red/anna.key").read_text().strip()
    state = json.loads(text)
    assert anna not in text
    assert state["keys"][hashlib.sha256(anna.encode()).hexdigest()]["key"] == "red/anna"
    assert len(state["keys"]) == 2  # a revoked key is none
    assert not (tmp_path / "keys/red/gone.key").exists()
    ben = next(row for row in state["keys"].values() if row["key"] == "red/ben")
    assert (ben["models"], ben["expires"]) == (["coder"], 1801440000)  # 2027-02-01 00:00 UTC: the last day counts
    assert state["models"]["coder"]["authorizations"] == ["Bearer internal-key-of-the-servers"]
    assert text == gateway_state.text(given, [instance()], SERVER_KEYS, "pem", True)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.key")} == {0o600}


def test_in_check_mode_no_key_is_made(tmp_path):
    gateway_state.text(settings(keys=[ANNA], secrets=str(tmp_path)), [instance()], SERVER_KEYS, "pem", False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [True, False])
def test_nobody_has_the_servers_own_key(tmp_path, make):
    file = tmp_path / "keys/red/anna.key"
    file.parent.mkdir(parents=True)
    file.write_text(SERVER_KEYS["gpu1"][0] + "\n")
    file.chmod(0o600)
    with pytest.raises(Refused, match=r"red/anna.key: holds the model servers' own key") as refused:
        gateway_state.text(settings(keys=[ANNA], secrets=str(tmp_path)), [instance()], SERVER_KEYS, "pem", make)
    assert SERVER_KEYS["gpu1"][0] not in str(refused.value)


def test_the_servers_own_key_has_no_overlap_where_it_was_a_persons(tmp_path):
    """Its file has another one by now: there is nothing to remove, and the gateway does not take it."""
    file, own = tmp_path / "keys/red/anna.key", SERVER_KEYS["gpu1"][0]
    file.parent.mkdir(parents=True)
    file.write_text(own + "\n")
    file.chmod(0o600)
    gateway_rotation.rotate([str(file)], "first", 1_800_000_000, 3600)
    for known in (SERVER_KEYS, {"gpu1": ("the-new-key-of-the-servers", own)}):
        state = json.loads(gateway_state.text(settings(keys=[ANNA], secrets=str(tmp_path)), [instance()], known, "pem", True))
        assert list(state["keys"]) == [hashlib.sha256(file.read_text().strip().encode()).hexdigest()]


def test_two_people_do_not_share_a_key(tmp_path):
    keys = [ANNA, {**ANNA, "name": "ben"}]
    gateway_keys.table(keys[:1], str(tmp_path), gateway_state.usual(settings()), True)
    os.link(tmp_path / "keys/red/anna.key", tmp_path / "keys/red/ben.key")
    with pytest.raises(Refused, match=r"ben.key: holds the same key as red/anna's file"):
        gateway_keys.table(keys, str(tmp_path), gateway_state.usual(settings()), True)


def test_a_servers_key_is_found_where_its_role_has_it(tmp_path):
    read = {}.get
    assert gateway_state.server_key({"vllm_api_key": "given"}, True, read) == "given"
    paths = []
    gateway_state.server_key({"inventory_dir": "/inv"}, True, lambda path, make: paths.append(path) or "k")
    gateway_state.server_key({"inventory_dir": "/inv", "vllm_api_key_file": "/other"}, True, lambda path, make: paths.append(path) or "k")
    assert paths == ["/inv/.secrets/vllm_api_key", "/other"]


def test_a_client_accepts_the_private_cas_certificate(tmp_path):
    """By OpenSSL's own judgement, for a name and for an address."""
    pair = gateway_tls.made(str(tmp_path), "gw1", ["gw1", "192.0.2.1"])
    (tmp_path / "chain.pem").write_text(pair.certificate)
    (tmp_path / "chain.key").write_text(pair.key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "chain.pem", tmp_path / "chain.key")
    for name, good in (("gw1", True), ("192.0.2.1", True), ("gw2", False)):
        assert handshake(server, ssl.create_default_context(cadata=pair.ca), name) is good, name


def handshake(server, client, name):
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up, server_hostname=name), server.wrap_bio(up, down, server_side=True)]
    for _ in range(4):
        for end in list(ends):
            try:
                end.do_handshake()
                ends.remove(end)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError:
                return False
    return not ends


RENEWED = [
    # days later, names                      the same certificate, the same CA
    (0, ["gw1"], True),
    (360, ["gw1"], True),
    (368, ["gw1"], False),  # 30 days before its end
    (0, ["gw1", "gw.example.com"], False),
]


@pytest.mark.parametrize(("days", "names", "same"), RENEWED)
def test_a_certificate_is_renewed_in_time_and_not_before(tmp_path, days, names, same):
    first = gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=NOW)
    again = gateway_tls.made(str(tmp_path), "gw1", names, now=NOW + datetime.timedelta(days=days))
    assert (again.certificate == first.certificate) is same
    assert again.ca == first.ca
    assert gateway_tls.unfit(again, names, NOW + datetime.timedelta(days=days)) == ""
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.[ck]*")} == {0o600}


def test_no_certificate_outlives_its_ca_and_one_that_has_ended_signs_nothing(tmp_path):
    gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=NOW)
    end = gateway_tls._end((tmp_path / "ca.crt").read_text())
    last = gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=end - datetime.timedelta(days=100))
    assert gateway_tls._end(last.certificate) == end
    assert gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=end - datetime.timedelta(days=1)) == last  # not made anew with each run
    for make in (True, False):
        with pytest.raises(Refused, match=r"private_ca: its CA, \S+/ca\.crt, has ended on \S+ Remove it and \S+/ca\.key, and run"):
            gateway_tls.made(str(tmp_path), "gw1", ["gw1"], make=make, now=end)
    assert (tmp_path / "ca.crt").read_text() == last.ca


@pytest.mark.parametrize("gone", [[], ["ca.key"], ["ca.key", "gateway-gw1.key"]])
def test_a_ca_that_has_ended_is_refused_also_with_a_longer_certificate(tmp_path, monkeypatch, gone):
    """As one was made before certificates ended with their CA."""
    gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=NOW)
    late = gateway_tls._end((tmp_path / "ca.crt").read_text()) - datetime.timedelta(days=100)
    monkeypatch.setattr(gateway_tls, "min", lambda first, *_: first, raising=False)
    made = gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=late)
    monkeypatch.undo()
    assert gateway_tls._end(made.certificate) > late + datetime.timedelta(days=101)
    for name in gone:
        (tmp_path / name).unlink()
    with pytest.raises(Refused, match=r"has ended on \S+ Remove it and"):
        gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=late + datetime.timedelta(days=101))


def test_a_new_ca_makes_a_new_certificate(tmp_path):
    first = gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=NOW)
    for name in ("ca.crt", "ca.key"):
        (tmp_path / name).unlink()
    again = gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=NOW)
    assert again.ca != first.ca
    assert again.certificate != first.certificate


def test_a_ca_whose_key_is_kept_elsewhere_is_not_replaced(tmp_path):
    first = gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=NOW)
    (tmp_path / "ca.key").unlink()
    assert gateway_tls.made(str(tmp_path), "gw1", ["gw1"], now=NOW) == first
    for host, names in (("gw1", ["gw1", "llm"]), ("gw2", ["gw2"])):
        with pytest.raises(Refused, match=r"private_ca: has to sign .*ca\.key is not there"):
            gateway_tls.made(str(tmp_path), host, names, now=NOW)
    assert (tmp_path / "ca.crt").read_text() == first.ca


def test_what_an_engine_leaves_is_shown_to_nobody():
    assert {entry["secret"] for entry in gateway_filter.leftovers(settings())} == {True}


def test_check_mode_makes_no_certificate(tmp_path):
    assert gateway_tls.made(str(tmp_path), "gw1", ["gw1"], make=False) == gateway_tls.PLACEHOLDER
    assert list(tmp_path.iterdir()) == []
    pair = gateway_tls.made(str(tmp_path), "gw1", ["gw1"])
    assert gateway_tls.made(str(tmp_path), "gw1", ["gw1"], make=False) == pair


def test_given_files_are_judged(tmp_path):
    gateway_tls.made(str(tmp_path), "gw1", ["*.example.com", "gw1"], now=NOW)
    gateway_tls.made(str(tmp_path), "gw2", ["gw2"], now=NOW)
    certificate, key, other = (str(tmp_path / f"gateway-{name}") for name in ("gw1.crt", "gw1.key", "gw2.key"))
    assert gateway_tls.given(certificate, key, ["llm.example.com", "gw1"], NOW).ca == ""
    rows = [
        (certificate, other, ["gw1"], 0, "is not of that key"),
        (certificate, key, ["gw3"], 0, "does not name gw3"),
        (certificate, key, ["a.b.example.com"], 0, "does not name a.b.example.com"),
        (certificate, key, ["gw1"], 400, "is good from 2026-11-22 to 2027-12-24 only"),
        (key, key, ["gw1"], 0, "are not PEM"),
        (certificate, "/nowhere", ["gw1"], 0, "gateway_tls_key: /nowhere cannot be read"),
    ]
    for crt, private, names, days, words in rows:
        with pytest.raises(Refused, match=words):
            gateway_tls.given(crt, private, names, NOW + datetime.timedelta(days=days))
    (tmp_path / "gateway-gw1.key").chmod(0o644)
    with pytest.raises(Refused, match="can be read by others"):
        gateway_tls.given(certificate, key, ["gw1"], NOW)
