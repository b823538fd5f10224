"""What the role makes of a machine that two people share, and what becomes of what they had."""

from __future__ import annotations

import json

import pytest
from conftest import HOMES, KEY

from lab.testing import ROOT

OWN = ROOT / "lab/files/own-config.toml"  # what ann had
WORKS = {"ended": True, "made": True, "keys": {f"Bearer {KEY}"}}


def works(turn):
    return {name: turn[name] for name in WORKS} == WORKS


def settings(machine, path):
    """A configuration, as Python on the machine reads it."""
    read = "import json,sys,tomllib; print(json.dumps(tomllib.load(open(sys.argv[1], 'rb'))))"
    return json.loads(machine.check_output(f'python3 -c "{read}" {path}'))


def models(machine, **lengths):
    machine.check_output(f"echo '{json.dumps(lengths)}' >/srv/stand-in/models.json; systemctl restart stand-in; sleep 1")


@pytest.mark.parametrize("user", HOMES)
def test_both_work_at_once(machine, codex, user):
    turn = codex(user)
    assert works(turn), turn
    assert turn["models"] == {"small"}
    assert turn["paths"] == {"/v1/responses"}
    key = machine.file(f"{HOMES[user]}/ownmetal-vllm.key")
    assert (key.user, key.mode, key.content_string) == (user, 0o600, f"{KEY}\n")
    assert machine.run(f"runuser -l {user} -c 'codex app-server --strict-config --print-startup-config'").rc == 0


def test_what_ben_had_is_there_and_no_longer_the_default(machine):
    text = machine.file(f"{HOMES['ben']}/config.toml").content_string
    assert text.count("\r\n") == text.count("\n")
    assert "# mine, from Windows" in text
    found = settings(machine, f"{HOMES['ben']}/config.toml")
    assert found["notify"] == ["notify-send", "Codex"]
    assert found["projects"] == {"/home/ben/work": {"trust_level": "trusted"}}
    assert found["model_provider"] == "vllm"
    assert found["model_providers"]["ollama-own"]["base_url"] == "http://127.0.0.1:11434/v1"
    assert '#ownmetal# wire_api = "chat"' in text
    assert machine.file(f"{HOMES['ben']}/config.toml").mode == 0o600  # as Codex makes it: others had a look before


def test_contexts_are_those_that_the_server_tells(machine, configure):
    def contexts():
        rows = json.loads(machine.check_output("cat /etc/codex/ownmetal-models.json"))["models"]
        return {row["slug"]: row["context_window"] for row in rows}

    assert contexts() == {"small": 16384, "large": 65536}
    try:
        models(machine, small=8192, large=8192)
        code, said = configure()
        assert code == 0, said
        assert contexts() == {"small": 8192, "large": 8192}
        assert settings(machine, f"{HOMES['ann']}/config.toml")["model_context_window"] == 8192
        machine.check_output("systemctl stop stand-in")
        code, said = configure()
        assert code == 0, said
        assert "did not say its models" in said
        assert "changed=0" in said
        assert contexts() == {"small": 8192, "large": 8192}  # what it said last
    finally:
        models(machine, small=16384, large=65536)
        code, said = configure()
    assert code == 0, said
    assert contexts() == {"small": 16384, "large": 65536}


def test_another_model_by_its_profile(machine, configure, codex, again):
    code, said = configure(codex_profiles=[{"name": "vllm-large", "model": "large"}])
    assert code == 0, said
    turn = codex("ann", "-p", "vllm-large")
    assert works(turn), turn
    assert turn["models"] == {"large"}
    assert codex("ann")["models"] == {"small"}
    code, said = configure(codex_profiles=[{"name": "vllm-large", "model": "large"}])
    assert "changed=0" in said, said


def test_for_everyone_as_a_default(machine, configure, uninstall, codex, again):
    code, said = uninstall()
    assert code == 0, said
    assert machine.file(f"{HOMES['ann']}/config.toml").content_string == OWN.read_text()
    machine.check_output(f"mv {HOMES['ann']}/config.toml /srv/anns")  # what is hers would go before a default
    code, said = configure(codex_place="machine", codex_users=[{"name": "ann"}])
    assert code == 0, said
    assert not machine.file(f"{HOMES['ann']}/config.toml").exists
    turn = codex("ann")
    assert works(turn), turn
    code, said = configure("--check", codex_place="machine", codex_users=[{"name": "ann"}])
    assert "changed=0" in said, said
    code, said = uninstall(codex_place="machine", codex_users=[{"name": "ann"}])
    machine.check_output(f"mv /srv/anns {HOMES['ann']}/config.toml")
    assert code == 0, said
    assert machine.run("ls /etc/codex").rc != 0


def test_no_way_around(machine, configure, uninstall, codex, again):
    elsewhere = '[model_providers.elsewhere]\nname = "elsewhere"\nbase_url = "http://127.0.0.1:9/v1"\nwire_api = "responses"\n'
    config = f"{HOMES['ann']}/config.toml"
    try:
        code, said = configure(codex_enforce=True)
        assert code == 0, said
        machine.check_output(f"sed -i 's/^model_provider = .*/model_provider = \"elsewhere\"/' {config}; printf '{elsewhere}' >>{config}")
        turn = codex("ann")
        assert works(turn), turn
    finally:
        code, said = uninstall(codex_enforce=True)
        assert 'model_provider = "elsewhere"' in machine.file(config).content_string  # a change of hers stays
        machine.check_output(f"cat >{config} <<'E'\n{OWN.read_text()}E")
    assert code == 0, said
    assert machine.run("ls /etc/codex").rc != 0


