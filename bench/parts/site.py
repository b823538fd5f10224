"""Time a first and a second run of site.yml on fresh lab hosts, and count the network round trips to each host.

A round trip is one start of ssh or sftp by Ansible: one module, one file. The shares of the roles are those that
ansible.posix.profile_roles measures.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from bench import measure
from bench.hosts import LAB, ROOT, Failed
from bench.setup import Setup

ROLE = re.compile(r"^([\w.]+) -+ ([\d.]+)s$", re.MULTILINE)


def fresh_hosts() -> dict[str, str]:
    """Make the lab anew; return address -> name."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ownmetal/uv"
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run([*LAB, "down", "--all"], cwd=ROOT, check=True)
    subprocess.run([*LAB, "up", "server1:bookworm", "dev1:trixie", "--bind-rw", f"{cache}:/srv/uv-cache"], cwd=ROOT, check=True)
    subprocess.run(["ansible-playbook", "lab/prepare.yml", "-i", "inventories/lab"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    listing = subprocess.run([*LAB, "list", "--json"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {host["address"]: host["name"] for host in json.loads(listing)}


def run_site(addresses: dict[str, str]) -> tuple[float, dict[str, int], dict[str, float], int]:
    """Run site.yml; return seconds, round trips per host, seconds per role, and how many tasks changed something."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "connections"
        log.touch()
        for name in ("ssh", "sftp"):
            (Path(folder) / f"counting-{name}").symlink_to(ROOT / "bench/counting-ssh")
        settings = {
            "BENCH_CONNECTIONS": str(log),
            "ANSIBLE_SSH_EXECUTABLE": f"{folder}/counting-ssh",
            "ANSIBLE_SFTP_EXECUTABLE": f"{folder}/counting-sftp",
            "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_roles",
            "ANSIBLE_NOCOLOR": "1",
        }
        start = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "site.yml", "-i", "inventories/lab"],
            cwd=ROOT,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        lines = log.read_text().splitlines()
    if done.returncode:
        raise Failed(f"site.yml failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    trips = {name: sum(bool(re.search(rf"\b{re.escape(address)}\b", line)) for line in lines) for address, name in addresses.items()}
    changed = sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout))
    roles = {name.removeprefix("ownmetal.codex."): float(took) for name, took in ROLE.findall(done.stdout) if name != "total"}
    return seconds, trips, roles, changed


def measured(setup: Setup) -> list[measure.Row]:
    """Print both runs side by side, and return what belongs into the table. The vLLM is the real one, whatever the other parts have."""
    addresses = fresh_hosts()
    setup.booted = 0  # those of the other parts are gone
    runs = []
    for label in ("first", "second"):
        print(f"bench:   {label} run of site.yml ...", flush=True)
        runs.append(run_site(addresses))
    (first, first_trips, first_roles, first_changed), (second, second_trips, second_roles, second_changed) = runs
    print(f"\n{'':22}{'first run':>12}{'second run':>12}{'second/first':>14}")
    print(f"{'seconds':22}{first:12.1f}{second:12.1f}{second / first:14.3f}")
    print(f"{'tasks that changed':22}{first_changed:12}{second_changed:12}")
    for name in sorted(first_trips):
        ratio = second_trips[name] / max(first_trips[name], 1)
        print(f"{'round trips ' + name:22}{first_trips[name]:12}{second_trips[name]:12}{ratio:14.3f}")
    for name, took in sorted(first_roles.items(), key=lambda row: -row[1]):
        again = second_roles.get(name, 0.0)
        share = f"{took / first:.0%} -> {again / second:.0%} of the run"
        print(f"{'role ' + name:22}{took:12.1f}{again:12.1f}{share:>26}")
    trips = [
        measure.Row(
            f"round trips to {name}, second run",
            "first run",
            str(first_trips[name]),
            str(count),
            f"{count / max(first_trips[name], 1):.3f}",
        )
        for name, count in sorted(second_trips.items())
    ]
    return [measure.share("second run of site.yml (1 round)", "first run", first, second), *trips]
