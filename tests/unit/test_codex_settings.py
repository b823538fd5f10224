"""What roles/codex refuses before it looks at a host, and that its pins agree."""

import json
from pathlib import Path

import pytest
import yaml
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_settings as settings

ROLE = Path(__file__).resolve().parents[2] / "roles/codex"
INSTANCE = {"name": "micro", "served_model_name": ["micro", "small"], "host": "10.0.0.1", "max_model_len": 32768, "server": "server1"}
GOOD = {
    "users": [{"name": "dev"}],
    "install": True,
    "version": "0.169.0",
    "locked_version": "0.169.0",
    "provider": "vllm",
    "model": "micro",
    "instances": [INSTANCE],
    "servers_group": "gpu_servers",
    "host": "dev1",
    "program": "codex",
    "profiles": [],
    "place": "user",
    "enforce": False,
    "key_source": "file",
    "dialect": "upstream",
    "model_options": {},
    "http_headers": {},
    "extra": {},
}

KEYS = [{"team": "red", "name": "anna"}, {"team": "blue", "name": "gone", "state": "absent"}]
GATEWAY = {"gateway": "gw1", "gateway_key": "red/anna", "gateway_keys": KEYS, "own_key": False}

REFUSED = [
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
    ({"version": "0.170.0"}, "the lock of this role holds Codex 0.169.0, not 0.170.0. Remove codex_version, or lock the other one"),
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
    {"model": "small"},
    {"version": "0.94.0", "install": False},
    {"users": [], "place": "machine", "key_source": "environment"},
    {"profiles": [{"name": "vllm-8b", "model": "small"}]},
    {"model_options": {"temperature": 1}, "dialect": "guide"},
    {"version": "0.170.0-alpha.1", "install": False},
    {"instances": [{**INSTANCE, "host": "127.0.0.1", "server": "dev1"}]},
    {"instances": [{**INSTANCE, "name": "a", "served_model_name": ["a"], "max_model_len": None}, INSTANCE]},
]


@pytest.mark.parametrize("change", ACCEPTED, ids=str)
def test_what_works_is_not_refused(change):
    assert settings.problems({**GOOD, **change}) == []


def test_all_mistakes_are_named_in_one_go():
    assert len(settings.problems({**GOOD, "users": [], "version": "x", "provider": "openai", "model": "other"})) == 4


HOSTS = [
    ({}, "x86_64", []),
    ({"target": "/opt/codex/0.168.0/codex"}, "aarch64", []),
    ({"target": "../lib/node_modules/@openai/codex/bin/codex.js"}, "x86_64", ["leads to another Codex"]),
    ({}, "riscv64", ["has the processor riscv64. The lock has Codex for x86_64 and aarch64."]),
]


@pytest.mark.parametrize(("link", "machine", "sentences"), HOSTS)
def test_hosts(link, machine, sentences):
    observed = {"paths": {"/usr/local/bin/codex": link}, "system": {"machine": machine}}
    found = settings.host_problems(observed, "dev1", "/usr/local/bin/codex", "/opt/codex", ["x86_64", "aarch64"])
    assert len(found) == len(sentences)
    assert all(sentence in str(refused) for sentence, refused in zip(sentences, found, strict=True))


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
