"""The same environment on more hosts: time, and what comes over the uplink."""

from __future__ import annotations

from bench import hosts, measure
from bench.setup import CACHE, OURS, POOL, THEIR_CACHE, Setup, say

ENVIRONMENTS = "/opt/vllm/environments"
PEER = "/opt/plain-vllm"


def measured(setup: Setup) -> list[measure.Row]:
    """Install on 1, 2, 4 hosts from nothing, then again."""
    counts = [count for count in (1, 2, 4) if count <= setup.most]
    setup.hosts(counts[-1])
    rows, bytes_of_one = [], 0.0
    for count in counts:
        _forget(count)
        ours, our_bytes = _run(setup, count, plain=False)
        again, again_bytes = _run(setup, count, plain=False)
        theirs, their_bytes = _run(setup, count, plain=True)
        bytes_of_one = bytes_of_one or our_bytes
        say(f"{count} hosts: ours {ours:.1f} s, again {again:.1f} s, peer {theirs:.1f} s")
        name = f"{count} host{'s' if count > 1 else ''}"
        rows.append(measure.faster(f"install on {name} (1 round)", "plain role", theirs, ours))
        rows.append(measure.share(f"uplink bytes, {name}", "plain role", their_bytes, our_bytes, form=measure.size))
        if count > 1:
            rows.append(measure.share(f"uplink bytes, {name}", "ours on 1 host", bytes_of_one, our_bytes, 1.05, measure.size))
        rows.append(measure.below(f"uplink bytes of a second run, {name}, per host", "-", "-", again_bytes / count, 100e3, measure.size))
    return rows


def _run(setup: Setup, count: int, plain: bool) -> tuple[float, float]:
    before = setup.index.given
    if plain:
        played = hosts.play(
            "site.yml", *hosts.limit(count), "--tags", "plain_install", plain=True, plain_vllm_restart=False, **setup.peer()
        )
    else:
        played = hosts.play("playbooks/gpu_servers.yml", *hosts.limit(count), "--tags", "vllm_install", **setup.team())
    return played.seconds, setup.index.given - before


def _forget(count: int) -> None:
    for number in range(1, count + 1):
        doomed = [ENVIRONMENTS, "/opt/vllm/uv", "/var/cache/vllm-uv", "/var/cache/vllm-pool", PEER, THEIR_CACHE, OURS, CACHE, POOL]
        # uv itself comes by pip, whose own cache would hide it from the count
        hosts.aside(f"server{number}", *doomed, "/root/.cache/pip")
