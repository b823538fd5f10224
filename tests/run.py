"""Run the parts of the test suite, each against its time budget: `python tests/run.py [PART ...]`.

Without names, all parts run but those that want to be asked for.

A part that is slower than its budget is marked in the table at the end, and does not fail: machines differ.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
AS_ROOT = sys.executable if os.geteuid() == 0 else f"sudo --preserve-env {sys.executable}"


@dataclass(frozen=True)
class Part:
    """A name, how many minutes it may take on two cores, what it proves, its commands, what clears up after it however it ends, and
    whether it is run only when it is named."""

    name: str
    minutes: float
    proves: str
    commands: tuple[str, ...]
    clear: str = ""
    asked: bool = False


PARTS = (
    Part(
        "lint",
        3,
        "style and types, by the strictest profiles",
        (
            "ruff check .",
            "ruff format --check .",
            "mypy plugins/module_utils lab tools tests/run.py",
            "yamllint --strict .",
            "ansible-lint --offline",
            "antsibull-changelog lint",
        ),
    ),
    Part("unit", 4, "the core's tables and the documentation", ("python -m pytest",)),
    Part(
        "collection",
        2,
        "the built archive, installed as a user installs it",
        ("python -m pytest tests/collection",),
    ),
    Part("lab", 4, "the hosts: boot, network, settings, reboot, and that nothing is left", (f"{AS_ROOT} -m pytest tests/lab",)),
    Part(
        "molecule",
        25,
        "the whole chain on lab hosts, refusals, faults, uninstall",
        ("molecule test --scenario-name default",),
        "molecule destroy --scenario-name default",
    ),
    Part(
        "codex",
        10,
        "a developer machine of two people: their files, live models, places, old releases, refusals",
        ("molecule test --scenario-name codex",),
        "molecule destroy --scenario-name codex",
    ),
    Part(
        "vllm",
        50,
        "two servers: releases, upgrades that go back, the pool, each kind of failure, kills",
        ("molecule test --scenario-name vllm",),
        "molecule destroy --scenario-name vllm",
        asked=True,  # three quarters of an hour by itself: with it make test would take more than one
    ),
    Part(
        "cuda",
        20,
        "driver and toolkit from a vendor's repository that real apt and real dnf resolve, on servers with stand-ins for GPUs",
        ("molecule test --scenario-name cuda",),
        "molecule destroy --scenario-name cuda",
    ),
    Part(
        "gateway",
        40,
        "a gateway before two model servers: who is let in, streams, limits, restarts, rotation, the real Codex through it",
        ("molecule test --scenario-name gateway",),
        "molecule destroy --scenario-name gateway",
        asked=True,  # half an hour by itself: with it make test would take more than one
    ),
    Part(
        "caddy",
        12,
        "the gateway with Caddy before stand-ins for models, what an engine refuses, changes of the engine, certificates by ACME",
        ("molecule test --scenario-name gateway_caddy",),
        "molecule destroy --scenario-name gateway_caddy",
    ),
)


def run(part: Part) -> tuple[bool, float]:
    """Run a part; return whether it passed and its minutes."""
    start = time.monotonic()
    passed = False
    try:
        for command in part.commands:
            print(f"\n=== {part.name}: {command}", flush=True)
            if subprocess.run(command.split(), cwd=ROOT, check=False).returncode:
                break
        else:
            passed = True
    finally:
        if part.clear and not passed:
            subprocess.run(part.clear.split(), cwd=ROOT, check=False)
    return passed, (time.monotonic() - start) / 60


def main(names: list[str]) -> int:
    """Run the named parts, print the table, return the exit code."""
    unknown = set(names) - {part.name for part in PARTS}
    if unknown:
        print(
            f"run.py: there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(part.name for part in PARTS)}",
            file=sys.stderr,
        )
        return 2
    os.environ.setdefault("PY_COLORS", "0" if os.environ.get("CI") else "1")
    rows = []
    for part in PARTS:
        if part.name in names or not (names or part.asked):
            rows.append((part, *run(part)))
    print(f"\n{'part':12}{'result':9}{'minutes':>8}{'budget':>8}   what it proves")
    for part, passed, minutes in rows:
        slow = "  (over budget)" if minutes > part.minutes else ""
        print(f"{part.name:12}{'passed' if passed else 'FAILED':9}{minutes:8.1f}{part.minutes:8.1f}   {part.proves}{slow}")
    print(f"{'all':21}{sum(minutes for _, _, minutes in rows):8.1f}{sum(part.minutes for part, _, _ in rows):8.1f}")
    failed = sum(not passed for _, passed, _ in rows)
    print(f"{len(rows) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
