"""Keys that another version of Codex took: they become comments with the reason, and come back."""

import sys
from pathlib import Path

import pytest
import tomlkit
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_config import Choice, Wanted, config
from ansible_collections.ownmetal.codex.plugins.module_utils.toml_merge import dump_toml, merge_toml, unmerge_toml

sys.path.insert(0, str(Path(__file__).parent))
from test_toml_merge import EVERY_FILE, Writer, data, full

OWN = """\
# mine
profile = "fast"  # the one I use
model_provider = "ollama"

[model_providers.ollama]
name = "Ollama"   # keep
base_url = "http://localhost:11434/v1"
wire_api = "chat"

[model_providers.lab]
name = "lab"
base_url = "http://lab/v1"
wire_api = "chat" # as it was

[agents]
enabled = false
max_threads = 2

[profiles.fast]
model = "small"
model_provider = "ollama" # at home
[tui]
theme = "dark"
"""


def managed(version):
    choice = Choice("vllm", "m", "http://s/v1", 8192)
    return "# by Ansible\n" + dump_toml(config(Wanted(version, [choice], {"m": 8192}, "KEY")))


# version, lines that are there, lines that are not
MIGRATED = [
    ("0.94.0", [
        '#ownmetal# profile = "fast"  # the one I use', "[profiles.fast]", "[model_providers.ollama]", '#ownmetal# enabled = false',
        "#ownmetal: a profile goes before model and provider, wherever it leads; instead: codex -p NAME",
    ], ['profile = "fast"  # the one I use']),
    ("0.107.0", ["[profiles.fast]", '#ownmetal# wire_api = "chat"', "[model_providers.ollama]", "#ownmetal# enabled = false"], []),
    ("0.130.0", [
        '#ownmetal= profiles.fast.model_provider = "ollama" -> "ollama-own"', 'model_provider = "ollama-own" # at home',
        '#ownmetal# profile = "fast"  # the one I use', "[profiles.fast]", "[model_providers.ollama-own]",
        "#ownmetal# [model_providers.ollama]",
    ], ["[model_providers.ollama]", 'model_provider = "ollama" # at home']),
    ("0.169.0", [
        '#ownmetal# profile = "fast"  # the one I use',
        "#ownmetal: no key of Codex 0.169.0; instead: codex -p NAME, which reads ~/.codex/NAME.config.toml",
        "#ownmetal# [profiles.fast]", "enabled = false", "max_threads = 2", '#ownmetal# wire_api = "chat" # as it was',
    ], ['wire_api = "chat"']),
]  # fmt: skip


@pytest.mark.parametrize(("version", "there", "gone"), MIGRATED)
def test_what_a_version_does_not_take(version, there, gone):
    lines = merge_toml(OWN, managed(version)).splitlines()
    assert [line for line in there if line not in lines] == []
    assert [line for line in gone if line in lines] == []


IN_BRACES = """\
# mine
features = { streamable_shell = true, "my own" = [1, "a -> b"] } # kept
model_providers = { ollama = { name = "Ollama", base_url = "u", http_headers = { "x y" = "1" } }, lab = { wire_api = "chat" } }
profiles = { fast = { model_provider = "ollama", model = "small" }, slow = { model_provider = "lab" } }
custom = { a = 1 }
"""
# version, lines that are there, what the file says then
BRACES = [
    ("0.94.0", ["#ownmetal= features.streamable_shell = true"], {"features": {"my own": [1, "a -> b"]}}),
    ("0.130.0", [
        "#ownmetal= features.streamable_shell = true", '#ownmetal= model_providers.lab.wire_api = "chat"',
        '#ownmetal= model_providers.ollama.http_headers."x y" = "1"',
        '#ownmetal= profiles.fast.model_provider = "ollama" -> "ollama-own"',
        "#ownmetal: Codex 0.130.0 keeps the name ollama for itself: this provider is now ollama-own",
    ], {"profiles": {"fast": {"model_provider": "ollama-own", "model": "small"}, "slow": {"model_provider": "lab"}}}),
    ("0.169.0", ["#ownmetal# " + IN_BRACES.splitlines()[3]], {"custom": {"a": 1}}),
]  # fmt: skip


@pytest.mark.parametrize("shape", [str, lambda text: text.replace("\n", "\r\n")], ids=["as it is", "Windows line ends"])
@pytest.mark.parametrize(("version", "there", "holds"), BRACES, ids=[row[0] for row in BRACES])
def test_what_stood_in_braces_is_noted_and_comes_back(version, there, holds, shape):
    own = shape(IN_BRACES)
    merged = merge_toml(own, managed(version))
    assert [line for line in there if line not in merged.splitlines()] == []
    found = data(merged)
    for key, value in holds.items():
        assert value.items() <= found[key].items()
    assert merge_toml(merged, managed(version)) == merged
    # at another version, and beside what was written since
    older = merge_toml(merged, managed("0.63.0"), "", managed(version), own)
    assert full(data(older)) == full(data(merge_toml(own, managed("0.63.0"))))
    since = merged + shape('[since]\nnote = "mine"\n')
    assert data(unmerge_toml(since, managed(version), own)) == {**data(own), "since": {"note": "mine"}}


