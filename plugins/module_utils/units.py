# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Start and restart a host's vLLM units, and say why one did not come up."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .diagnoses import diagnose_journal
from .errors import ManyRefused, Refused

JOURNAL_LINES = 80
SHOWN_LINES = 12


@dataclass(frozen=True)
class UnitState:
    """What systemd says of one unit, in its own words ("active", "enabled")."""

    active: str
    enabled: str


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)


def states(units: Sequence[str]) -> dict[str, UnitState]:
    """Ask systemd about each unit."""
    found = {}
    for unit in units:
        shown = _systemctl("show", "--property=ActiveState,UnitFileState", "--", unit).stdout
        fields = dict(line.split("=", 1) for line in shown.splitlines())
        found[unit] = UnitState(fields.get("ActiveState", ""), fields.get("UnitFileState", ""))
    return found


def work(units: Sequence[str], restart: Sequence[str], now: dict[str, UnitState]) -> dict[str, str]:
    """Return unit -> verb: restart for those in ``restart``, start for those that do not run, enable for the rest that is not."""
    verbs = {}
    for unit in units:
        if unit in restart:
            verbs[unit] = "restart"
        elif now[unit].active != "active":
            verbs[unit] = "start"
        elif now[unit].enabled != "enabled":
            verbs[unit] = "enable"
    return verbs


def bring_up(verbs: dict[str, str]) -> None:
    """Do it; all units start side by side. Raises ManyRefused with the cause of each that failed."""
    _systemctl("daemon-reload")
    _systemctl("enable", "--quiet", "--", *verbs)
    running = {}
    for unit, verb in verbs.items():
        if verb != "enable":
            # an operator's restarts count against the start limit too, and would leave a later crash down
            _systemctl("reset-failed", "--", unit)
            running[unit] = subprocess.Popen(["systemctl", verb, "--", unit], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    failed = [unit for unit, process in running.items() if process.wait()]
    if failed:
        raise ManyRefused([explain(unit) for unit in failed])


def known(patterns: Sequence[str]) -> list[str]:
    """Return the instances that systemd runs, has failed or enables, among names and patterns such as ``vllm@*.service``."""
    if not patterns:
        return []
    words = ("--all", "--plain", "--no-legend", "--full", "--", *patterns)
    lines = _systemctl("list-units", *words).stdout.splitlines() + _systemctl("list-unit-files", *words).stdout.splitlines()
    return sorted({line.split()[0] for line in lines if line.strip() and "@." not in line.split()[0]})


def take_down(units: Sequence[str]) -> None:
    """Stop units, disable them, and forget that they ever failed."""
    for words in (("stop",), ("disable", "--quiet"), ("reset-failed",)):
        _systemctl(*words, "--", *units)


def explain(unit: str) -> Refused:
    """Return why a unit did not come up, from its last start's lines in the journal."""
    command = ["journalctl", "--unit", unit, "--lines", str(JOURNAL_LINES), "--output", "cat", "--no-pager"]
    journal = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    found = re.search(r"@(.+)\.service", unit)
    instance = found.group(1) if found else unit
    diagnosis = diagnose_journal(journal, instance, socket.gethostname())
    last = "\n".join(f"    {line}" for line in journal.splitlines()[-SHOWN_LINES:])
    why, instead = f"did not start: {diagnosis.cause}.", f"Next: {diagnosis.next_command}.\n  Its last lines:\n{last}"
    return Refused(f"vllm_instances {instance}", why, instead)
