"""The built archive, installed as a user installs it: everything is found under its full name, and the checkout needs no linking."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*command, cwd=ROOT, **variables):
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **variables}
    )


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder outside the checkout with the installed archive and an ansible.cfg that says nothing."""
    place = tmp_path_factory.mktemp("user")
    (place / "ansible.cfg").touch()
    built = run("ansible-galaxy", "collection", "build", "--output-path", str(place))
    assert built.returncode == 0, built.stderr
    (archive,) = place.glob("ownmetal-codex-*.tar.gz")
    words = ["--offline", str(archive), "-p", str(place / "collections")]
    done = run("ansible-galaxy", "collection", "install", *words, cwd=place, **settings(place))
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def settings(installed):
    return {"ANSIBLE_COLLECTIONS_PATH": str(installed / "collections"), "ANSIBLE_CONFIG": str(installed / "ansible.cfg")}


def test_the_archive_has_only_what_users_need(installed):
    top = {path.name for path in (installed / "collections/ansible_collections/ownmetal/codex").iterdir()}
    assert {"roles", "plugins", "playbooks", "meta", "README.md", "LICENSE", "MANIFEST.json"} <= top
    assert top.isdisjoint({".venv", ".collections", ".git", ".cache", ".ansible", ".secrets"})
    assert not list((installed / "collections").rglob(".secrets"))


def test_the_installed_playbook_runs_by_its_full_name(installed):
    inventory = str(ROOT / "inventories/example")
    done = run("ansible-playbook", "ownmetal.codex.site", "-i", inventory, "--syntax-check", cwd=installed, **settings(installed))
    assert done.returncode == 0, done.stderr
    listed = run("ansible-playbook", "ownmetal.codex.site", "-i", inventory, "--list-tasks", cwd=installed, **settings(installed))
    assert "vllm : Configure | Unit, key, and a new release" in listed.stdout


def test_the_installed_modules_are_documented(installed):
    done = run("ansible-doc", "--list", "--json", "ownmetal.codex", cwd=installed, **settings(installed))
    assert {"ownmetal.codex.openai_endpoint_check", "ownmetal.codex.codex_exec_check", "ownmetal.codex.tree"} <= set(
        json.loads(done.stdout)
    )


def test_the_checkout_is_the_collection():
    done = run("ansible-playbook", "site.yml", "-i", "inventories/example", "--list-tasks")
    assert done.returncode == 0, done.stderr
    assert "ownmetal.codex.vllm : Configure | Unit, key, and a new release" in done.stdout
    for command in (
        ["ansible-doc", "ownmetal.codex.tree"],
        ["ansible-playbook", "ownmetal.codex.verify", "--syntax-check", "-i", "inventories/example"],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr


def test_a_phase_that_is_run_alone_keeps_its_look_around():
    """A tag is safe alone: every phase carries the preflight that it depends on."""
    for tag, role in (("vllm_configure", "vllm"), ("vllm_run", "vllm"), ("codex_configure", "codex")):
        done = run("ansible-playbook", "site.yml", "-i", "inventories/example", "--list-tasks", "--tags", tag)
        assert re.search(rf"{role} : \w+ \| Look at the host", done.stdout), tag