def test_what_the_user_wrote_since_into_braces_stays():
    merged = merge_toml(IN_BRACES, managed("0.130.0")).replace('model_provider = "ollama-own"', 'model_provider = "mine"')
    again = merge_toml(merged, managed("0.130.0"))
    assert data(again)["profiles"]["fast"]["model_provider"] == "mine"
    assert data(unmerge_toml(again, managed("0.130.0"), IN_BRACES))["profiles"]["fast"]["model_provider"] == "mine"


def test_a_profile_that_means_the_provider_of_codex_itself_is_left():
    own = '[profiles.fast]\nmodel_provider = "ollama"\n'
    assert own in merge_toml(own, managed("0.130.0"))


def test_an_old_provider_is_kept_and_is_no_longer_the_default():
    found = data(merge_toml(OWN, managed("0.169.0")))
    assert found["model_provider"] == "vllm"
    assert found["model_providers"]["ollama-own"] == {"name": "Ollama", "base_url": "http://localhost:11434/v1"}
    assert found["model_providers"]["lab"] == {"name": "lab", "base_url": "http://lab/v1"}


WAYS = [["0.94.0", "0.169.0"], ["0.169.0", "0.94.0"], ["0.169.0", "0.107.0", "0.134.0", "0.80.0"], ["0.134.0", "0.160.0", "0.169.0"]]


@pytest.mark.parametrize("own", [OWN, 'web_search = "live"\n[agents]\nenabled = true\n', ""], ids=["old", "new", "none"])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_an_upgrade_and_a_downgrade_are_as_if_there_had_been_one_version(own, way):
    text, previous = own, ""
    for version in way:
        text = merge_toml(text, managed(version), "", previous, own if previous else "")
        previous = managed(version)
        assert merge_toml(text, previous, "", previous, own) == text
    assert full(data(text)) == full(data(merge_toml(own, managed(way[-1]))))
    assert data(unmerge_toml(text, previous, own)) == data(own)


def test_uninstalling_brings_it_back_beside_what_was_written_since():
    merged = merge_toml(OWN, managed("0.169.0")) + '[since]\nnote = "mine"\n'
    assert data(unmerge_toml(merged, managed("0.169.0"), OWN)) == {**data(OWN), "since": {"note": "mine"}}


def test_who_writes_such_a_key_anew_keeps_it_once():
    merged = merge_toml('profile = "a"\n', managed("0.169.0"))
    again = merge_toml('profile = "b"\n' + merged, managed("0.169.0"))
    assert "profile" not in data(again)
    assert '#ownmetal# profile = "b"' in again.splitlines()
    assert merge_toml(again, managed("0.169.0")) == again


RETIRED = [
    {"path": ["features"], "why": "gone", "to": ["kept"]},
    {"path": ["model_providers", "*", "name"], "why": "none"},
    {"path": ["x"], "only": True, "why": "not true"},
]
MANAGED = "# by Ansible\n" + dump_toml({"ownmetal_retired": RETIRED, "model": "micro", "model_providers": {"vllm": {"auth": "k"}}})


def foreign(table):
    """Leave out what is managed or retired."""
    left = {key: value for key, value in table.items() if key not in ("model", "features", "kept")}
    if left.get("x") is True:
        del left["x"]
    providers = left.get("model_providers")
    if isinstance(providers, dict):
        kept = {name: dict(value) if isinstance(value, dict) else value for name, value in providers.items()}
        for name, value in kept.items():
            if isinstance(value, dict):
                value.pop("name", None)
                if name == "vllm":
                    value.pop("auth", None)
        kept = {name: value for name, value in kept.items() if name != "vllm" or isinstance(value, dict)}
        left["model_providers"] = kept
    else:
        left.pop("model_providers", None)  # no table: ours takes its place
    return full(left)


@pytest.mark.parametrize("text", EVERY_FILE)
def test_files_as_people_have_them(text):
    merged = merge_toml(text, MANAGED)
    assert foreign(data(merged)) == foreign(data(text))
    assert merge_toml(merged, MANAGED) == merged
    assert unmerge_toml(merged, MANAGED, text) == text


def test_any_file_loses_no_foreign_key_and_merges_once():
    tried = 0
    for seed in range(400):
        text = Writer(seed).document()
        try:
            before = data(text)
            tomlkit.parse(text.removeprefix("\ufeff"))
        except (ValueError, tomlkit.exceptions.TOMLKitError):
            continue
        tried += 1
        merged = merge_toml(text, MANAGED)
        assert foreign(data(merged)) == foreign(before), seed
        assert merge_toml(merged, MANAGED) == merged, seed
        assert unmerge_toml(merged, MANAGED, text) == text, seed
    assert tried > 200
