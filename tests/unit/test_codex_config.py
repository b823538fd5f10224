"""What roles/codex writes for each version of Codex. That real releases take it is shown by lab/codex_matrix.py."""

import functools
import json

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_config as core
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_catalogue import INSTRUCTIONS, catalogue
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_config import Choice, Wanted
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_look import read_models, remembered_models

URL = "https://gateway.example.com/v1"
ONE = [Choice("vllm", "m", URL, 32768)]
TWO = [Choice("vllm-70b", "large", URL, 65536), Choice("vllm-8b", "small", URL, 16384)]
VERSIONS = ("0.63.0", "0.80.0", "0.94.0", "0.107.0", "0.130.0", "0.134.0", "0.160.0", "0.169.0")
MISSING = object()


def wanted(version="0.169.0", choices=None, **more):
    choices = choices or ONE
    settings = {"env_key": "VLLM_API_KEY", "catalogue": "/h/models.json", **more}
    return Wanted(version, choices, {choice.model: choice.length for choice in choices}, **settings)


def at(table, path):
    return functools.reduce(lambda inner, key: inner.get(key, MISSING) if inner is not MISSING else inner, path.split("."), table)


# version, key, what it is (MISSING: not written)
BY_VERSION = [
    ("0.63.0", "model_providers.vllm.wire_api", "chat"),
    ("0.64.0", "model_providers.vllm.wire_api", "responses"),
    ("0.94.0", "model_providers.vllm.wire_api", "chat"),
    ("0.95.0", "model_providers.vllm.wire_api", "responses"),
    ("0.169.0", "model_providers.vllm.wire_api", "responses"),
    # an older Codex takes enabled for the name of an agent, and does not start
    ("0.130.0", "agents", MISSING),
    ("0.134.0", "agents", MISSING),
    ("0.134.0", "features.multi_agent", False),
    ("0.160.0", "agents.enabled", False),
    ("0.169.0", "agents.enabled", False),
    ("0.169.0", "features.multi_agent", MISSING),
    ("0.94.0", "features.remote_models", False),
    ("0.130.0", "features.remote_models", MISSING),
    ("0.63.0", "features", MISSING),
    ("0.169.0", "features", {"goals": False, "plugins": False, "apps": False}),
    ("0.63.0", "check_for_update_on_startup", MISSING),
    ("0.80.0", "check_for_update_on_startup", False),
    ("0.91.0", "web_search", MISSING),
    ("0.92.0", "web_search", "disabled"),
    ("0.80.0", "model_catalog_json", MISSING),
    ("0.107.0", "model_catalog_json", "/h/models.json"),
    ("0.63.0", "analytics.enabled", False),
    ("0.169.0", "model_context_window", 32768),
    ("0.169.0", "model_auto_compact_token_limit", 24576),
    ("0.169.0", "mcp_servers", MISSING),
    ("0.169.0", "custom_model", MISSING),
]


@pytest.mark.parametrize(("version", "key", "value"), BY_VERSION)
def test_by_version(version, key, value):
    assert at(core.config(wanted(version)), key) == value


# version, the key in a file, what the provider has, and what must not stand beside it
AUTH = [
    ("0.169.0", ["cat", "k"], {"auth": {"command": "cat", "args": ["k"], "cwd": "."}}, "env_key"),
    ("0.130.0", ["cat", "k"], {"auth": {"command": "cat", "args": ["k"], "cwd": "."}}, "env_key"),
    ("0.107.0", ["cat", "k"], {"env_key": "VLLM_API_KEY"}, "auth"),
    ("0.169.0", None, {"env_key": "VLLM_API_KEY"}, "auth"),
]


@pytest.mark.parametrize(("version", "command", "has", "other"), AUTH)
def test_the_key_comes_from_one_place(version, command, has, other):
    found = core.config(wanted(version, key_command=command))
    provider = found["model_providers"]["vllm"]
    assert {key: provider[key] for key in ("auth", "env_key") if key in provider} == has
    assert ["model_providers", "vllm", other] in found["ownmetal_absent"]
    assert ["model_providers", "vllm", "experimental_bearer_token"] in found["ownmetal_absent"]


