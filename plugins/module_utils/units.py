# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bring a host's vLLM units to what they should be: the release, a start, a proof; and back again when the proof fails."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Optional, Union

from . import port_moves, releases
from .diagnoses import diagnose_journal
from .errors import ManyRefused, Refused
from .progress import Progress

JOURNAL_LINES = 80
SHOWN_LINES = 12
LOOK_SECONDS = 0.5
# a failure that may pass is tried again by the unit itself: a deployment waits for so many tries, and so long for a change of what they say
TRIES, TRIES_SECONDS = 3, 300.0
VERDICT = re.compile(r"^(waiting .*? of \d+|down after \d+ tries): ")
FIRST_TOKEN = "first token"
Prove = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class UnitState:
    """What systemd says of one unit, in its own words ("active", "enabled")."""

    active: str
    enabled: str


@dataclass(frozen=True)
class Job:
    """What is to be done with one instance.

    ``verb`` is switch, restart, start, prove or enable; ``release`` is the number to switch to; ``home`` the instance's directory;
    ``server`` the host's name in the inventory, which its own name need not be.
    """

    name: str
    verb: str
    home: str
    release: Optional[int] = None
    server: Optional[str] = None

    @property
    def unit(self) -> str:
        """Return the systemd unit."""
        return unit_name(self.name)


def unit_name(instance: str) -> str:
    """Return the systemd unit of an instance."""
    return f"vllm@{instance}.service"


def systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    """Run systemctl; a failure is the caller's to judge."""
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)


def states(units: Iterable[str]) -> dict[str, UnitState]:
    """Ask systemd about each unit."""
    found = {}
    for unit in units:
        fields = _properties(unit, "ActiveState", "UnitFileState")
        found[unit] = UnitState(fields.get("ActiveState", ""), fields.get("UnitFileState", ""))
    return found


def _properties(unit: str, *names: str) -> dict[str, str]:
    shown = systemctl("show", f"--property={','.join(names)}", "--", unit).stdout
    return dict(line.split("=", 1) for line in shown.splitlines())


def work(instances: Sequence[Mapping[str, Any]], restart: Sequence[str], now: Mapping[str, UnitState]) -> list[Job]:
    """Return what has to be done, for the instances that need something.

    An instance has name, home, and release where it has to be switched. ``restart`` lists units whose files have changed.
    A release that runs and was never seen serving, since an earlier run ended too soon, is proved.
    """
    jobs = []
    for instance in instances:
        name, home, release = instance["name"], instance["home"], instance.get("release")
        state = now[unit_name(name)]
        current = releases.current(home)
        verb = None
        if release is not None and release != current:
            verb = "switch"
        elif unit_name(name) in restart and state.active not in ("inactive", "failed"):
            verb = "restart"  # one that is still starting, too: it has read the old files
        elif state.active != "active":
            verb = "start"
        elif current is not None and current not in releases.read(home)["served"]:
            verb = "prove"
        elif state.enabled != "enabled":
            verb = "enable"
        if verb:
            jobs.append(Job(name, verb, home, release, instance.get("server")))
    return jobs


def check_written(jobs: Sequence[Job]) -> None:
    """Raise ManyRefused for releases to switch to that are not whole, before anything is stopped for them."""
    refused = []
    for job in jobs:
        lacks = releases.missing(job.home, job.release) if job.verb == "switch" and job.release is not None else None
        if lacks:
            why = f"release {job.release}, which is to run, has no {lacks}: the phase that writes it was left out."
            instead = "Run it without --tags, or with --tags vllm_install,vllm_configure,vllm_run."
            refused.append(Refused(f"vllm_instances {job.name}", why, instead))
    if refused:
        raise ManyRefused(refused)


