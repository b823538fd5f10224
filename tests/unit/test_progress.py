"""What a waiting play sees of a job on a host."""

import fcntl
import json
import subprocess
import sys
import threading
import time

import pytest
from ansible_collections.ownmetal.codex.plugins.module_utils import progress
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress, alone, look


@pytest.fixture
def files(tmp_path):
    results = tmp_path / "results"
    results.write_text(json.dumps({"started": True, "finished": False}))
    return str(tmp_path / "jobs/progress"), results


def test_lines_come_once_and_then_the_result(files):
    path, results = files
    progress = Progress(path)
    progress.say("one")
    progress.say("one")
    progress.say("two\nlines")
    assert look(path, str(results), 0, 0) == {"lines": ["one", "two lines"], "result": None}
    assert look(path, str(results), 2, 0) == {"lines": [], "result": None}
    results.write_text(json.dumps({"changed": True}))
    assert look(path, str(results), 2, 0) == {"lines": [], "result": {"changed": True}}


def test_a_job_that_has_not_begun_is_waited_for(files):
    path, results = files
    threading.Timer(0.3, lambda: Progress(path).say("late")).start()
    assert look(path, str(results), 0, 10)["lines"] == ["late"]


def test_the_result_of_a_job_that_is_over_is_waited_for(files):
    """The wrapper writes it after the job: a look that ends in between says nothing yet."""
    path, results = files
    Progress(path).say("at work")
    assert look(path, str(results), 0, 0)["lines"] == ["at work"]
    threading.Timer(0.5, lambda: results.write_text('{"changed": true}')).start()
    assert look(path, str(results), 1, 0)["result"] == {"changed": True}


def test_a_job_that_was_killed_is_told_from_a_silent_one(files, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "WRAPPER_SECONDS", 0.5)
    path, results = files
    code = (
        "import sys, time; from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress; "
        "p = Progress(sys.argv[1]); p.say('at work'); time.sleep(60)"
    )
    job = subprocess.Popen([sys.executable, "-c", code, path], env={"PYTHONPATH": ".collections"})
    assert look(path, str(results), 0, 20)["lines"] == ["at work"]
    assert look(path, str(results), 1, 0)["result"] is None
    job.kill()
    job.wait()
    with pytest.raises(Refused, match="ended from outside"):
        look(path, str(results), 1, 0)


def test_a_result_that_was_read_and_lost_is_not_waited_for(files, monkeypatch):
    monkeypatch.setattr(progress, "WRAPPER_SECONDS", 0.5)
    path, results = files
    results.unlink()
    with pytest.raises(Refused, match="Run the playbook again"):
        look(path, str(results), 0, 0)


def test_one_works_at_a_thing_at_a_time(tmp_path):
    path = str(tmp_path / "progress")
    order = []

    def second():
        with alone("env", Progress(path), str(tmp_path)):
            order.append("second")

    with alone("env", Progress(), str(tmp_path)):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.3)
        order.append("first")
    other.join(5)
    assert order == ["first", "second"]
    with open(path) as stream:
        fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert "waiting for another run that works at env" in stream.read()