@pytest.mark.parametrize("version", VERSIONS)
def test_models_are_switched_in_the_style_of_the_version(version):
    found, files = core.config(wanted(version, TWO)), core.profiles(wanted(version, TWO))
    small = {"model": "small", "model_provider": "vllm-8b"}
    assert set(found["model_providers"]) == {"vllm-70b", "vllm-8b"}
    assert (found["model"], found["model_provider"]) == ("large", "vllm-70b")
    if core.at_least(version, (0, 134)):
        assert (files, "profiles" in found) == ({"vllm-8b": small}, False)
    else:
        assert (files, found["profiles"]) == ({}, {"vllm-8b": small})


@pytest.mark.parametrize(
    ("version", "catalogue", "top", "file"),
    [
        ("0.94.0", "/h/c", 16384, None),  # no catalogue: nothing may overflow the smallest
        ("0.169.0", "/h/c", MISSING, MISSING),  # the catalogue has both
        ("0.169.0", None, 16384, 16384),
    ],
)
def test_the_context_of_several_models(version, catalogue, top, file):
    want = wanted(version, TWO, catalogue=catalogue)
    found = core.config(want)
    assert at(found, "model_context_window") == top
    assert (["model_context_window"] in found["ownmetal_absent"]) is (top is MISSING)
    if file is not None:
        assert at(core.profiles(want), "vllm-8b.model_context_window") == file


def test_the_catalogue_has_each_models_own_context(tmp_path):
    rows = {row["slug"]: row for row in json.loads(catalogue(wanted(choices=TWO)))["models"]}
    assert {name: row["context_window"] for name, row in rows.items()} == {"large": 65536, "small": 16384}
    assert rows["small"]["truncation_policy"]["limit"] == 2048
    assert rows["large"]["base_instructions"] == INSTRUCTIONS
    (tmp_path / "c").write_text(catalogue(wanted(choices=TWO)))
    assert remembered_models(tmp_path / "c") == {"large": 65536, "small": 16384}
    assert "my own" in catalogue(wanted(), "my own")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_fork_and_upstream_read_the_same_provider_from_one_file(version):
    found = core.config(
        wanted(version, guide={"model_options": {"temperature": 0.2}, "env": {"RUST_LOG": "error"}, "http_headers": {"X-Team": "red"}})
    )
    assert (found["custom_model"], found["custom_model_provider"]) == (found["model"], found["model_provider"]) == ("m", "vllm")
    assert (found["model_options"], found["env"]) == ({"temperature": 0.2}, {"RUST_LOG": "error"})
    assert found["features"].items() >= {"streamable_shell": True, "web_search_request": False}.items()
    assert found["model_providers"]["vllm"]["http_headers"] == {"X-Team": "red"}


@pytest.mark.parametrize(
    ("version", "name", "quiet"),
    [("0.80.0", "managed_config.toml", True), ("0.156.0", "managed_config.toml", True), ("0.157.0", "requirements.toml", False)],
)
def test_what_no_user_can_override(version, name, quiet):
    file, found = core.enforced(wanted(version))
    assert (file, found["model_provider"], found["model_providers"]["vllm"]["base_url"]) == (name, "vllm", URL)
    assert ("analytics" in found) is quiet


@pytest.mark.parametrize(
    ("answer", "models"),
    [
        ({"data": [{"id": "m", "max_model_len": 4096}, {"id": "other"}, {"id": "bad", "max_model_len": "x"}]}, {"m": 4096}),
        ({"data": []}, {}),
        ({"data": None}, {}),
        ([], {}),
        ("no", {}),
    ],
)
def test_a_list_of_models(answer, models):
    assert read_models(answer) == models


INSTANCES = [
    {"base_url": URL, "served_model_name": ["a", "b"], "max_model_len": 1000},
    {"base_url": "http://s2/v1", "served_model_name": ["c"], "max_model_len": 500},
]


# what the servers say, what they said last, and what holds
LENGTHS = [
    ({}, {}, {URL: {"a": 1000, "b": 1000}, "http://s2/v1": {"c": 500}}),
    ({URL: {"a": 2000, "z": 3000}}, {"a": 1, "c": 600}, {URL: {"a": 2000, "b": 1000, "z": 3000}, "http://s2/v1": {"c": 600}}),
]


@pytest.mark.parametrize(("live", "remembered", "found"), LENGTHS)
def test_what_the_server_says_comes_before_what_it_said(live, remembered, found):
    assert core.context_lengths(INSTANCES, live, remembered) == found
