"""What a deployment makes of a unit whose first try has failed."""

import subprocess

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import units

UNIT = "vllm@coder.service"
TRIES = [
    # ActiveState, SubState, NRestarts, one look after the other                                           it made it
    ([("failed", "failed", 0)], False),  # only a change helps: back at once
    ([("activating", "auto-restart", 0), ("activating", "start", 1), ("active", "running", 1)], True),
    ([("activating", "auto-restart", 0), ("activating", "start", 1), ("failed", "failed", 1)], False),
    ([("activating", "start", 1), ("activating", "start", 2), ("activating", "auto-restart", 2), ("active", "running", 3)], False),
    ([("activating", "start", 3), ("active", "running", 3)], False),  # the short pause between two tries was not seen
    ([("inactive", "dead", 0)], False),  # stopped by someone
]


@pytest.mark.parametrize(("looks", "made_it"), TRIES)
def test_a_deployment_waits_for_three_tries(monkeypatch, looks, made_it):
    rest = list(looks)

    def systemctl(*words):
        if words[0] == "start":
            return subprocess.CompletedProcess(words, 1, "", "")
        active, sub, restarts = rest[0] if len(rest) == 1 or "--property=ActiveState,StatusText" in words else rest.pop(0)
        return subprocess.CompletedProcess(words, 0, f"ActiveState={active}\nSubState={sub}\nNRestarts={restarts}\nStatusText=\n", "")

    monkeypatch.setattr(units, "systemctl", systemctl)
    monkeypatch.setattr(units, "LOOK_SECONDS", 0.01)
    assert units._start(units.Job("coder", "start", "/var/lib/vllm/coder"), units.Progress(None)) is made_it


CAUSES = [
    # the journal                                        StatusText                                     the cause in the play's error
    ("OSError: [Errno 98] in use", "x", "another process listens on the port of coder."),
    (
        "vllm-run: ended after 0 s, another try follows in 5 s: another process listens on the port of coder",
        "",
        "another process listens on",
    ),
    (
        "Killed",
        "waiting 10 s before try 3 of 8: the unit's or the server's memory ran out",
        "did not start: the unit's or the server's memory",
    ),
    ("Killed", "down after 8 tries: it was up and computed nothing", "did not start: it was up and computed nothing."),
    ("Killed", "", "unknown"),
]


@pytest.mark.parametrize(("journal", "status", "words"), CAUSES)
def test_the_error_names_what_the_start_program_saw(monkeypatch, journal, status, words):
    def run(command, **_):
        said = f"{journal}\n" if command[0] == "journalctl" else f"StatusText={status}\n"
        return subprocess.CompletedProcess(command, 0, said, "")

    monkeypatch.setattr(units.subprocess, "run", run)
    assert words in str(units.explain(UNIT, 0.0))
