# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The plan of a server: what will run, on which GPUs, whether it fits, and why not. For machines as a dict, for people as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import yaml

from . import compatibility
from .errors import Refused
from .instance_rules import model_name
from .memory import GIB
from .model_rules import Subject
from .resolver import Spec, Verdict
from .tracks import AUTO, Track


def plan(spec: Spec, verdict: Verdict, observed: Optional[Mapping[str, Any]] = None, obstacles: Sequence[Refused] = ()) -> dict[str, Any]:
    """Return the plan, which can be written as JSON.

    ``observed`` is what ownmetal.codex.tree saw, None where nobody looked; ``obstacles`` are what stands in the way of the
    server as it is now (ports, files, space). Sizes are in bytes, of one GPU (or of the host, on a CPU track).
    """
    refusals = [*verdict.refusals, *obstacles]
    track = verdict.track
    chosen = verdict.track is not None and spec.track == AUTO
    return {
        "server": spec.server,
        "ok": not refusals,
        "host": _host(observed) if observed else None,
        "track": {**_track(track), "chosen": chosen} if track else None,
        "tracks": _tracks(verdict),
        "instances": [_instance(subject) for subject in verdict.subjects],
        "refusals": [_words(refused) for refused in refusals],
        "warnings": [_words(refused) for refused in verdict.warnings],
        # what is in the way of the host itself, no inventory mends
        "proposal": dict(verdict.proposal) if verdict.proposal and not obstacles else None,
    }


def _host(observed: Mapping[str, Any]) -> dict[str, Any]:
    return {**observed["system"], **observed["gpus"]["nvidia"]}


def _track(track: Track) -> dict[str, Any]:
    release = compatibility.release(track.vllm)
    cuda = release.cuda if release and track.device == "cuda" else None
    return {"name": track.name, "vllm": track.vllm, "python": track.python, "device": track.device, "cuda": cuda}


def _tracks(verdict: Verdict) -> list[dict[str, Any]]:
    """Return the tracks that instances run on, each once."""
    used = {subject.track.name: subject.track for subject in verdict.subjects if subject.entry["track"] != AUTO}
    return [_track(track) for track in used.values()]


def _words(refused: Refused) -> dict[str, Any]:
    return {"where": refused.where, "why": refused.why, "instead": refused.instead}


def _instance(subject: Subject) -> dict[str, Any]:
    entry, fit = subject.entry, subject.fit()
    return {
        "name": entry["name"],
        "track": entry["track"],
        "model": model_name(entry),
        "family": subject.family.family.name if subject.family else None,
        "served_model_name": entry["served_model_name"],
        "host": entry["host"],
        "port": entry["port"],
        "gpus": entry["gpus"],
        "tensor_parallel_size": entry["tensor_parallel_size"],
        "context": subject.context or None,
        "unknown": None if fit else _unknown(subject),
        "memory": {
            "budget": fit.budget,
            "weights": fit.weights,
            "reserve": fit.reserve,
            "kv_cache": fit.kv_space,
            "kv_tokens": fit.tokens,
            "largest_context": fit.largest_context,
            "concurrency": round(fit.concurrency, 2),
            "fits": fit.fits,
        }
        if fit
        else None,
    }


def _unknown(subject: Subject) -> str:
    """Return why nobody can tell whether an instance fits."""
    if not subject.folder:
        return "the model was not seen"
    if subject.folder.get("problem"):
        return str(subject.folder["problem"])
    if subject.unknown:
        return subject.unknown
    if subject.unplanned:
        return f"{subject.unplanned} changes what it needs"
    return "the size of its GPUs was not seen"


TRACK = "track"  # a column where instances have several
COLUMNS = ("instance", "GPUs", "context", "weights", "reserve", "KV cache", "may use", "at once", "fits")


def report(plan: Mapping[str, Any]) -> str:
    """Return the plan as text of several lines, for people."""
    lines = [_headline(plan)]
    shown = plan["tracks"] or ([plan["track"]] if plan["track"] else [])
    lines += [f"  {_track_line(track, plan['track'])}" for track in shown]
    rows = [COLUMNS, *(_row(instance) for instance in plan["instances"])]
    if len({instance["track"] for instance in plan["instances"]}) > 1:
        names = [TRACK, *(instance["track"] for instance in plan["instances"])]
        rows = [(first, name, *more) for name, (first, *more) in zip(names, rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    if len(rows) > 1:
        lines += ["    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"  {line}" for line in refused_lines(plan, "REFUSED ")]
    lines += [f"  warning {_sentence(row)}" for row in plan["warnings"]]
    return "\n".join(lines)


def _track_line(track: Mapping[str, Any], own: Optional[Mapping[str, Any]]) -> str:
    device = f"CUDA {track['cuda']}" if track["cuda"] else track["device"].upper()
    chosen = " (chosen by vllm_track: auto)" if own and own["chosen"] and own["name"] == track["name"] else ""
    return f"{track['name']}: vLLM {track['vllm']}, Python {track['python']}, {device}{chosen}"


def refused_lines(plan: Mapping[str, Any], mark: str = "") -> list[str]:
    """Return what is refused, a line each, and the inventory that would be accepted."""
    lines = [f"{mark}{_sentence(row)}" for row in plan["refusals"]]
    proposal = plan["proposal"] or {}
    codex = {name: value for name, value in proposal.items() if name.startswith("codex_")}
    server = {name: value for name, value in proposal.items() if name not in codex}
    if server:
        lines.append(f"What would be accepted, merged into host_vars/{plan['server']}.yml (null takes away what stands elsewhere):")
        lines += [f"  {line}" for line in yaml.safe_dump(server, sort_keys=False).splitlines()]
    if codex:
        lines.append("What would be accepted, merged into the developer machines' variables:")
        lines += [f"  {line}" for line in yaml.safe_dump(codex, sort_keys=False).splitlines()]
    return lines


def _headline(plan: Mapping[str, Any]) -> str:
    verdict = "can run this" if plan["ok"] else "cannot run this"
    host = plan["host"]
    if not host:
        return f"{plan['server']} {verdict} (its inventory; nobody looked at the host)"
    cards: dict[str, int] = {}
    for card in host["gpus"]:
        name = f"{card['name']} ({_gib(card['memory'])})" if card["memory"] else card["name"]
        cards[name] = cards.get(name, 0) + 1
    gpus = ", ".join(f"{count} x {name}" for name, count in cards.items()) or "no GPU"
    driver = f", driver {host['driver']}" if host["driver"] else ""
    memory = f"{_gib(host['memory'])} of memory"
    return f"{plan['server']} {verdict}: {host['name']} {host['version']}, {host['machine']}, {memory}{driver}, {gpus}"


def _row(instance: Mapping[str, Any]) -> tuple[str, ...]:
    gpus = " ".join(map(str, instance["gpus"])) if instance["gpus"] else "-"
    context = str(instance["context"] or "?")
    fit = instance["memory"]
    if not fit:
        return (instance["name"], gpus, context, "?", "?", "?", "?", "?", f"unknown: {instance['unknown']}")
    sizes = [_gib(fit[key]) for key in ("weights", "reserve", "kv_cache", "budget")]
    return (instance["name"], gpus, context, *sizes, f"{fit['concurrency']:.1f}", "yes" if fit["fits"] else "NO")


def _sentence(row: Mapping[str, str]) -> str:
    return f"{row['where']}: {row['why']} {row['instead']}".strip()


def _gib(size: int) -> str:
    if size <= 0:
        return "none"
    return f"{size / GIB:.1f} GiB" if size > GIB // 10 else f"{size / (1 << 20):.1f} MiB"
