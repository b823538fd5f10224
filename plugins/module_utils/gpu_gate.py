# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The gate before an instance starts: look at the GPUs, judge them, let them add up. Runs on the host, and changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from . import environment_manifest, tensor_parallel
from .all_reduce import OK, READ_BY_NCCL, SECONDS, Outcome, Ring, measure
from .errors import Refused
from .observe import unit_of
from .tensor_parallel import Wanted

# of this boot: another driver is loaded, or a card is moved, only with another
MEMORY = "/run/ownmetal-gpu-gate"
OURS = "vllm@"


@dataclass(frozen=True)
class Gate:
    """What is asked.

    ``instances`` have name, starts, device, gpus, group, share, environment, args and python (an environment's); ``left_out`` is
    vllm_gpus_left_out as it is written. ``trial``: nothing is to be run. ``stopped`` are units besides the
    instances' that will be stopped before one starts.
    """

    server: str
    instances: Sequence[Mapping[str, Any]] = ()
    left_out: Sequence[Any] = ()
    user: Optional[str] = None
    seconds: float = SECONDS
    trial: bool = False
    stopped: Sequence[str] = ()
    memory: str = MEMORY
    say: Callable[[str], None] = field(default=lambda _line: None)


def gate(asked: Gate, seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return lines (one an instance), refused and warnings (sentences), left_out (numbers) and measured (by instance).

    ``seen`` is what gpu_info saw. What is wrong with an instance that runs on, and is not started anew, is a warning.
    """
    numbers, notes = tensor_parallel.left_out(asked.left_out, seen["gpus"], asked.server)
    lines, measured = [], {}
    refused: list[Refused] = []
    warned: list[Refused] = list(notes)
    for one in asked.instances:
        line, refusals, warnings = _static(asked, one, numbers, seen)
        if not refusals and one["starts"] and (one["group"] or len(one["gpus"])) > 1:
            said, outcome = _adds_up(asked, one, seen)
            line = f"{line}, {said}"
            if outcome:
                measured[one["name"]] = dataclasses.asdict(outcome)
                problem = tensor_parallel.verdict(one["name"], asked.server, measured[one["name"]], seen["gpus"], asked.left_out)
                refusals = [problem] if problem else []
        (refused if one["starts"] else warned).extend(refusals)
        warned += warnings
        lines += [] if refusals else [line]
    spoken = {"refused": refused, "warnings": warned}
    return {
        **{kind: list(dict.fromkeys(str(each) for each in found)) for kind, found in spoken.items()},
        "lines": lines,
        "left_out": numbers,
        "measured": measured,
    }


def _static(
    asked: Gate, one: Mapping[str, Any], numbers: Sequence[int], seen: Mapping[str, Any]
) -> tuple[str, Sequence[Refused], Sequence[Refused]]:
    if one["device"] != "cuda":
        return f"{one['name']}: {len(one['gpus'])} processes", [], []
    others = {gpu for other in asked.instances if other["name"] != one["name"] for gpu in other["gpus"]}
    wanted = Wanted(
        one["name"],
        asked.server,
        one["gpus"],
        one["share"],
        one["environment"],
        one["args"],
        own={gpu["index"]: _own(gpu, asked.stopped) for gpu in seen["gpus"]},
        others=others,
        left_out=numbers,
        group=one["group"],
        written=asked.left_out,
    )
    found = tensor_parallel.judge(wanted, seen)
    return found.line, found.refusals, found.warnings


def _own(gpu: Mapping[str, Any], stopped: Sequence[str]) -> int:
    """Return the MiB that is held by instances, and by what is stopped for them: it is free when others start there."""
    units = [(process, unit_of(str(process["pid"])) or "") for process in gpu["processes"]]
    ours = [process for process, unit in units if unit.startswith(OURS) or unit in stopped]
    if ours and len(ours) == len(gpu["processes"]):
        return int(gpu["memory_used"] or 0)
    return sum(int(process["memory"] or 0) for process in ours)


def _adds_up(asked: Gate, one: Mapping[str, Any], seen: Mapping[str, Any]) -> tuple[str, Optional[Outcome]]:
    """Return what is said of an all-reduce, and what came of it where it ran, now or before."""
    busy = _busy(one, seen)
    if not os.path.exists(one["python"]):
        return "all-reduce not run yet: its environment is not there", None
    place = _place(asked, one, seen)
    known = _remembered(place)
    if known:
        return f"{_figure(known)} (measured since the last boot)", known
    if asked.seconds <= 0:
        return "all-reduce not asked for", None
    if busy:
        return f"all-reduce not run: its GPUs are in use by {busy}", None
    if asked.trial or _damaged(one["python"]):
        return f"all-reduce not run{' in check mode' if asked.trial else ': its environment is damaged'}", None
    asked.say(f"{one['name']}: {len(one['gpus'])} processes add up, at most {asked.seconds:g} s")
    outcome = measure(Ring(one["python"], one["gpus"], one["device"], asked.user, one["environment"], asked.seconds))
    if outcome.kind == OK:
        _remember(place, outcome)
    return _figure(outcome), outcome


def _damaged(python: str) -> bool:
    environment = os.path.dirname(os.path.dirname(python))
    return os.path.exists(f"{environment}/{environment_manifest.NAME}") and bool(environment_manifest.damage(environment))


def _figure(outcome: Outcome) -> str:
    return f"all-reduce {outcome.busbw:.3g} GB/s" if outcome.busbw else "all-reduce failed"


def _busy(one: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    """Return who uses the GPUs: nobody who serves is disturbed."""
    if one["device"] != "cuda":
        return ""
    users = [process for gpu in seen["gpus"] if gpu["index"] in one["gpus"] for process in gpu["processes"]]
    return ", ".join(dict.fromkeys(unit_of(str(each["pid"])) or f"{each['name']} (pid {each['pid']})" for each in users))


def _place(asked: Gate, one: Mapping[str, Any], seen: Mapping[str, Any]) -> str:
    """Return where the outcome is remembered: by environment, GPUs, driver and what NCCL reads."""
    cards = [gpu["uuid"] for gpu in seen["gpus"] if gpu["index"] in one["gpus"]] if one["device"] == "cuda" else []
    # through its links: an environment is never changed, and another one has another path
    what = [os.path.dirname(os.path.realpath(os.path.dirname(one["python"]))), one["device"], one["gpus"], cards, seen["driver"]]
    text = json.dumps([*what, sorted(one["environment"].items())])
    return f"{asked.memory}/{hashlib.sha256(text.encode()).hexdigest()[:24]}.json"


def _remembered(place: str) -> Optional[Outcome]:
    try:
        with open(place, encoding="utf-8") as stream:
            return Outcome(**json.load(stream))
    except (OSError, ValueError, TypeError):
        return None


def _remember(place: str, outcome: Outcome) -> None:
    with contextlib.suppress(OSError):  # it is measured again, then
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        with open(f"{place}.part", "w", encoding="utf-8") as stream:
            json.dump(dataclasses.asdict(outcome), stream)
        os.replace(f"{place}.part", place)


def rows(
    instances: Sequence[Mapping[str, Any]],
    environments: Sequence[Mapping[str, Any]],
    paths: Mapping[str, str],
    starting: Sequence[str],
    usual_share: Callable[[str], float],
) -> list[dict[str, Any]]:
    """Return the instances that compute on GPUs, as :class:`Gate` takes them. On the controller.

    ``environments`` are those of the server and ``paths`` where they are, by track; ``starting`` the instances that will be
    started; ``usual_share`` tells a vLLM release's gpu_memory_utilization.
    """
    known = {row["track"]: row for row in environments}
    found = []
    for entry in instances:
        environment = known.get(entry["track"])
        if not environment or environment["device"] != "cuda":
            continue
        args = entry["args"]
        stages = int(str(args.get("pipeline-parallel-size") or 1))
        alone = not args.get("enable-expert-parallel")
        found.append(
            {
                "name": entry["name"],
                "starts": entry["name"] in starting,
                "device": "cuda",
                "gpus": entry["gpus"],
                "group": min(len(entry["gpus"]), entry["tensor_parallel_size"] * stages) if alone else len(entry["gpus"]),
                "share": entry["gpu_memory_utilization"] or usual_share(environment["vllm"]),
                "environment": {name: value for name, value in entry["environment"].items() if name.startswith(READ_BY_NCCL)},
                "args": {tensor_parallel.NO_CUSTOM: bool(args.get(tensor_parallel.NO_CUSTOM))},
                "python": f"{paths[entry['track']]}/bin/python",
            }
        )
    return found
