"""One package of the lock changes: a new environment beside the one that runs."""

from __future__ import annotations

from collections.abc import Callable

from bench import hosts, measure
from bench.setup import CACHE, OURS, THEIR_CACHE, THEIRS, Setup, say


def measured(setup: Setup) -> list[measure.Row]:
    """Build the changed lock's environment, with all wheels but one in the cache, and see what it takes of the disk."""
    setup.hosts(1)
    hosts.aside("server1", THEIRS, f"{THEIRS}-2")
    setup.ours()
    setup.theirs()
    rounds = setup.rounds(1 if setup.full else 2)
    second = f"{OURS}/environments/{setup.record(changed=True)['id']}"
    cases: dict[str, Callable[[], float]] = {
        "peer": lambda: _anew(f"{THEIRS}-2", lambda: setup.theirs(changed=True, venv=f"{THEIRS}-2")),
        "ours": lambda: _anew(second, lambda: setup.ours(changed=True)),
    }
    found = measure.paired(rounds, cases, say)
    one, disk = _disk(f"{OURS}/environments/{setup.record()['id']}"), {}
    for name, doomed, roots in (("ours", second, f"{OURS} {CACHE}"), ("peer", f"{THEIRS}-2", f"{THEIRS} {THEIRS}-2 {THEIR_CACHE}")):
        both = _disk(roots)
        hosts.aside("server1", doomed)
        disk[name] = both - _disk(" ".join(root for root in roots.split() if root != doomed))
    return [
        measure.faster(f"upgrade with one package changed ({rounds} rounds)", "pip, fresh, warm cache", found["peer"], found["ours"], 10),
        measure.share("disk that it takes, to one environment", "one environment of ours", one, disk["ours"], 0.05, measure.size),
        measure.share("disk that it takes", "pip, fresh", disk["peer"], disk["ours"], form=measure.size),
    ]


def _anew(doomed: str, action: Callable[[], float]) -> float:
    hosts.aside("server1", doomed)
    return action()


def _disk(roots: str) -> float:
    """Return how many bytes directories take together; a file with several names counts once."""
    return 1024.0 * int(hosts.run("server1", f"du -sck {roots} | tail -1").split()[0])
