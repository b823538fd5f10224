"""One host's environment, with bytecode, from an index in its own network."""

from __future__ import annotations

from collections.abc import Callable

from bench import hosts, measure
from bench.setup import CACHE, OURS, POOL, THEIR_CACHE, THEIRS, Setup, say


def measured(setup: Setup) -> list[measure.Row]:
    """Build it in every way, from nothing and with what an earlier build left in its cache."""
    setup.hosts(2)
    setup.ours()  # uv itself is installed once, and the pool host has what others take
    setup.ours(host="server2", bench_pool="server1")
    cases = {
        "pip cold": lambda: _after("server1", (THEIRS, THEIR_CACHE), setup.theirs),
        "pip warm": lambda: _after("server1", (THEIRS,), setup.theirs),
        "ours cold": lambda: _after("server1", (f"{OURS}/environments", CACHE, POOL), setup.ours),
        "ours warm": lambda: _after("server1", (f"{OURS}/environments", POOL), setup.ours),
        "ours packed": lambda: _pack(setup),
        "ours taken": lambda: _after("server2", (f"{OURS}/environments",), lambda: setup.ours(host="server2", bench_pool="server1")),
    }
    rounds = setup.rounds(1 if setup.full else 2)
    found = measure.paired(rounds, cases, say)
    label = f"({setup.lock.label}; {rounds} rounds)"
    return [
        measure.faster(f"environment, cold cache {label}", "pip, cold cache", found["pip cold"], found["ours cold"], 8),
        measure.faster("environment, wheels and their bytecode cached", "pip, warm cache", found["pip warm"], found["ours warm"], 8),
        measure.faster("environment, taken from the pool, bytecode in it", "pip, cold cache", found["pip cold"], found["ours taken"], 8),
        measure.faster("... against pip that has all wheels", "pip, warm cache", found["pip warm"], found["ours taken"], 8),
        measure.Row("packing it for the pool, once", "-", "-", measure.seconds(found["ours packed"]), "-"),
    ]


def _after(host: str, doomed: tuple[str, ...], action: Callable[[], float]) -> float:
    hosts.aside(host, *doomed)
    return action()


def _pack(setup: Setup) -> float:
    """Return how long the pool host packs (and serves) what it has already; the taker then finds its environment there."""
    hosts.run("server1", f"test -d {OURS}/environments/{setup.record()['id']}")
    hosts.aside("server1", POOL)
    return setup.ours(host="server2", bench_pool="server1")
