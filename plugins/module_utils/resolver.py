# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Can a server do what the inventory wants of it? A pure function: spec + host + models + data -> verdict.

A refusal is certain: what it names would fail. What only may fail is a warning. The rules are in instance_rules.py (the
inventory alone), host_rules.py (the track on the host) and model_rules.py (an instance's model, GPUs and users).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from . import catalogue, host_rules, model_rules
from .errors import ManyRefused, Refused
from .host_rules import Host
from .model_rules import Codex, Subject
from .pythons import PACKAGES, Source
from .track_choice import candidates, choose
from .tracks import AUTO, Track, tracks
from .tracks import track as find_track

ROUNDS = 8  # of mending: a mended mistake can uncover another
Models = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Spec:
    """What the inventory wants of one server.

    ``track`` is vllm_track, which may be "auto"; ``lists`` are vllm_instances, vllm_instances_group and vllm_instances_host;
    ``python`` is python_version, empty for the track's; ``codex`` are the developer machines that use the server; ``known`` are
    the tracks to choose from; ``source`` is where Pythons come from; ``left_out`` are GPUs that no instance gets, by number.
    """

    server: str
    track: str
    python: str
    lists: Sequence[Any]
    codex: Sequence[Codex] = ()
    known: Mapping[str, Track] = field(default_factory=tracks)
    source: Source = PACKAGES
    left_out: Sequence[Any] = ()


@dataclass(frozen=True)
class Verdict:
    """What came of it. No refusals: it can work.

    ``instances`` are those of the inventory, completed; ``subjects`` those that are to run, with all that is known of them.
    Both are empty where the inventory itself is refused. ``proposal`` is the nearest working set, as inventory variables,
    where a refusal leads to one. ``track`` is the server's, None where it is not known yet.
    """

    refusals: Sequence[Refused]
    warnings: Sequence[Refused] = ()
    instances: Sequence[Mapping[str, Any]] = ()
    subjects: Sequence[Subject] = ()
    proposal: Optional[Mapping[str, Any]] = None
    track: Optional[Track] = None


def resolve(spec: Spec, host: Optional[Host] = None, models: Optional[Models] = None) -> Verdict:
    """Judge a spec; ``models`` has, by instance, what model_folder.read_folder saw. What was not looked at is not judged."""
    verdict = judge(spec, host, models or {})
    if not verdict.refusals:
        return verdict
    return dataclasses.replace(verdict, proposal=_nearest_working_set(spec, host, models or {}, verdict))


def judge(spec: Spec, host: Optional[Host], models: Models) -> Verdict:
    """Return a verdict without a proposal."""
    try:
        if spec.track == AUTO and not host:
            return _undecided(spec, candidates(spec.python, spec.known), models)
        chosen = choose(spec.server, spec.python, host, spec.known, spec.source) if spec.track == AUTO and host else None
        track = chosen or find_track(spec.track, spec.known)
    except Refused as refused:
        return Verdict([refused])
    return _judge_with(spec, track, host, models)


def _undecided(spec: Spec, choice: Sequence[Track], models: Models) -> Verdict:
    """Judge a spec whose track will be one of ``choice``: refused is what each of them refuses, and what all warn of is told."""
    verdicts = [_judge_with(spec, track, None, models) for track in choice]
    able = next((verdict for verdict in verdicts if not verdict.refusals), None)
    refusals = [] if able else catalogue.common([verdict.refusals for verdict in verdicts])
    said = [{str(one) for one in verdict.warnings} for verdict in verdicts]
    warnings = [one for one in verdicts[0].warnings if all(str(one) in others for others in said)]
    first = able or verdicts[0]
    instances = [{**entry, "track": entry["track"] if _own(spec, entry["name"]) else AUTO} for entry in first.instances]
    return Verdict(refusals, warnings, instances, first.subjects)


def _own(spec: Spec, name: str) -> bool:
    """Tell whether an instance names its own track."""
    return any(entry["name"] == name and entry.get("track") for entry in catalogue.merge(*spec.lists))


def _judge_with(spec: Spec, track: Track, host: Optional[Host], models: Models) -> Verdict:
    try:
        instances = catalogue.instances(spec.lists, track, spec.known, spec.left_out)
    except Refused as refused:
        found = refused.refusals if isinstance(refused, ManyRefused) else [refused]
        about, warnings = _tracks(spec, {None: track}, host)
        return Verdict([*about, *found], warnings, track=track)
    present = [entry for entry in instances if entry["state"] == "present"]
    own = {entry["name"] for entry in present if _own(spec, entry["name"])}
    # a server's track that no instance uses installs nothing
    used: dict[Optional[str], Track] = {} if present and len(own) == len(present) else {None: track}
    for entry in present:
        if entry["name"] in own and spec.known[entry["track"]] not in used.values():
            used[entry["name"]] = spec.known[entry["track"]]
    refusals, warnings = _tracks(spec, used, host)
    theirs = {**spec.known, track.name: track}
    subjects = model_rules.subjects(spec.server, theirs, own, instances, host, models, spec.codex, spec.known, spec.source, spec.left_out)
    for subject in subjects:
        for certain, finding in model_rules.findings(subject):
            (refusals if certain else warnings).append(finding)
    refusals += model_rules.together(subjects)
    return Verdict(_once(refusals), _once(warnings), instances, subjects, track=track)


def _tracks(spec: Spec, used: Mapping[Optional[str], Track], host: Optional[Host]) -> tuple[list[Refused], list[Refused]]:
    """Return refusals and warnings of the tracks themselves, by the instance whose they are (None: the server's)."""
    refusals, warnings = [], []
    for instance, track in used.items():
        if instance is None:
            refusals += [*host_rules.python_problems(track, spec.python, host, spec.known, spec.source)]
        refusals += [*host_rules.problems(spec.server, track, host, spec.known, spec.source, instance)]
        warnings += [*host_rules.warnings(track, instance)]
    return refusals, warnings


def _once(refused: Sequence[Refused]) -> list[Refused]:
    """Return each sentence once: what is wrong with a developer machine is found with every instance."""
    return list({str(one): one for one in refused}.values())


def _nearest_working_set(spec: Spec, host: Optional[Host], models: Models, verdict: Verdict) -> Optional[dict[str, Any]]:
    """Follow the refusals' proposals until nothing is refused; None when they lead nowhere."""
    overlay: dict[str, Any] = {}
    for _ in range(ROUNDS):
        proposals = [refused.proposal for refused in verdict.refusals if refused.proposal]
        if not proposals:
            break
        # of proposals of one round the first that sets something stays, so that two do not fight; a later round is wiser
        step: dict[str, Any] = {}
        for proposal in proposals:
            step = combine(proposal, step)
        overlay = combine(overlay, step)
        verdict = judge(apply(spec, overlay), host, models)
    return overlay if overlay and not verdict.refusals else None


def combine(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one proposal over another."""
    entries = catalogue.overlay(below.get("vllm_instances_host"), above.get("vllm_instances_host"))
    codex = _deep(below.get("codex_extra_config", {}), above.get("codex_extra_config", {}))
    merged = {"vllm_instances_host": entries, "codex_extra_config": codex}
    return {**below, **above, **{name: value for name, value in merged.items() if value}}


def _deep(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with another laid over it, tables within it too."""
    both = {key for key in above if isinstance(below.get(key), Mapping) and isinstance(above[key], Mapping)}
    return {**below, **above, **{key: _deep(below[key], above[key]) for key in both}}


def apply(spec: Spec, proposal: Mapping[str, Any]) -> Spec:
    """Return the spec with a proposal laid over it."""
    everyone, group, host = spec.lists
    codex = [
        dataclasses.replace(
            one,
            version=proposal.get("codex_version", one.version),
            extra=_deep(one.extra, proposal.get("codex_extra_config", {})),
        )
        for one in spec.codex
    ]
    return dataclasses.replace(
        spec,
        track=proposal.get("vllm_track", spec.track),
        python=proposal.get("python_version", spec.python),
        lists=[everyone, group, catalogue.overlay(host, proposal.get("vllm_instances_host"))],
        codex=codex,
    )
