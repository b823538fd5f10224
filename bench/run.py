"""Measure: `python bench/run.py [PART ...]`, all parts by default. See docs/speed.md.

--full installs the collection's whole CPU track, with vLLM itself, instead of a smaller set with a stand-in: some GB and most of an hour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["LAB_NAME"] = "bench"  # hosts of its own, beside the operator's lab
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from bench import measure
from bench.hosts import Failed
from bench.parts import environment, fan_out, gateway, integrity, site, switch, unchanged, upgrade
from bench.setup import Setup

PARTS: dict[str, Callable[[Setup], list[measure.Row]]] = {
    "fan-out": fan_out.measured,
    "unchanged": unchanged.measured,
    "environment": environment.measured,
    "upgrade": upgrade.measured,
    "integrity": integrity.measured,
    "switch": switch.measured,
    "site": site.measured,
    "gateway": gateway.measured,
}


def main() -> int:
    """Run the parts, and print the table."""
    parser = argparse.ArgumentParser(description="Measure the collection against a plain role set with stock modules.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--full", action="store_true", help="install the whole CPU track instead of a stand-in")
    parser.add_argument("--rounds", type=int, help="of each comparison (default: 5 for what takes seconds, 1 or 2 for what takes minutes)")
    parser.add_argument("--hosts", type=int, default=4, choices=range(1, 11), metavar="1..10", help="at most (default: 4)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    setup = Setup(arguments.full, arguments.rounds, arguments.hosts)
    rows: list[measure.Row] = []
    failed: list[str] = []
    try:
        for name, measured in PARTS.items():
            if not arguments.parts or name in arguments.parts:
                print(f"bench: {name} ...", flush=True)
                try:
                    rows += measured(setup)
                except (Failed, subprocess.CalledProcessError) as error:  # the others may still be measured
                    print(f"bench: {name} failed: {error}", file=sys.stderr, flush=True)
                    failed.append(name)
    finally:
        if rows:
            print(f"\n{measure.table(rows)}", flush=True)
        setup.close()
    missed = [row.what for row in rows if row.reached is False]
    print(f"\n{sum(row.reached is True for row in rows)} targets reached, {len(missed)} missed", *missed, sep="\n- ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
