"""Every inventory of the repository loads, says what its README says, and has the instances that it should."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.ownmetal.codex.plugins.module_utils.api_key import read_or_make

ROOT = Path(__file__).resolve().parents[2]
SHOW = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ {'instances': instances, 'users': codex_users | map(attribute='name')} | to_json }}"
        dest: "{{ out }}"
        mode: "0600"
      delegate_to: localhost
      connection: local
      run_once: true
      vars:
        instances: "{{ hostvars | ownmetal.codex.catalogue(groups['gpu_servers']) }}"
"""

INVENTORIES = [
    # -i options                      instance: (server, context)                                                     users
    (["example"], {"coder": ("gpu1.example.com", 32768)}, ["alice"]),
    (["common", "team_red"], {"coder": ("red-gpu1.example.com", 65536)}, ["rosa"]),
    (["common", "team_blue"], {"coder": ("blue-gpu1.example.com", 32768), "small": ("blue-gpu1.example.com", 16384)}, ["bo", "bea"]),
]


@pytest.mark.parametrize(("names", "expected", "users"), INVENTORIES, ids=["+".join(row[0]) for row in INVENTORIES])
def test_an_inventory_gives_its_catalogue(names, expected, users, tmp_path):
    (tmp_path / "show.yml").write_text(SHOW)
    options = [word for name in names for word in ("-i", str(ROOT / "inventories" / name))]
    command = [
        str(Path(sys.executable).parent / "ansible-playbook"),
        *options,
        str(tmp_path / "show.yml"),
        "-e",
        f"out={tmp_path}/out.json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    shown = json.loads((tmp_path / "out.json").read_text())
    assert {row["name"]: (row["server"], row["max_model_len"]) for row in shown["instances"]} == expected
    assert shown["users"] == users
    assert all(row["base_url"] == f"http://{row['server']}:{row['port']}/v1" for row in shown["instances"])


def test_the_labs_inventory_has_its_groups():
    command = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", "inventories/lab", "--list"]
    listing = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert listing["gpu_servers"]["hosts"] == ["server1"]
    assert listing["developers"]["hosts"] == ["dev1"]


def test_a_key_beside_the_inventory_is_no_host(tmp_path):
    """Ansible reads an inventory's folder recursively: a key file that it took for a list of hosts would be shown everywhere."""
    shutil.copytree(ROOT / "inventories/example", tmp_path / "mine")
    defaults = yaml.safe_load((ROOT / "roles/vllm/defaults/main.yml").read_text())
    path = defaults["vllm_api_key_file"].replace("{{ inventory_dir }}", str(tmp_path / "mine"))
    key = read_or_make(path)
    command = [str(Path(sys.executable).parent / "ansible-inventory"), "-i", str(tmp_path / "mine"), "--list"]
    assert key not in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("names", [row[0] for row in INVENTORIES], ids=["+".join(row[0]) for row in INVENTORIES])
def test_an_inventory_is_planned_without_its_hosts(names, tmp_path):
    """Its servers cannot be reached from here: the inventory is judged all the same, that is said, and no key is made."""
    copies = [shutil.copytree(ROOT / "inventories" / name, tmp_path / name, ignore=shutil.ignore_patterns(".secrets")) for name in names]
    options = [word for copy in copies for word in ("-i", str(copy))]
    # a name that leads nowhere: no host is asked
    command = [str(Path(sys.executable).parent / "ansible-playbook"), *options, "playbooks/plan.yml", "-e", "ansible_host=away.invalid"]
    done = subprocess.run([*command, "-e", f"plan_file={tmp_path}/plan.json"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "was not reached: the plan above knows its inventory alone" in " ".join(done.stdout.split())
    plans = json.loads((tmp_path / "plan.json").read_text())
    assert all(row["ok"] and row["host"] is None and row["refusals"] == [] for row in plans)
    assert not list(tmp_path.rglob(".secrets"))
