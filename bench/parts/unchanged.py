"""A run that changes nothing: what an operator pays each time."""

from __future__ import annotations

from functools import partial

from bench import hosts, measure
from bench.setup import Setup, say


def measured(setup: Setup) -> list[measure.Row]:
    """Deploy both, then run both again and again."""
    counts = [1] if setup.full else sorted({1, setup.most})
    setup.hosts(counts[-1])
    for plain in (False, True):
        _run(setup, counts[-1], plain)
    rounds, rows = setup.rounds(5), []
    times = {}
    for count in counts:
        cases = {"peer": partial(_again, setup, count, True), "ours": partial(_again, setup, count, False)}
        found = measure.paired(rounds, cases, say)
        times[count] = found["ours"]
        what = f"run that changes nothing, {count} host{'s' if count > 1 else ''} ({rounds} rounds)"
        rows.append(measure.share(what, "plain role", found["peer"], found["ours"], 0.15 if count == 1 else 0.25))
    if len(counts) > 1:
        rows.append(measure.share(f"... ours on {counts[-1]} hosts", "ours on 1 host", times[1], times[counts[-1]]))
    return rows


def _run(setup: Setup, count: int, plain: bool) -> hosts.Played:
    if plain:
        return hosts.play("site.yml", *hosts.limit(count), plain=True, **setup.peer())
    return hosts.play("playbooks/gpu_servers.yml", *hosts.limit(count), **setup.team())


def _again(setup: Setup, count: int, plain: bool) -> float:
    played = _run(setup, count, plain)
    if played.changed:
        raise hosts.Failed(f"a second run changed something:\n{played.said[-3000:]}")
    return played.seconds
