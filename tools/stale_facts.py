#!/usr/bin/env python3
"""Print which blocks of the compatibility facts have not been checked for so many days (90), oldest first, with their sources.

`tools/stale_facts.py [DAYS] [--check]`; with --check the exit code is 1 where there is one.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FACTS = Path(__file__).resolve().parents[1] / "plugins/module_utils/data/facts.yml"
DAYS = 90


def stale(facts: Mapping[str, Any], today: datetime.date, days: int) -> list[tuple[datetime.date, str, list[str]]]:
    """Return checked, name and sources of each block that was checked more than ``days`` ago, oldest first."""
    rows = [(block["checked"], name, list(block["sources"].values())) for name, block in facts.items()]
    return sorted(row for row in rows if (today - row[0]).days > days)


def main(arguments: list[str], today: datetime.date) -> int:
    """Print the report; return the exit code."""
    days = next((int(word) for word in arguments if word.isdecimal()), DAYS)
    found = stale(yaml.safe_load(FACTS.read_text(encoding="utf-8")), today, days)
    for checked, name, sources in found:
        print(f"{checked}  {name}", *sources, sep="\n              ")
    if not found:
        print(f"every block was checked within {days} days")
    return 1 if found and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], datetime.datetime.now(tz=datetime.timezone.utc).date()))
