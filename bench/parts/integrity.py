"""Whether an environment is still what was installed."""

from __future__ import annotations

from bench import hosts, measure
from bench.setup import OURS, THEIRS, Setup, dump, say


def measured(setup: Setup) -> list[measure.Row]:
    """Compare the quick look with what an operator would do by hand."""
    setup.hosts(1)
    setup.ours()
    setup.theirs()
    root = f"{OURS}/environments/{setup.record()['id']}"
    look = "from ansible_collections.ownmetal.codex.plugins.module_utils.environment_manifest import damage"
    uv = f"{OURS}/uv/{setup.uv}/bin/uv"
    hashes = f"find {root} -type f -print0 | xargs -0 sha256sum >/dev/null"
    cases = {
        "nothing": lambda: measure.timed(lambda: hosts.run("server1", "true")),
        "look": lambda: measure.timed(lambda: hosts.core("server1", f"{look}\nassert damage({dump(root)}) is None")),
        "full": lambda: measure.timed(lambda: hosts.core("server1", f"{look}\nassert damage({dump(root)}, True) is None")),
        "pip": lambda: measure.timed(lambda: hosts.run("server1", f"{THEIRS}/bin/pip check >/dev/null || true; {hashes}")),
        "uv": lambda: measure.timed(lambda: hosts.run("server1", f"{uv} -q pip check --python {root}/bin/python || true; {hashes}")),
    }
    rounds = setup.rounds(5)
    found = measure.paired(rounds, cases, say)
    look_took, full_took, pip, by_uv = (found[name] - found["nothing"] for name in ("look", "full", "pip", "uv"))
    return [
        measure.share(f"quick integrity check, Python's start in it ({rounds} rounds)", "pip check and sha256sum", pip, look_took, 0.1),
        measure.share("quick integrity check", "uv pip check and sha256sum", by_uv, look_took, 0.1),
        measure.share("full integrity check", "uv pip check and sha256sum", by_uv, full_took),
    ]
