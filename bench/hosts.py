"""The lab's hosts, and Ansible against them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
INVENTORY = BENCH / "inventory"
LAB = [*([] if os.geteuid() == 0 else ["sudo", "--preserve-env"]), sys.executable, "-m", "lab"]
NEEDED = "python3-venv python3-packaging libnuma1 nftables openssl"  # Debian packages, so that no measurement waits for a mirror


class Failed(Exception):
    """Something that was measured did not work."""


@dataclass(frozen=True)
class Played:
    """What a run of Ansible was."""

    seconds: float
    changed: int
    said: str


def up(count: int) -> str:
    """Boot hosts server1 ... and make them ready; return the address at which they reach this machine."""
    names = [f"server{number}" for number in range(1, count + 1)]
    subprocess.run([*LAB, "up", *(f"{name}:bookworm" for name in names), "--bind", f"{ROOT}:/srv/codex"], cwd=ROOT, check=True)
    for name in names:
        run(name, f"dpkg -s {NEEDED} >/dev/null 2>&1 || (apt-get -qq update && apt-get -qq install --no-install-recommends {NEEDED})")
    listing = subprocess.run([*LAB, "list", "--json"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return str(json.loads(listing)[0]["address"]).rpartition(".")[0] + ".1"


def down() -> None:
    """Remove them."""
    subprocess.run([*LAB, "down", "--all"], cwd=ROOT, check=True)


def run(host: str, command: str) -> str:
    """Run a shell command in a host; return what it prints."""
    done = subprocess.run([*LAB, "exec", host, "sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{host}: {command}: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return done.stdout


def aside(host: str, *paths: str) -> None:
    """Take what earlier rounds made out of the way. It is not removed: after many files are, ext4 makes new ones slowly for minutes
    (it does not use their inodes again yet, and searches behind them), which would be counted to whoever comes next."""
    moved = " ".join(shlex.quote(path) for path in paths)
    run(host, f"for path in {moved}; do test ! -e $path || {{ mkdir -p /srv/aside && mv $path $(mktemp -d /srv/aside/XXXXXX); }}; done")


def core(host: str, program: str) -> str:
    """Run Python in a host, with this collection's core to import; return what it prints."""
    return run(host, f"PYTHONPATH=/srv/codex/.collections python3 -c {shlex.quote(program)}")


def play(playbook: str, *options: str, plain: bool = False, **variables: Any) -> Played:
    """Run one of our playbooks, or (plain) the peer's with Ansible's own defaults."""
    words = ["ansible-playbook", playbook, "-i", str(INVENTORY), "-e", json.dumps(variables), *options]
    folder = BENCH / "plain" if plain else ROOT
    start = time.monotonic()
    done = subprocess.run(words, cwd=folder, env=_environment(folder / "ansible.cfg"), capture_output=True, text=True, check=False)
    taken = time.monotonic() - start
    if done.returncode:
        raise Failed(f"{' '.join(words[:2])} {' '.join(options)} failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return Played(taken, sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout)), done.stdout)


def limit(count: int) -> tuple[str, str]:
    """Return the option that takes the first hosts."""
    return "--limit", ",".join(f"server{number}" for number in range(1, count + 1))


def _environment(settings: Path) -> Mapping[str, str]:
    wanted = {"ANSIBLE_CONFIG": str(settings), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    return {**{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}, **wanted}
