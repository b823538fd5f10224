"""What roles/codex refuses before it looks at a host, and that its pins agree."""

import json
import os
from pathlib import Path

import pytest
import yaml
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_release, gateway_tls
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_settings as settings
from ansible_collections.ownmetal.codex.plugins.module_utils.observe import observe

ROLE = Path(__file__).resolve().parents[2] / "roles/codex"
INSTANCE = {"name": "micro", "served_model_name": ["micro", "small"], "host": "10.0.0.1", "max_model_len": 32768, "server": "server1"}
GOOD = {
    "users": [{"name": "dev"}],
    "install": True,
    "version": "0.169.0",
    "locked_version": "0.169.0",
    "source": "npm",
    "archive": "",
    "sha256": "",
    "scope": "machine",
    "package_managers": {"debian": "apt", "rocky": "dnf"},
    "provider": "vllm",
    "model": "micro",
    "instances": [INSTANCE],
    "servers_group": "gpu_servers",
    "host": "dev1",
    "inventory_hosts": ["server1", "gw1", "dev1"],
    "program": "codex",
    "profiles": [],
    "place": "user",
    "enforce": False,
    "key_source": "file",
    "dialect": "upstream",
    "model_options": {},
    "http_headers": {},
    "extra": {},
    "features": {},
    "mcp_servers": {},
    "gateway": "",
    "ca_file": "",
    "server_keys": {"server1": 0, "server2": 1, "server3": 0},
}

KEYS = [{"team": "red", "name": "anna"}, {"team": "blue", "name": "gone", "state": "absent"}]
GATEWAY = {"gateway": "gw1", "gateway_key": "red/anna", "gateway_keys": KEYS, "own_key": False}

# red/ben may use one model
LIMITED = {**GATEWAY, "gateway_keys": [*KEYS, {"team": "red", "name": "ben", "models": ["micro"]}], "gateway_key": "red/ben"}
# two servers without a gateway
OTHERS = [{**INSTANCE, "name": f"n{n}", "served_model_name": [f"large{n}"], "server": f"server{n}"} for n in (2, 3)]
SERVERS = {"instances": [INSTANCE, *OTHERS], "inventory_hosts": ["server1", "server2", "server3", "dev1"]}


def mcp(**server):
    return {"place": "machine", "mcp_servers": {"git": server}}


ARCHIVE = {"source": "archive", "archive": "/srv/codex.tar.gz", "sha256": "ab" * 32}