def in_rows(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return jobs in rows: those of one row have to be done in its order, since one takes the port that another leaves. Raises Refused."""
    moving = [job for job in jobs if job.verb == "switch"]
    held = {job.name: releases.listens(job.home, releases.CURRENT) for job in moving}
    wanted = {job.name: releases.listens(job.home, f"releases/{job.release}") for job in moving}
    takes = {
        job.name: [other for other in held if other != job.name and port_moves.in_the_way(wanted.get(job.name), held[other])]
        for job in jobs
    }
    by_name = {job.name: job for job in jobs}
    return [[by_name[name] for name in row] for row in port_moves.rows(takes)]


def deploy(jobs: Sequence[Job], prove: Optional[Prove], progress: Progress, keep: int, one_by_one: bool = False) -> None:
    """Do the jobs side by side, or one after another until one fails. One that takes another's port comes after it, unless that failed.

    A release that does not start, or whose proof fails, gives way to the one that it replaced. Raises ManyRefused with the cause
    of each failure. ``keep`` releases of each instance are left. ``prove`` asks a running instance what its release's proof.json
    says, and returns what it did; without it the first token is proof enough.
    """
    check_written(jobs)
    rows = in_rows([job for job in jobs if job.verb != "enable"])
    systemctl("daemon-reload")
    failures: list[Refused] = []
    for job in jobs:
        if job.verb == "enable":
            _enable(job)
    with ThreadPoolExecutor(1 if one_by_one else len(jobs)) as pool:

        def each(row: Sequence[Job]) -> None:
            for place, job in enumerate(row):
                if failures and one_by_one:
                    return
                failure = _deploy_one(job, prove, progress)
                if failure:
                    failures.append(failure)
                    if rest := [left.name for left in row[place + 1 :]]:
                        progress.say(f"{', '.join(rest)}: left as it is, since {job.name} failed: ports move along in this change")
                    return
                releases.prune(job.home, keep)

        list(pool.map(each, rows))
    if failures:
        raise ManyRefused(failures)


def _deploy_one(job: Job, prove: Optional[Prove], progress: Progress) -> Optional[Refused]:
    before = releases.current(job.home)
    if job.verb == "switch" and job.release is not None:
        _stop(job, progress)
        try:
            releases.switch(job.home, job.release)
        except OSError as error:  # a full disk: what ran until now goes on
            if before is not None:
                systemctl("start", "--", job.unit)
            why = f"release {job.release} cannot be made the current one ({error.strerror}: {error.filename}). Release {before} goes on."
            return Refused(f"vllm_instances {job.name}", why, "Make room there, and run the playbook again.")
    failure = _serve(job, prove, progress)
    if not isinstance(failure, Refused):
        return _note(job, failure, progress)
    current, served = releases.current(job.home), releases.read(job.home)["served"]
    if before != current and before in served:
        back: Optional[int] = before  # it ran until now, whatever else there was between
    else:  # a release that served before does not fail by itself: to go back would hide what does
        back = None if current in served else releases.to_go_back_to(job.home)
    if current is None or back is None:
        return failure
    progress.say(f"{job.name}: release {current} failed; going back to release {back}")
    _stop(job, progress)
    releases.switch(job.home, back)
    again = _serve(job, prove, progress)
    why = failure.why.rstrip(".")
    if not isinstance(again, Refused):
        _note(job, again, progress)  # it served before, most likely, and is noted
        return Refused(failure.where, f"release {current} {why}. Release {back} serves again.", failure.instead)
    return Refused(failure.where, f"release {current} {why}. Release {back}, which served before, {again.why}", failure.instead)


def _serve(job: Job, prove: Optional[Prove], progress: Progress) -> Union[str, Refused]:
    """Start what has to be started, and prove it; return what it did, or why not."""
    if job.verb != "prove" or states([job.unit])[job.unit].active != "active":
        systemctl("daemon-reload")  # a release brings its unit's limits with it
        try:
            _enable(job)
        except Refused as refused:
            return refused
        # an operator's restarts count against the start limit too, and would leave a later crash down
        systemctl("reset-failed", "--", job.unit)
        if job.verb == "restart":
            _stop(job, progress)
        since = time.time()
        if not _start(job, progress):
            return explain(job.unit, since, job.server)
    did = FIRST_TOKEN
    question = releases.proof(job.home)
    if prove and question:
        progress.say(f"{job.name}: asking for a tool call")
        try:
            did = prove(question)
        except Refused as refused:
            return refused
    progress.say(f"{job.name}: serves ({did})")
    return did


def _note(job: Job, did: str, progress: Progress) -> Optional[Refused]:
    """Write down that the current release has served. Where that fails, it serves all the same: it is not undone."""
    current = releases.current(job.home)
    try:
        if current is not None:
            releases.mark_served(job.home, current, did)
    except OSError as error:  # a full disk
        why = f"release {current} serves, and that cannot be written down ({error.strerror}: {error.filename})."
        progress.say(f"{job.name}: {why}")
        instead = "Make room there, and run the playbook again, which proves it again: until then it is none to go back to."
        return Refused(f"vllm_instances {job.name}", why, instead)
    return None


def _enable(job: Job) -> None:
    """Let the unit start with the host. Before its first release is the current one, systemd does not take it."""
    done = systemctl("enable", "--quiet", "--", job.unit)
    if done.returncode:
        raise Refused(f"vllm_instances {job.name}", f"{job.unit} cannot be enabled: {done.stderr.strip()}.", "Mend that, then run again.")


def _stop(job: Job, progress: Progress) -> None:
    if states([job.unit])[job.unit].active not in ("inactive", "failed"):
        progress.say(f"{job.name}: stopping, running requests may end")
        systemctl("stop", "--", job.unit)


def _start(job: Job, progress: Progress) -> bool:
    """Start a unit; say its stages meanwhile. True when it is ready."""
    done = threading.Event()

    def say_stages() -> None:
        said = ""  # others speak meanwhile, so the progress cannot know what this one said last
        while not done.wait(LOOK_SECONDS):
            seen = _properties(job.unit, "ActiveState", "StatusText")
            stage = seen.get("StatusText", "") if seen.get("ActiveState") == "activating" else ""
            if stage and stage != said:
                progress.say(f"{job.name}: {stage}")
                said = stage

    watcher = threading.Thread(target=say_stages, daemon=True)
    watcher.start()
    try:
        return systemctl("start", "--", job.unit).returncode == 0 or _tried_again(job.unit)
    finally:
        done.set()
        watcher.join()


def _tried_again(unit: str) -> bool:
    """Wait for further tries of a unit whose first one failed; tell whether one of them made it."""
    before: dict[str, str] = {}
    end = time.monotonic() + TRIES_SECONDS
    while time.monotonic() < end:
        seen = _properties(unit, "ActiveState", "SubState", "NRestarts", "StatusText", "Job")
        if seen != before:  # a try that loads large weights moves for longer than that
            before, end = seen, time.monotonic() + TRIES_SECONDS
        # between two tries it is inactive for a moment, with the job that starts it again
        if seen.get("ActiveState") != "activating" and not seen.get("Job"):
            return seen.get("ActiveState") == "active"
        failed = int(seen.get("NRestarts", "0")) + (seen.get("SubState") == "auto-restart")
        if failed >= TRIES:
            return False
        time.sleep(LOOK_SECONDS)
    return False


def known(patterns: Sequence[str]) -> list[str]:
    """Return the instances that systemd runs, has failed or enables, among names and patterns such as ``vllm@*.service``."""
    if not patterns:
        return []
    words = ("--all", "--plain", "--no-legend", "--full", "--", *patterns)
    lines = systemctl("list-units", *words).stdout.splitlines() + systemctl("list-unit-files", *words).stdout.splitlines()
    return sorted({line.split()[0] for line in lines if line.strip() and "@." not in line.split()[0]})


def take_down(units: Sequence[str]) -> None:
    """Stop units, disable them, and forget that they ever failed."""
    for words in (("stop",), ("disable", "--quiet"), ("reset-failed",)):
        systemctl(*words, "--", *units)


def explain(unit: str, since: float, server: Optional[str] = None) -> Refused:
    """Return why a unit did not come up, from its lines in the journal since that time, which may be those of several tries."""
    command = ["journalctl", "--unit", unit, f"--since=@{since:.6f}", "--lines", str(JOURNAL_LINES), "--output", "cat", "--no-pager"]
    journal = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout
    found = re.search(r"@(.+)\.service", unit)
    instance = found.group(1) if found else unit
    diagnosis = diagnose_journal(journal, instance, server or socket.gethostname())
    last = "\n".join(f"    {line}" for line in journal.splitlines()[-SHOWN_LINES:])
    cause = diagnosis.cause
    if diagnosis.id == "unknown":  # what only the start program saw: memory that ran out, a limit, a frozen engine
        cause = VERDICT.sub("", _properties(unit, "StatusText").get("StatusText", "")) or cause
    why, instead = f"did not start: {cause}.", f"Next: {diagnosis.next_command}.\n  Its last lines:\n{last}"
    return Refused(f"vllm_instances {instance}", why, instead)
