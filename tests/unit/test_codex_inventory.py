"""What roles/codex makes of whole inventories: run by Ansible, without a host."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"one": "k" * 20 + "1", "two": "k" * 20 + "2"}
PLAY = """
- hosts: dev1
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: ownmetal.codex.codex
        tasks_from: inventory.yml
        public: true
    - ansible.builtin.copy:
        content: "{{ {'key': __codex_asking_key} | to_json }}"
        dest: "{{ out }}"
        mode: "0600"
      delegate_to: localhost
"""


def play(folder, servers, developer, gateways=None):
    """Return the exit code, what was said, and what was shown."""
    groups = {
        "gpu_servers": {"hosts": servers},
        "gateways": {"hosts": gateways or {}},
        "developers": {"hosts": {"dev1": {"codex_users": [{"name": "ann"}], **developer}}},
    }
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": variables, "children": groups}}))
    (folder / "play.yml").write_text(PLAY)
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(folder / "hosts.yml"), str(folder / "play.yml")]
    done = subprocess.run([*command, "-e", f"out={folder}/out.json"], cwd=ROOT, capture_output=True, text=True, check=False)
    shown = json.loads((folder / "out.json").read_text()) if (folder / "out.json").exists() else {}
    return done.returncode, " ".join((done.stdout + done.stderr).split()), shown


def server(name, **variables):
    """Return a server with an instance that serves a model of its own."""
    instance = {
        "name": name,
        "model": f"/models/{name}",
        "port": 8000,
        "host": "10.0.0.1",
        "max_model_len": 8192,
        "served_model_name": [name],
    }
    return {"vllm_instances": [instance], **variables}


def key_file(folder, key, name):
    path = folder / name
    path.write_text(f"{key}\n")
    path.chmod(0o600)
    return str(path)


PROFILE = {"codex_model": "one", "codex_profiles": [{"name": "second", "model": "two"}]}


@pytest.mark.parametrize(
    ("one", "two", "refused"),
    [
        ("file one", "file two", True),
        ("file one", "inventory two", True),
        ("file one", "file one", False),
        ("file one", "inventory one", False),
    ],
)
def test_servers_with_keys_of_their_own_are_refused_without_a_gateway(tmp_path, one, two, refused):
    def key(name, where):
        kind, which = where.split()
        if kind == "inventory":
            return {"vllm_api_key": KEYS[which]}
        return {"vllm_api_key_file": key_file(tmp_path, KEYS[which], name)}

    code, said, _shown = play(tmp_path, {"s1": server("one", **key("s1", one)), "s2": server("two", **key("s2", two))}, PROFILE)
    assert (code != 0) is refused, said
    assert ("codex_profiles second: model: two is served by s2, whose key is another than that of s1" in said) is refused
    assert not any(secret in said for secret in KEYS.values())


ASKED = [
    # who has which key, what the developer machine is told, what the servers are asked with
    ({"s1": "file"}, {}, KEYS["one"]),
    ({"s1": "inventory"}, {}, KEYS["two"]),
    ({}, {"codex_api_key": "given-to-the-machine"}, "given-to-the-machine"),
    ({}, {}, ""),
]


@pytest.mark.parametrize(("has", "developer", "key"), ASKED)
def test_where_the_key_is_in_the_environment_the_servers_are_asked_with_the_controllers(tmp_path, has, developer, key):
    own = {"file": {"vllm_api_key_file": str(tmp_path / "key")}, "inventory": {"vllm_api_key": KEYS["two"]}}
    if has.get("s1") == "file":
        key_file(tmp_path, KEYS["one"], "key")
    before = sorted(tmp_path.rglob("*key*"))
    servers = {"s1": server("one", **own.get(has.get("s1"), {}))}
    code, said, shown = play(tmp_path, servers, {"codex_key_source": "environment", **developer})
    assert code == 0, said
    assert shown == {"key": key}
    assert sorted(tmp_path.rglob("*key*")) == before, "no key is made for it"


def test_where_the_key_is_in_the_environment_a_gateway_is_asked_with_the_key_of_the_inventory(tmp_path):
    (tmp_path / "secrets/keys/red").mkdir(parents=True)
    key_file(tmp_path / "secrets/keys/red", KEYS["one"], "anna.key")
    gateway = {"gateway_keys": [{"team": "red", "name": "anna"}], "gateway_secrets": str(tmp_path / "secrets")}
    developer = {"codex_key_source": "environment", "codex_gateway_key": "red/anna"}
    code, said, shown = play(tmp_path, {"s1": server("one", vllm_api_key=KEYS["two"])}, developer, {"gw1": gateway})
    assert code == 0, said
    assert shown == {"key": KEYS["one"]}