REFUSED = [
    ({**ARCHIVE, "archive": "codex.tar.gz"}, "codex_archive: is no absolute path."),
    ({**ARCHIVE, "sha256": ""}, "codex_archive_sha256: is not 64 hexadecimal digits. Write what `sha256sum FILE` prints."),
    ({**ARCHIVE, "source": "npm"}, "codex_archive: is not read: codex_source is npm."),
    (
        {"users": [], "place": "machine", "key_source": "environment", "scope": "user"},
        "codex_scope: user: is for no one: codex_users is empty.",
    ),
    ({"users": []}, "codex_users: names no one."),
    ({"users": "dev"}, "codex_users: names no one."),
    ({"users": ["dev"]}, "codex_users: 'dev' does not name a user."),
    ({"users": [{"name": "../root"}]}, "does not name a user."),
    ({"users": [{"name": "dev"}, {"name": "dev"}]}, "codex_users dev: stands twice"),
    ({"version": "latest"}, "codex_version: 'latest' is no version. Write it as in 0.169.0."),
    ({"version": "0.94.0", "locked_version": "0.94.0"}, "codex_version: Codex 0.94.0 is packed in another way"),
    ({"users": [], "place": "machine"}, "codex_users: names no one."),
    ({"profiles": [{"name": "ollama", "model": "small"}]}, "codex_profiles: 'ollama' cannot name a profile"),
    ({"profiles": [{"name": "vllm", "model": "small"}]}, "codex_profiles vllm: stands twice, or is codex_provider."),
    ({"profiles": [{"name": "vllm-8b", "model": "smal"}]}, "codex_profiles vllm-8b: model: no instance serves 'smal'. Did you mean small?"),
    ({"http_headers": {"authorization": "x"}}, "codex_http_headers: Authorization: would stand in a file as it is."),
    ({"model_options": {"temperature": 1}}, "Write them for the server: vllm_instances: args: override-generation-config."),
    ({"extra": {"temperature": 0.2}}, "codex_extra_config: temperature: is no key of Codex, which sends no sampling parameter."),
    (
        {"version": "0.170.0"},
        "the lock of this role holds Codex 0.169.0, not 0.170.0. Remove codex_version, or give an archive",
    ),
    ({"provider": "openai"}, "codex_provider: Codex keeps the name openai for itself."),
    ({"provider": "my.own"}, "codex_provider: 'my.own' cannot name a provider."),
    ({"instances": []}, "no host of the group gpu_servers has an instance."),
    ({"model": "smal"}, "codex_model: no instance serves 'smal'."),
    ({"model": "other"}, "They serve: micro, small."),
    ({"instances": [{**INSTANCE, "max_model_len": None}]}, "vllm_instances micro: max_model_len: is not set, and without it Codex"),
    ({"instances": [{**INSTANCE, "host": "127.0.0.1"}]}, "vllm_instances micro: host: 127.0.0.1 is reached from server1 alone"),
    ({"instances": [{**INSTANCE, "host": "localhost"}]}, 'such as "{{ ansible_host }}"'),
    ({**GATEWAY, "gateway_key": ""}, "codex_gateway_key: is empty, and Codex of dev1 asks the gateway gw1 with a key of its own. Write"),
    ({**GATEWAY, "gateway_key": "", "gateway_keys": []}, "TEAM/NAME of an entry of gateway_keys; there is none yet."),
    ({**GATEWAY, "gateway_key": "red/ana"}, "codex_gateway_key: gateway_keys has no red/ana. Did you mean red/anna?"),
    ({**GATEWAY, "gateway_key": "blue/gone"}, "codex_gateway_key: gateway_keys has no blue/gone."),
    (
        {**GATEWAY, "users": [{"name": "ann", "gateway_key": "red/ana"}]},
        "codex_users ann: gateway_key: gateway_keys has no red/ana. Did you mean red/anna?",
    ),
    ({**GATEWAY, "gateway": "gw2"}, "codex_gateway: gw2 is no host of the inventory. Did you mean gw1?"),
    (
        {"instances": [{**INSTANCE, "server": "elsewhere"}]},
        "codex_api_key: is not set, and elsewhere, which serves micro, is in no inventory to have it from. Write the key of that server",
    ),
    (
        {**LIMITED, "model": "small"},
        "codex_users dev: gateway_key: red/ben may use micro alone (its models in gateway_keys), and codex_model asks for small. "
        "Write models: [micro, small] for red/ben in gateway_keys",
    ),
    (
        {
            **LIMITED,
            "gateway_key": "red/anna",
            "profiles": [{"name": "vllm-8b", "model": "small"}],
            "users": [{"name": "ann"}, {"name": "ben", "gateway_key": "red/ben"}],
        },
        "codex_users ben: gateway_key: red/ben may use micro alone (its models in gateway_keys), and codex_profiles vllm-8b asks for",
    ),
    (
        {**SERVERS, "profiles": [{"name": "vllm-8b", "model": "large2"}]},
        "codex_profiles vllm-8b: model: large2 is served by server2, whose key is another than that of server1: Codex is given one.",
    ),
    ({"ca_file": "files/ca.pem"}, "codex_ca_file: files/ca.pem is no absolute path. Write where the file is on the developer machine."),
    ({"features": {"goal": True}}, "codex_features goal: is no feature of any Codex that is known. Did you mean goals?"),
    (
        {**ARCHIVE, "version": "0.94.0", "features": {"goals": True}},
        "codex_features goals: Codex 0.94.0 has no such feature. Remove it. Or, where you know",
    ),
    ({"features": {"streamable_shell": True}}, "codex_features streamable_shell: Codex 0.169.0 has no such feature."),
    (
        mcp(command="m", env={"GITHUB_TOKEN": "ghp"}),
        "codex_mcp_servers: git.env.GITHUB_TOKEN: sounds like a secret, and codex_place: machine writes it into /etc/codex/config.toml, "
        "which everyone on the machine reads. Write env_vars: [GITHUB_TOKEN], and put",
    ),
    (mcp(command="m", env={"OPENAI_KEY": "sk"}), "Write env_vars: [OPENAI_KEY]"),
    (mcp(url="u", http_headers={"Authorization": "Bearer x"}), "Write env_http_headers: {Authorization: VARIABLE}"),
    (
        {"place": "machine", "extra": {"model_providers": {"lab": {"experimental_bearer_token": "x"}}}},
        "codex_extra_config: model_providers.lab.experimental_bearer_token: sounds like a secret",
    ),
    # the default of codex_gateway_key is the first user's: said once
    ({**GATEWAY, "users": [{"name": "ann", "gateway_key": "red/ana"}], "gateway_key": "red/ana"}, "codex_users ann: gateway_key: "),
]


@pytest.mark.parametrize(("change", "sentence"), REFUSED, ids=[sentence for _change, sentence in REFUSED])
def test_a_mistake_is_named_once(change, sentence):
    found = [str(refused) for refused in settings.problems({**GOOD, **change})]
    assert len(found) == 1
    assert sentence in found[0]


