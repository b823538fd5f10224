"""What playbooks/developers.yml does with a gateway's CA, as Ansible itself decides it, on a host that is this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TRUSTED = yaml.safe_load((ROOT / "roles/gateway/vars/main.yml").read_text())["__gateway_trust_file"]
DECISIONS = [
    # variables of the gateway, none without one   its CA is there   what runs
    ({}, False, "trust.yml"),
    ({"gateway_tls": "private_ca"}, True, "trust.yml"),
    ({"gateway_tls": "acme"}, True, "untrust.yml"),
    ({"gateway_tls": "files"}, True, "untrust.yml"),
    ({"gateway_tls": "acme"}, False, None),
    (None, True, None),
]


@pytest.mark.parametrize(("gateway", "there", "runs"), DECISIONS)
def test_a_ca_is_forgotten_where_its_gateway_has_none_and_the_machine_has_one(gateway, there, runs, tmp_path):
    book = yaml.safe_load((ROOT / "playbooks/developers.yml").read_text())[0]
    decides = next(task for task in book["pre_tasks"] if "CA" in task["name"])
    shown = {"ansible.builtin.debug": {"msg": f"runs {decides['ansible.builtin.include_role']['tasks_from']}."}, "when": decides["when"]}
    play = [{**book, "hosts": "dev1", "become": False, "pre_tasks": [], "roles": [], "tasks": [shown]}]
    play[0]["vars_files"] = [str(ROOT / "roles/codex/vars/main.yml")]
    (tmp_path / "play.yml").write_text(json.dumps(play))
    probe = {"observed": {"paths": {TRUSTED: {"exists": there}}}}
    groups = {"developers": {"hosts": {"dev1": {"ansible_connection": "local", "__codex_probe": probe}}}}
    groups |= {"gateways": {"hosts": {"gw1": gateway}}} if gateway is not None else {}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"children": groups}}))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "hosts.json"), str(tmp_path / "play.yml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"runs {runs}." in done.stdout if runs else "runs " not in done.stdout
