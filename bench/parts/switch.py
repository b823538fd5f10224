"""A switch to another release, without the service's start."""

from __future__ import annotations

import json

from bench import hosts, measure
from bench.setup import Setup, say

SWITCH = """
import json, os, shutil, statistics, time
from ansible_collections.ownmetal.codex.plugins.module_utils import releases
home = "/srv/bench-switch/micro"
shutil.rmtree(home, ignore_errors=True)
for number in range(1, 6):
    place = f"{home}/releases/{number}"
    os.makedirs(place)
    for link in ("environment", "model"):
        os.symlink("/usr", f"{place}/{link}")
    for name in ("config.yaml", "variables.env", "unit.conf"):
        open(f"{place}/{name}", "w").close()
    releases.mark_served(home, number, "measured")
times = {"switch": [], "rollback": []}
for turn in range(200):
    releases.switch(home, 4)
    start = time.perf_counter(); releases.switch(home, 5); times["switch"].append(time.perf_counter() - start)
    start = time.perf_counter()
    releases.switch(home, releases.choose(home, "micro", None))
    times["rollback"].append(time.perf_counter() - start)
    assert releases.current(home) == 4
print(json.dumps({name: statistics.median(values) for name, values in times.items()}))
"""


def measured(setup: Setup) -> list[measure.Row]:
    """Switch and go back on the host, 200 times in one process; the peer's two tasks, less a run without tasks."""
    setup.hosts(1)
    rounds = setup.rounds(5)
    on_host = json.loads(hosts.core("server1", SWITCH))
    turn = iter(range(1000))
    cases = {
        "with": lambda: hosts.play("switch.yml", *hosts.limit(1), plain=True, release=next(turn), with_tasks=True).seconds,
        "without": lambda: hosts.play("switch.yml", *hosts.limit(1), plain=True, release=0, with_tasks=False).seconds,
        "process": lambda: measure.timed(lambda: hosts.core("server1", SWITCH.replace("range(200)", "range(1)"))),
        "nothing": lambda: measure.timed(lambda: hosts.run("server1", "true")),
    }
    found = measure.paired(rounds, cases, say)
    peer = f"template and link, by Ansible ({rounds} rounds)"
    theirs = found["with"] - found["without"]
    limit = 0.1
    rows = [
        measure.Row(
            name,
            peer,
            measure.seconds(theirs),
            measure.seconds(took),
            f"{theirs / took:.0f}x",
            f"<= {measure.seconds(limit)}",
            took <= limit,
        )
        for name, took in (("switch, on the host", on_host["switch"]), ("rollback, on the host: choose and switch", on_host["rollback"]))
    ]
    process = found["process"] - found["nothing"]
    return [*rows, measure.below("... with the start of Python", "-", "-", process, limit)]
