"""What roles/codex makes of whole inventories: run by Ansible, on no host, or on one that is a mount namespace."""

import json
import os
import shutil
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


@pytest.mark.parametrize(("one", "two", "refused"), [("file one", "inventory two", True), ("file one", "inventory one", False)])
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


# folders of a machine of its own: what the role writes to
MACHINE = """
set -e
for folder in /home /opt /usr/local/bin; do mount -t tmpfs tmpfs $folder; done
mount --bind "$1/etc" /etc
cp "$1/codex" /usr/local/bin/codex
cp -a "$1/home/." /home
shift
"$@"
"""
# a Codex that does not start with what another version has in the machine's files
CODEX = """#!/bin/sh
case $1 in
  --version) echo "codex-cli $(cat /etc/codex-version)"; exit ;;
esac
case $(cat /etc/codex-version) in
  0.9*) wire=responses ;;
  *) wire=chat ;;
esac
! grep -qs "wire_api = .$wire" /etc/codex/*.toml "$CODEX_HOME/config.toml" || { echo "Error: no $wire"; exit 1; }
"""
TASKS = """
- hosts: dev1
  gather_facts: false
  roles: [ownmetal.codex.codex]
  post_tasks:
    - {ansible.builtin.shell: "find /etc/codex /etc/profile.d/ownmetal* ~ann ~bob -type f 2>/dev/null | sort", register: files}
    - ansible.builtin.copy:
        content: "{{ {'files': files.stdout_lines, 'mine': lookup('ansible.builtin.file', '/home/bob/.codex/config.toml')} | to_json }}"
        dest: "{{ out }}"
        mode: "0600"
"""


class Machine:
    """Keeps the files of a developer machine between runs of the role."""

    def __init__(self, folder):
        self.folder = folder
        shutil.copytree("/etc", folder / "etc", symlinks=True)
        (folder / "codex").write_text(CODEX)
        (folder / "codex").chmod(0o755)
        for number, name in enumerate(("ann", "bob"), 4001):
            for file, line in (("passwd", f"{name}:x:{number}:{number}::/home/{name}:/bin/sh"), ("group", f"{name}:x:{number}:")):
                with (folder / "etc" / file).open("a") as stream:
                    stream.write(f"{line}\n")
            (folder / "home" / name / ".codex").mkdir(parents=True)
            (folder / "home" / name / ".codex/config.toml").write_text("# mine\nmodel = 'x'\n")
            for path in (folder / "home" / name, *(folder / "home" / name).rglob("*")):
                os.chown(path, number, number)

    def run(self, version, **asked):
        """Run the role, and return the files that there are then, and bob's own."""
        (self.folder / "etc/codex-version").write_text(version)
        variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        servers = {"s1": server("one", vllm_api_key=KEYS["one"])}
        groups = {"gpu_servers": {"hosts": servers}, "developers": {"hosts": {"dev1": {"codex_install": False, **asked}}}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": variables, "children": groups}}))
        (self.folder / "play.yml").write_text(TASKS)
        play = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.folder / "hosts.yml"), str(self.folder / "play.yml")]
        keep = ["sh", "-c", '"$@" && rm -rf "$0/home" && cp -a /home "$0"', str(self.folder)]
        command = [
            "unshare",
            "--mount",
            "--net",
            "sh",
            "-c",
            MACHINE,
            "sh",
            str(self.folder),
            *keep,
            *play,
            "-e",
            f"out={self.folder}/out.json",
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        shown = json.loads((self.folder / "out.json").read_text())
        files = {path.replace("/home/", "").replace("/.codex", "") for path in shown["files"]}
        return files, shown["mine"]


def may_mount():
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="only root, where it may mount")
def test_what_the_inventory_has_no_more_is_taken_back_by_the_next_run(tmp_path):
    machine = Machine(tmp_path)
    people = [{"name": "ann"}, {"name": "bob"}]
    catalogue = {"/etc/codex/ownmetal-models.json"}

    def with_notes(*paths):
        return {path + end for path in paths for end in ("", ".ownmetal")}

    keys = {"ann/ownmetal-vllm.key", "bob/ownmetal-vllm.key"}
    everyone = {"codex_place": "machine", "codex_enforce": True, "codex_profiles": [{"name": "fast", "model": "one"}]}
    files, mine = machine.run("0.169.0", codex_users=people, **everyone)
    written = with_notes("/etc/codex/config.toml", "/etc/codex/requirements.toml", "ann/fast.config.toml", "bob/fast.config.toml")
    assert files == catalogue | written | keys | {"ann/config.toml", "bob/config.toml"}
    # another place, another form of what is enforced, a version that takes neither file of before; a profile less, a user less
    files, mine = machine.run("0.94.0", codex_users=[people[0], {"name": "bob", "state": "absent"}], codex_enforce=True)
    left = {"/etc/profile.d/ownmetal-codex.sh", "ann/config.toml.before-ownmetal", "ann/ownmetal-vllm.key", "bob/config.toml"}
    assert files == catalogue | with_notes("/etc/codex/managed_config.toml", "ann/config.toml") | left
    assert mine == "# mine\nmodel = 'x'"
