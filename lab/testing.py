"""What the tests on lab hosts share: the hosts as testinfra sees them, and playbooks run as an operator runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
Playbook = Callable[..., tuple[int, str]]


def host(name: str, inventory: Path) -> Any:
    """Return a host of an inventory, for testinfra's questions."""
    import testinfra  # noqa: PLC0415 - the lab itself needs none

    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(inventory))


def command(name: str, inventory: Path, *options: str, **variables: Any) -> list[str]:
    """Return the command line that runs a playbook of the collection, or of a path, with extra variables."""
    path = name if name.endswith(".yml") else f"playbooks/{name}.yml"
    return ["ansible-playbook", path, "-i", str(inventory), "-e", json.dumps(variables), *options]


def environment() -> dict[str, str]:
    """Return the environment of a run whose output is read by a test."""
    return {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}


def playbook(inventory: Path) -> Playbook:
    """Return a function that runs a playbook; it returns exit code and output, ready to read."""

    def run(name: str, *options: str, **variables: Any) -> tuple[int, str]:
        words = command(name, inventory, *options, **variables)
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
        # Ansible wraps what it prints: a sentence is looked for whatever the line breaks
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


def causes(said: str) -> list[str]:
    """Return the causes that a run names; each is told in the error and again in the report."""
    return sorted(set(re.findall(r"\| cause: (.*?) \| next:", said)))