def test_the_keys_of_the_fork_lead_upstream_nowhere_else(machine, configure, codex, again):
    asked = {"codex_dialect": "guide", "codex_model_options": {"temperature": 0.2}}
    code, said = configure(**asked)
    assert code == 0, said
    found = settings(machine, f"{HOMES['ann']}/config.toml")
    assert (found["custom_model"], found["custom_model_provider"], found["model_options"]) == ("small", "vllm", {"temperature": 0.2})
    turn = codex("ann")
    assert works(turn), turn
    code, said = configure(**asked)
    assert "changed=0" in said, said


@pytest.fixture(scope="module")
def old(machine):
    """Releases that somebody installed before, by version."""
    found = {}
    for version in ("0.94.0", "0.130.0"):
        machine.check_output(
            f"npm install --prefix /srv/codex-{version} --ignore-scripts --no-audit --no-fund --silent @openai/codex@{version}"
        )
        found[version] = machine.check_output(
            f"ls /srv/codex-{version}/node_modules/@openai/codex*/vendor/x86_64-unknown-linux-musl/*/codex"
        )
    return found


@pytest.mark.parametrize(("version", "path"), [("0.94.0", "/v1/chat/completions"), ("0.130.0", "/v1/responses")])
def test_a_codex_that_is_there_is_configured_for_its_version_and_stays(machine, configure, verify, codex, old, again, version, path):
    """Down to an old one, and up again."""
    there = {"codex_install": False, "codex_program": old[version], "codex_profiles": [{"name": "vllm-large", "model": "large"}]}
    there["codex_sandbox_mode"] = "danger-full-access"  # what these releases' own sandbox needs is not on the machine
    before = machine.check_output(f"sha256sum {old[version]}")
    code, said = configure(**there)
    assert code == 0, said
    for words, model in (((), "small"), (("-p", "vllm-large"), "large")):
        turn = codex("ann", *words, program=old[version])
        assert works(turn), turn
        assert (turn["paths"], turn["models"]) == ({path}, {model})
    code, said = verify(**there)
    assert code == 0, said
    assert said.count(f"{old[version]} is codex-cli {version}") >= len(HOMES)
    code, said = configure(**there)
    assert "changed=0" in said, said
    assert machine.check_output(f"sha256sum {old[version]}") == before


def test_a_new_key_changes_the_key_alone(machine, configure, codex, again):
    config = machine.check_output(f"sha256sum {HOMES['ann']}/config.toml")
    code, said = configure("--diff", codex_api_key="sk-another")
    assert code == 0, said
    assert "sk-another" not in said.replace('"codex_api_key": "sk-another"', "")
    assert codex("ann")["keys"] == {"Bearer sk-another"}
    assert machine.check_output(f"sha256sum {HOMES['ann']}/config.toml") == config


REFUSED = [
    # what is done to Ben's folder, what is said; nothing of Ann's changes meanwhile, and nothing of his
    ("printf 'model = \\n[broken' >config.toml", "config.toml"),
    ('printf \'approval_policy = "never"\\napproval_policy = "never"\\n\' >config.toml', "config.toml"),
    ("ln -sfn /nowhere/config.toml config.toml", "config.toml"),
    ("rm config.toml; mkdir config.toml", "config.toml"),
]


@pytest.mark.parametrize(("harm", "words"), REFUSED)
def test_a_configuration_that_cannot_be_merged_is_named_before_anything_changes(machine, configure, harm, words):
    """A setting that would change Ann's file, too."""
    machine.check_output(f"cp -a {HOMES['ben']} /home/ben/kept; cd {HOMES['ben']}; {harm}")
    look = f"cd {HOMES['ann']}; sha256sum *; cd {HOMES['ben']}; find . -printf '%p %m %u %s %l\\n' | sort"
    before = machine.check_output(look)
    try:
        code, said = configure(codex_approval_policy="never")
        after = machine.check_output(look)
    finally:
        machine.check_output(f"rm -r {HOMES['ben']}; mv /home/ben/kept {HOMES['ben']}")
    assert code != 0, said
    assert f"{HOMES['ben']}/{words}" in said or f"~ben/.codex/{words}" in said, said
    assert after == before


def test_a_link_into_a_repository_of_dotfiles_stays_one(machine, configure, again):
    machine.check_output(
        f"install -d -o ben /home/ben/dotfiles; cd {HOMES['ben']}; mv config.toml ../dotfiles/; ln -s ../dotfiles/config.toml ."
    )
    try:
        code, said = configure(codex_approval_policy="never")
        assert code == 0, said
        assert machine.check_output(f"readlink {HOMES['ben']}/config.toml") == "../dotfiles/config.toml"
        assert settings(machine, "/home/ben/dotfiles/config.toml")["approval_policy"] == "never"
        assert machine.file("/home/ben/dotfiles/config.toml").user == "ben"
    finally:
        machine.check_output(f"cd {HOMES['ben']}; [ ! -L config.toml ] || mv -f ../dotfiles/config.toml config.toml; rm -rf ../dotfiles")
