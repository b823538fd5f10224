"""Tasks and variables of roles/vllm as Ansible itself runs them, with hosts that are this machine, or nowhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/vllm"


def play(folder, tasks, variables, **hosts):
    """Run tasks of the role on the first host; return exit code and output."""
    rows = {name: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, **host} for name, host in hosts.items()}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": rows}}))
    book = [{"hosts": next(iter(hosts)), "gather_facts": False, "vars_files": [str(ROLE / "vars/main.yml")], "tasks": tasks}]
    (folder / "play.yml").write_text(json.dumps(book))
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(folder / "hosts.json"), str(folder / "play.yml")]
    settings = {**os.environ, "ANSIBLE_TIMEOUT": "5", "ANSIBLE_SSH_RETRIES": "0"}
    words = [*command, "-e", json.dumps(variables)]
    done = subprocess.run(words, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


ENVIRONMENTS = [({"/opt/e/cpu-1": True}, []), ({"/opt/e/cpu-1": False}, ["cpu-1"])]


@pytest.mark.parametrize(("seen", "missing"), ENVIRONMENTS)
def test_an_environment_that_is_not_whole_is_made_again(seen, missing, tmp_path):
    """The path is there in both cases: `site.yml --limit SERVER`, which a diagnosis advises, has to do it."""
    variables = {"__vllm_environments": [{"id": "cpu-1"}], "__vllm_probe": {"observed": {"environments": seen}}}
    task = {"copy": {"content": "{{ __vllm_environments_missing | map(attribute='id') | to_json }}", "dest": f"{tmp_path}/found"}}
    code, said = play(tmp_path, [task], variables, gpu1={})
    assert code == 0, said
    assert json.loads((tmp_path / "found").read_text()) == missing
