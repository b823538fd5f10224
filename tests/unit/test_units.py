"""What a deployment makes of a unit whose first try has failed."""

import subprocess
import time
import types

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import port_moves, units
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

UNIT = "vllm@coder.service"
TRIES = [
    # ActiveState, SubState, NRestarts and the job that waits, one look after the other                     it made it
    ([("failed", "failed", 0)], False),  # only a change helps: back at once
    ([("activating", "auto-restart", 0), ("activating", "start", 1), ("active", "running", 1)], True),
    ([("activating", "auto-restart", 0), ("inactive", "dead", 1, 7), ("activating", "start", 1), ("active", "running", 1)], True),
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
        look = rest[0] if len(rest) == 1 or "--property=ActiveState,StatusText" in words else rest.pop(0)
        active, sub, restarts, *job = look
        shown = {"ActiveState": active, "SubState": sub, "NRestarts": restarts, "StatusText": "", "Job": job[0] if job else ""}
        return subprocess.CompletedProcess(words, 0, "".join(f"{name}={value}\n" for name, value in shown.items()), "")

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


def test_a_command_that_is_advised_names_the_server_as_the_inventory_does(monkeypatch):
    def run(command, **_):
        said = "ModuleNotFoundError: No module named 'torch'\n" if command[0] == "journalctl" else ""
        return subprocess.CompletedProcess(command, 0, said, "")

    monkeypatch.setattr(units.subprocess, "run", run)
    assert "build it again: ansible-playbook site.yml --limit gpu1.example" in str(units.explain(UNIT, 0.0, "gpu1.example"))


# what ran, what is switched to, which have served, whether each of them starts; what runs in the end, and what is said
BACK = [
    (6, 7, [5, 6], {7: False, 6: True}, 6, "release 7 does not start. Release 6 serves again."),
    (
        6,
        3,
        [3, 5, 6],
        {3: False, 6: True},
        6,
        "release 3 does not start. Release 6 serves again.",
    ),  # a rollback to one that broke
    (6, 5, [4, 6], {5: False, 6: True}, 6, "release 5 does not start. Release 6 serves again."),  # ... to one that never served
    (6, 7, [6], {7: False, 6: False}, 6, "Release 6, which served before, does not start"),
    (6, 7, [], {7: False}, 7, "does not start"),  # nothing to go back to
    (6, 6, [5, 6], {6: False}, 6, "does not start"),  # a restart: no other release would help
]


@pytest.mark.parametrize(("ran", "to", "served", "starts", "runs", "words"), BACK)
def test_what_fails_goes_back_to_what_ran(monkeypatch, tmp_path, ran, to, served, starts, runs, words):
    for number in {ran, to, *served}:
        (tmp_path / "releases" / str(number)).mkdir(parents=True)
    for number in served:
        (tmp_path / "releases" / str(number) / "served.json").touch()
    (tmp_path / "current").symlink_to(f"releases/{ran}")

    def serve(job, _prove, _progress):
        return "first token" if starts[units.releases.current(job.home)] else Refused("vllm@a", "does not start.", "")

    monkeypatch.setattr(units, "_serve", serve)
    monkeypatch.setattr(units, "_stop", lambda *_: None)
    said = []
    job = units.Job(name="a", home=str(tmp_path), verb="switch", release=to)
    refused = units._deploy_one(job, None, types.SimpleNamespace(say=said.append))
    assert words in str(refused)
    assert units.releases.current(str(tmp_path)) == runs


def test_a_switch_that_cannot_be_written_starts_what_ran(monkeypatch, tmp_path):
    for number in (6, 7):
        (tmp_path / "releases" / str(number)).mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/6")
    (tmp_path / ".current").mkdir()  # in the way of the link that is made aside
    asked = []
    monkeypatch.setattr(units, "systemctl", lambda *words: asked.append(words))
    monkeypatch.setattr(units, "_stop", lambda *_: None)
    job = units.Job(name="a", home=str(tmp_path), verb="switch", release=7)
    refused = units._deploy_one(job, None, types.SimpleNamespace(say=print))
    assert str(refused).startswith("vllm_instances a: release 7 cannot be made the current one (Is a directory: ")
    assert "Release 6 goes on. Make room there" in str(refused)
    assert (asked, units.releases.current(str(tmp_path))) == ([("start", "--", "vllm@a.service")], 6)


def test_a_start_that_cannot_be_written_down_is_not_undone(monkeypatch, tmp_path):
    for number in (6, 7):
        (tmp_path / "releases" / str(number)).mkdir(parents=True)
    (tmp_path / "releases/6/served.json").touch()
    (tmp_path / "releases/7/served.json.part").symlink_to("/dev/full")
    (tmp_path / "current").symlink_to("releases/6")
    asked, said = [], []
    monkeypatch.setattr(units, "systemctl", lambda *words: asked.append(words))
    monkeypatch.setattr(units, "_serve", lambda *_: "a tool call")
    monkeypatch.setattr(units, "_stop", lambda job, _progress: asked.append(job.name))
    job = units.Job(name="a", home=str(tmp_path), verb="switch", release=7)
    refused = units._deploy_one(job, None, types.SimpleNamespace(say=said.append))
    assert str(refused).startswith("vllm_instances a: release 7 serves, and that cannot be written down (No space left on device: ")
    assert "/releases/7/served.json). Make room there, and run the playbook again" in str(refused)
    assert (asked, units.releases.current(str(tmp_path))) == (["a"], 7)  # the one stop is that of the switch
    assert units.releases.read(str(tmp_path))["served"] == [6]
    assert units._deploy_one(units.Job("a", "prove", str(tmp_path)), None, types.SimpleNamespace(say=said.append)) is None
    assert units.releases.read(str(tmp_path))["served"] == [6, 7]


ROWS = [
    # name -> port of the current release, of the new one    one by one   which fails   what is done, each row by itself
    ({"a": (1, 2), "b": (2, 3)}, True, None, [["b", "a"]]),
    ({"a": (1, 2), "b": (2, 3)}, False, None, [["b", "a"]]),
    ({"a": (1, 2), "b": (2, 3), "c": (4, 4), "d": (9, 1)}, False, None, [["b", "a", "d"], ["c"]]),
    ({"a": (1, 2), "b": (2, 3), "c": (4, 4)}, True, None, [["b", "a", "c"]]),
    ({"a": (1, 2), "b": (2, 3), "c": (4, 4)}, False, "b", [["b"], ["c"]]),  # a keeps its port, and b has its own again
    ({"a": (None, 2), "b": (2, 3)}, False, None, [["b", "a"]]),  # a is new
    ({"a": (1, 2), "b": (2, 1)}, False, None, "vllm_instances a: port: a and b take one another's ports"),
    ({"a": (1, 2), "b": (2, 1)}, True, None, "Write another free port for one of them"),
]


@pytest.mark.parametrize(("moves", "one_by_one", "fails", "expected"), ROWS)
def test_who_takes_a_port_comes_after_who_leaves_it(moves, one_by_one, fails, expected, monkeypatch, tmp_path):
    jobs = []
    for name, ports in moves.items():
        for number, port in enumerate(ports, 1):
            place = tmp_path / name / "releases" / str(number)
            place.mkdir(parents=True)
            (place / "config.yaml").write_text(f"host: 127.0.0.1\nport: {port}\n")
        if ports[0]:
            (tmp_path / name / "current").symlink_to("releases/1")
        jobs.append(units.Job(name, "switch", str(tmp_path / name), 2))
    done, asked, said = [], [], []

    def one(job, _prove, _progress):
        time.sleep(0.02)  # side by side, the others would be first
        done.append(job.name)
        return Refused(f"vllm_instances {job.name}", "does not start.", "") if job.name == fails else None

    monkeypatch.setattr(units, "check_written", lambda _jobs: None)
    monkeypatch.setattr(units, "systemctl", lambda *words: asked.append(words))
    monkeypatch.setattr(units, "_deploy_one", one)
    progress = types.SimpleNamespace(say=said.append)
    if isinstance(expected, str):
        with pytest.raises(Refused, match=expected):
            units.deploy(jobs, None, progress, 5, one_by_one)
        assert (done, asked) == ([], [])
    elif fails:
        with pytest.raises(Refused, match="does not start"):
            units.deploy(jobs, None, progress, 5, one_by_one)
        assert said == ["a: left as it is, since b failed: ports move along in this change"]
    else:
        units.deploy(jobs, None, progress, 5, one_by_one)
    if not isinstance(expected, str):
        assert sorted(done) == sorted(name for row in expected for name in row)
        for row in expected:
            assert [name for name in done if name in row] == row


PLACES = [
    # wanted, held                                          in the way
    (("127.0.0.1", 1), ("127.0.0.1", 1), True),
    (("127.0.0.1", 1), ("127.0.0.1", 2), False),
    (("10.0.0.1", 1), ("10.0.0.2", 1), False),
    (("10.0.0.1", 1), ("0.0.0.0", 1), True),
    (("::", 1), ("10.0.0.2", 1), True),
    (("localhost", 1), ("127.0.0.1", 1), True),
    (None, ("127.0.0.1", 1), False),
    (("127.0.0.1", 1), None, False),
]


@pytest.mark.parametrize(("wanted", "held", "expected"), PLACES)
def test_who_is_in_the_way(wanted, held, expected):
    assert port_moves.in_the_way(wanted, held) is expected
