"""What the scenario's tests share: the machine, a way to run the playbook and to run Codex, and what the models' stand-in was asked."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
import yaml

from lab import testing
from lab.testing import ROOT

INVENTORY = ROOT / "molecule/codex/inventory"
VERSION = yaml.safe_load((ROOT / "roles/codex/defaults/main.yml").read_text())["codex_version"]
KEY = "sk-the-key-of-the-scenario"
HOMES = {"ann": "/home/ann/.codex", "ben": "/home/ben/.codex"}


@pytest.fixture(scope="session")
def machine():
    return testing.host("dev1", INVENTORY)


@pytest.fixture(scope="session")
def configure():
    """Run the playbook for developer machines with extra variables; return exit code and output."""
    run = testing.playbook(INVENTORY)
    return lambda *options, **variables: run("developers", *options, **variables)


@pytest.fixture
def again(configure):
    """After a test that had it otherwise: as the inventory says."""
    yield
    code, said = configure()
    assert code == 0, said


@pytest.fixture(scope="session")
def verify():
    run = testing.playbook(INVENTORY)
    return lambda **variables: run("verify", **variables)


@pytest.fixture(scope="session")
def uninstall():
    run = testing.playbook(INVENTORY)
    return lambda **variables: run("uninstall", **variables)


@pytest.fixture(scope="session")
def archive():
    """Return the variables that install from npm's package for the platform."""
    folder = ROOT / ".cache/codex"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), f"@openai/codex@{VERSION}-linux-x64"]
    path = folder / subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"codex_source": "archive", "codex_archive": str(path), "codex_archive_sha256": digest}


@pytest.fixture
def codex(machine):
    """Run a turn of Codex as a user in a login shell: whether it ended and made its file, and what was asked of which model."""

    def turn(user="ann", *words, program="codex"):
        # after exec: before it 0.94 takes no heed of a profile
        line = f"timeout 60 {program} exec {' '.join(words)} --json --skip-git-repo-check --sandbox danger-full-access hello </dev/null"
        prepare = f"rm -f /srv/stand-in/seen.json; install -d -o {user} /home/{user}/work; rm -f /home/{user}/work/hello.txt"
        up = "for n in $(seq 100); do curl -s 127.0.0.1:8001/v1/models >/dev/null && break; sleep 0.1; done"
        machine.check_output(f"{prepare}; systemctl restart stand-in; {up}")
        said = machine.run(f"runuser -l {user} -c 'cd work && {line}'")
        asked = json.loads(machine.check_output("sleep 0.2; cat /srv/stand-in/seen.json"))
        posts = [(path, key, body) for path, key, body in asked if body]
        assert posts, said.stdout + said.stderr
        return {
            "ended": "turn.completed" in said.stdout,
            "made": machine.file(f"/home/{user}/work/hello.txt").exists,
            "models": {body["model"] for _path, _key, body in posts},
            "paths": {path for path, _key, _body in posts},
            "keys": {key for _path, key, _body in posts},
            "said": said.stdout + said.stderr,
        }

    return turn