ACCEPTED = [
    {},
    GATEWAY,
    {**GATEWAY, "gateway_key": "", "own_key": True},
    {**GATEWAY, "users": [{"name": "ann", "gateway_key": "red/anna"}, {"name": "bob"}]},
    {**GATEWAY, "users": [{"name": "ann"}, {"name": "bob", "gateway_key": "red/bob", "state": "absent"}]},
    {"model": "small"},
    {"instances": [{**INSTANCE, "server": "elsewhere"}], "own_key": True},
    ARCHIVE,
    {**ARCHIVE, "version": "0.94.0", "scope": "user"},
    {"install": False, "scope": "user", "archive": "/srv/codex.tar.gz"},
    {"version": "0.94.0", "install": False},
    {"users": [], "place": "machine", "key_source": "environment"},
    {"profiles": [{"name": "vllm-8b", "model": "small"}]},
    {"model_options": {"temperature": 1}, "dialect": "guide"},
    {"version": "0.170.0-alpha.1", "install": False},
    {"instances": [{**INSTANCE, "host": "127.0.0.1", "server": "dev1"}]},
    LIMITED,
    {**LIMITED, "model": "small", "users": [{"name": "ann", "gateway_key": "red/anna"}]},
    {**LIMITED, "model": "small", "own_key": True},
    {**SERVERS, "profiles": [{"name": "vllm-8b", "model": "large3"}]},
    {**SERVERS, "profiles": [{"name": "vllm-8b", "model": "large2"}], "own_key": True},
    {**SERVERS, **GATEWAY, "profiles": [{"name": "vllm-8b", "model": "large2"}], "inventory_hosts": ["gw1"]},
    {"features": {"goals": True, "apps": False, "multi_agent": False}},
    {"features": {"brand_new": True}, "version": "0.170.0", **ARCHIVE},
    {"features": {"streamable_shell": True}, "dialect": "guide"},
    {**ARCHIVE, "version": "0.150.0", "features": {"view_image": True}},
    {**ARCHIVE, "version": "0.94.0", "features": {"goals": False}},
    mcp(command="m", env={"LOG_LEVEL": "debug"}, env_vars=["GITHUB_TOKEN"], tool_output_token_limit="x"),
    mcp(url="u", bearer_token_env_var="TOKEN", env_http_headers={"Authorization": "A"}),
    {**mcp(command="m", env={"GITHUB_TOKEN": "ghp"}), "place": "user"},
    {"instances": [{**INSTANCE, "name": "a", "served_model_name": ["a"], "max_model_len": None}, INSTANCE]},
]


@pytest.mark.parametrize("change", ACCEPTED, ids=str)
def test_what_works_is_not_refused(change):
    assert settings.problems({**GOOD, **change}) == []


def test_all_mistakes_are_named_in_one_go():
    assert len(settings.problems({**GOOD, "users": [], "version": "x", "provider": "openai", "model": "other"})) == 4


DEBIAN = {"name": "debian", "machine": "x86_64"}
HOSTS = [
    # what is there as the command, the system, free bytes, what is asked for, what is said
    ({}, DEBIAN, 1 << 40, {}, None),
    ({"target": "/opt/codex/0.168.0/codex"}, {**DEBIAN, "machine": "aarch64"}, 1 << 40, {}, None),
    ({"target": "../lib/node_modules/@openai/codex/bin/codex.js"}, DEBIAN, 1 << 40, {}, "leads to another Codex"),
    ({}, {**DEBIAN, "machine": "riscv64"}, 1 << 40, {}, "has the processor riscv64. There is a Codex for x86_64 and aarch64."),
    ({}, {**DEBIAN, "name": "rocky"}, 1 << 40, {}, None),
    ({}, {**DEBIAN, "name": "arch"}, 1 << 40, {}, "codex_source on dev1: is arch, whose packages of npm are not known."),
    ({}, {**DEBIAN, "name": ""}, 1 << 40, {}, "codex_source on dev1: is no Linux that says its name"),
    # a Mac with Intel's processor
    ({}, {**DEBIAN, "name": ""}, 1 << 40, ARCHIVE, "codex_source on dev1: is no Linux that says its name"),
    ({}, DEBIAN, 1 << 20, {}, "/opt/codex on dev1: has 1 MiB free, and Codex takes 900"),
    ({}, {**DEBIAN, "name": "arch"}, 1 << 40, ARCHIVE, "/srv/codex.tar.gz cannot be read on the controller"),
]


@pytest.mark.parametrize(("link", "system", "free", "asked", "sentence"), HOSTS)
@pytest.mark.parametrize("there", [False, True])
def test_hosts(link, system, free, asked, sentence, there):
    place = codex_release.places("machine", [], "0.169.0")[0]
    paths = {place["link"]: {"exists": bool(link), **link}, place["release"]: {"exists": there}}
    observed = {"paths": paths, "system": system, "free_space": {place["directory"]: free}}
    found = [str(refused) for refused in settings.host_problems(observed, {**GOOD, **asked}, [place])]
    # what is there already needs no room, no npm and no archive
    needed = sentence and not (there and ("free" in sentence or "codex_source" in sentence or "cannot be read" in sentence))
    assert len(found) == bool(needed)
    assert not needed or sentence in found[0]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Files of a private CA, by name."""
    folder = tmp_path_factory.mktemp("ca")
    pair = gateway_tls.made(str(folder), "gw", ["127.0.0.1"])
    key = (folder / "gateway-gw.key").read_text()
    texts = {"ca": pair.ca, "two": pair.ca + pair.ca, "key": key, "both": pair.ca + key, "der": "MIIB", "empty": "", "secret": pair.ca}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600 if name == "secret" else 0o644)
    (folder / "folder").mkdir()
    return folder


CERTIFICATES = [
    ("ca", None), ("two", None), ("key", "has a private key."), ("both", "has a private key."), ("der", "has no certificate as PEM text."),
    ("empty", "has no certificate as PEM text."), ("none", "cannot be read: No such file"), ("folder", "cannot be read: Is a"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "sentence"), CERTIFICATES, ids=[name for name, _sentence in CERTIFICATES])
def test_certificates_are_looked_at_before_anything_changes(certificates, name, sentence):
    path = f"{certificates}/{name}"
    found = [str(refused) for refused in settings.ca_problems(observe({"certificates": [path]}), {**GOOD, "ca_file": path})]
    assert len(found) == (sentence is not None)
    assert not sentence or f"codex_ca_file on dev1: {path} {sentence}" in found[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's file is one that nobody else may read")
def test_certificates_that_codex_cannot_read_are_refused(certificates):
    path = f"{certificates}/secret"
    (refused,) = settings.ca_problems(observe({"certificates": [path]}), {**GOOD, "ca_file": path})
    assert "can be read by root alone (mode 0600)" in str(refused)


def test_the_gateways_own_certificate_comes_later():
    observed = {"certificates": {settings.GATEWAYS_CA: "cannot be read: No such file or directory"}}
    asked = {**GOOD, "ca_file": settings.GATEWAYS_CA}
    assert list(settings.ca_problems(observed, {**asked, "gateway": "gw1"})) == []
    assert len(list(settings.ca_problems(observed, asked))) == 1
    assert yaml.safe_load((ROLE.parent / "gateway/vars/main.yml").read_text())["__gateway_trust_file"] == settings.GATEWAYS_CA


def test_a_users_command_is_theirs_where_it_leads_elsewhere():
    places = codex_release.places("user", [{"name": "ann"}, {"name": "bob"}], "0.169.0")
    links = [{"exists": True, "target": "../share/codex/0.160.0/codex"}, {"exists": True, "target": "/srv/codex"}]
    paths = {place["link"]: link for place, link in zip(places, links, strict=True)}
    paths |= {place["release"]: {"exists": True} for place in places}
    found = settings.host_problems({"paths": paths, "system": DEBIAN, "free_space": {}}, GOOD, places)
    assert [str(refused).split(": ")[0] for refused in found] == ["~bob/.local/bin/codex on dev1"]


# the version that a machine's Codex says it has, and what else is asked for
ON_THE_MACHINE = [
    (None, {}, "codex_install on dev1: is false, and codex does not run there."),
    ("0.64.0", {}, "Codex 0.64.0 on dev1: cannot join the pieces"),
    ("0.7.0", {}, "is older than all that are known. Install 0.169.0."),
    ("0.63.0", {"place": "machine"}, "codex_place: machine: Codex 0.63.0 on dev1 reads nothing in /etc/codex."),
    ("0.63.0", {"enforce": True}, "codex_enforce: Codex 0.63.0 on dev1 reads nothing in /etc/codex."),
    ("0.63.0", {}, None),
    ("0.80.0", {"enforce": True, "place": "machine"}, None),
]


@pytest.mark.parametrize(("version", "change", "sentence"), ON_THE_MACHINE)
def test_a_codex_that_is_there_is_left_and_judged(version, change, sentence):
    found = [str(refused) for refused in settings.version_problems(version, {**GOOD, "install": False, **change})]
    assert len(found) == (sentence is not None)
    assert sentence is None or sentence in found[0]


def test_the_default_release_is_the_locked_one_and_has_every_promised_program():
    packages = json.loads((ROLE / "files/npm/package-lock.json").read_text())["packages"]
    default = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["codex_version"]
    assert packages["node_modules/@openai/codex"]["version"] == default
    for place in yaml.safe_load((ROLE / "vars/main.yml").read_text())["__codex_platforms"].values():
        package = packages[f"node_modules/@openai/{place.split('/', maxsplit=1)[0]}"]
        assert package["version"].startswith(f"{default}-linux-")
        assert package["integrity"].startswith("sha512-")
