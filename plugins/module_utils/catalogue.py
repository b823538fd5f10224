# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The catalogue of instances: merged by name from three variables, checked, defaults filled in.

An instance is one vLLM server process: one model, one port.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Optional

from . import instance_rules
from .chat_templates import names as chat_templates
from .errors import ManyRefused, Refused
from .flags import Flags, number, plain
from .flags import find as find_flags
from .instance_keys import KEYS, is_text
from .instance_rules import change
from .networks import is_loopback
from .own_tracks import known as known_tracks
from .track_choice import candidates
from .tracks import AUTO, Track
from .tracks import track as find_track

VARIABLES = ("vllm_instances", "vllm_instances_group", "vllm_instances_host")
MAPPINGS = ("args", "environment")  # merged by their own keys
WORLD = ("pipeline-parallel-size", "prefill-context-parallel-size", "data-parallel-size", "data-parallel-size-local", "nnodes")
JUDGED = ("__vllm_judged", "__vllm_planned")  # what roles/vllm keeps of a server's plan
CHOSEN = "__vllm_track_name"  # what roles/vllm keeps of its choice
LEFT_OUT = "vllm_gpus_left_out"
EVERYWHERE = ("0.0.0.0", "::")


def merge(*lists: Optional[Sequence[Any]]) -> list[dict[str, Any]]:
    """Merge lists of instances by ``name``, later ones over earlier ones, key by key; ``args`` and ``environment`` too.

    The order is that of first mention. Raises Refused for a list that is not one, an entry without a name, or a name
    that stands twice in one list.
    """
    merged: dict[str, dict[str, Any]] = {}
    for variable, entries in zip(VARIABLES, lists):
        seen: set[str] = set()
        if entries is not None and not isinstance(entries, (list, tuple)):
            raise Refused(variable, "is not a list.", "Write a list of instances: - name: NAME")
        for entry in entries or []:
            if not isinstance(entry, Mapping) or not is_text(entry.get("name")):
                raise Refused(variable, "has an entry without a name.", "Begin each with: - name: NAME")
            name = entry["name"]
            if name in seen:
                raise Refused(f"{variable} {name}", "stands twice in this list.", "Join the two, or give one another name.")
            seen.add(name)
            merged[name] = _over(merged.get(name, {}), entry)
    return [_without_nulls(entry) for entry in merged.values()]


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**below, **above}
    for key in MAPPINGS:
        if isinstance(below.get(key), Mapping) and isinstance(above.get(key), Mapping):
            joined[key] = {**below[key], **above[key]}
    return joined


def overlay(below: Any, above: Optional[Sequence[Any]]) -> Any:
    """Return a list of instances with another laid over it by name; what is null stays, to take away what other lists say."""
    if not isinstance(below or [], list) or not all(isinstance(entry, Mapping) and is_text(entry.get("name")) for entry in below or []):
        return below  # merge says what is wrong with it
    merged = {entry["name"]: dict(entry) for entry in below or []}
    for entry in above or []:
        merged[entry["name"]] = _over(merged.get(entry["name"], {}), entry)
    return list(merged.values())


def _without_nulls(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is null: so a later list takes away what an earlier one says."""
    kept = {key: value for key, value in entry.items() if value is not None}
    for key in MAPPINGS:
        if isinstance(kept.get(key), Mapping):
            kept[key] = {name: value for name, value in kept[key].items() if value is not None}
    return kept


def instances(
    lists: Sequence[Optional[Sequence[Any]]], track: Track, known: Optional[Mapping[str, Track]] = None, left_out: Collection[Any] = ()
) -> list[dict[str, Any]]:
    """Merge, check and complete one server's instances.

    ``track`` is that of an instance which names none; ``known`` are those to choose from; ``left_out`` are GPUs that nobody gets
    (what is no number among them stands for one that is not known yet). Returns a dict per instance with every
    name of KEYS (None: not given, vLLM decides), those with ``state: absent`` included. Raises ManyRefused with every mistake
    found, so that an inventory is mended in one go.
    """
    complete: list[dict[str, Any]] = []
    refusals: list[Refused] = []
    gpus = []
    for entry in merge(*lists):
        try:
            own = track_of(entry, track, known)
        except Refused as refused:
            refusals.append(refused)
            continue
        problems = instance_rules.problems(entry, own)
        refusals += problems
        if not problems:
            complete.append(_complete(entry, own))
            gpus += [complete[-1]] if own.device == "cuda" and complete[-1]["state"] == "present" else []
    refusals += _ports([instance for instance in complete if instance["state"] == "present"])
    refusals += [*_gpu_counts(gpus), *_assign_gpus(gpus, left_out)]
    if refusals:
        raise ManyRefused(refusals)
    return complete


def track_of(entry: Mapping[str, Any], track: Track, known: Optional[Mapping[str, Track]]) -> Track:
    """Return an instance's track: its own, or the server's; raise Refused for a name that is none."""
    own = entry.get("track")
    return track if own is None or entry.get("state") == "absent" or not is_text(own) else find_track(own, known, str(entry["name"]))


def undecided(
    lists: Sequence[Optional[Sequence[Any]]],
    choice: Sequence[Track],
    known: Optional[Mapping[str, Track]] = None,
    left_out: Collection[Any] = (),
) -> list[dict[str, Any]]:
    """Return instances as :func:`instances` does, of a server whose track will be one of ``choice``, the likeliest first.

    Raises ManyRefused where none of them can have these instances, with what all of them refuse.
    """
    found: list[list[Refused]] = []
    for track in choice:
        try:
            return instances(lists, dataclasses.replace(track, name=AUTO), known, left_out)
        except Refused as refused:
            found.append(refused.refusals if isinstance(refused, ManyRefused) else [refused])
    raise ManyRefused(common(found))


def common(found: Sequence[Sequence[Refused]]) -> list[Refused]:
    """Return, of what several judgements refuse, what all do, in the first one's words; all of the first, where they share nothing."""
    shared = [one for one in found[0] if all(any(one.where == other.where for other in others) for others in found[1:])]
    return shared or list(found[0])


def _complete(entry: Mapping[str, Any], track: Track) -> dict[str, Any]:
    full = {name: entry.get(name, key.default) for name, key in KEYS.items()}
    full["track"] = track.name
    if full["served_model_name"] is None:
        full["served_model_name"] = [full["name"]]
    if full["enable_auto_tool_choice"] is None:
        full["enable_auto_tool_choice"] = full["tool_call_parser"] is not None
    full["args"] = _arguments(full["args"], find_flags(track.vllm))
    full["environment"] = {name: str(value) for name, value in full["environment"].items()}
    return full


def _arguments(written: Mapping[str, Any], known: Optional[Flags]) -> dict[str, Any]:
    """Return flags by their long names, as every release's configuration file understands them: releases before 0.31 ignore `false`."""
    found = {}
    for given, said in written.items():
        flag = known.find(plain(given)) if known else None
        name = flag.name if flag else plain(given)
        value = _plain_number(said) if flag and flag.kind in ("int", "size") and not flag.several else said
        if value is None:
            continue
        if value is not False:
            found[name] = value
        elif flag and flag.default is not False:
            found[f"no-{name}"] = True
    return found


def _plain_number(value: Any) -> Any:
    """Return a number that stands as text; None for what vLLM takes for "not given"; anything else as it is."""
    found = number(value)
    return None if value in ("", "None") else value if found is None else found


def _gpu_counts(present: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Find an instance that names more or fewer GPUs than it runs on."""
    problems = []
    for instance in present:
        size, gpus = world_size(instance), instance["gpus"]
        if gpus is not None and len(gpus) != size:
            where = f"vllm_instances {instance['name']}: gpus"
            why = f"names {len(gpus)}, and with tensor_parallel_size {instance['tensor_parallel_size']} it runs on {size}."
            proposal = change(instance["name"], gpus=None)
            problems.append(Refused(where, why, f"Name {size}, or leave gpus out to have them assigned.", proposal))
    return problems


def _assign_gpus(present: Sequence[dict[str, Any]], left_out: Collection[Any]) -> list[Refused]:
    """Give each instance that names no GPUs the lowest that nobody has, and find two that want one.

    Needs no look at the server: how many there really are is judged by the resolver.
    """
    problems = []
    holders: dict[int, str] = {}
    for instance in present:
        for gpu in instance["gpus"] or []:
            other = holders.setdefault(gpu, instance["name"])
            if other != instance["name"]:
                why = f"the GPU {gpu} is {other}'s already."
                problems.append((instance, why))
        gone = [gpu for gpu in instance["gpus"] or [] if gpu in left_out]
        if gone:
            problems.append((instance, f"{LEFT_OUT} leaves out the GPU {gone[0]}."))
    free = (number for number in itertools.count() if number not in holders and number not in left_out)
    refusals = []
    for instance, why in problems:
        numbers = list(itertools.islice(free, world_size(instance)))
        where = f"vllm_instances {instance['name']}: gpus"
        refusals.append(Refused(where, why, f"Write gpus: {numbers}, or leave gpus out.", change(instance["name"], gpus=numbers)))
    for instance in present:
        if instance["gpus"] is None:
            instance["gpus"] = list(itertools.islice(free, world_size(instance)))
    return refusals


def _ports(present: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Find two instances of one server that want one port of one address."""
    problems = []
    used = {entry["port"] for entry in present}
    holders: dict[int, list[Mapping[str, Any]]] = {}
    for entry in present:
        before = holders.setdefault(entry["port"], [])
        other = next((row["name"] for row in before if _overlap(row["host"], entry["host"])), None)
        before.append(entry)
        if other:
            port = next(number for number in [*range(entry["port"] + 1, 1 << 16), *range(1024, 1 << 16)] if number not in used)
            used.add(port)
            where, why = f"vllm_instances {entry['name']}: port", f"the port {entry['port']} is {other}'s already."
            instead = f"Give one of the two another port, such as {port}."
            problems.append(Refused(where, why, instead, change(entry["name"], port=port)))
    return problems


def _overlap(one: str, two: str) -> bool:
    address, other = _spelt(one), _spelt(two)
    return address == other or address in EVERYWHERE or other in EVERYWHERE


def _spelt(address: str) -> str:
    """Return an address in its usual spelling; a name stays."""
    try:
        return str(ipaddress.ip_address("127.0.0.1" if address == "localhost" else address))
    except ValueError:
        return address


def world_size(instance: Mapping[str, Any]) -> int:
    """Return how many GPUs of its server an instance runs on.

    Each rank of tensor, pipeline and data parallelism has its own; of several nodes (``nnodes``, or data-parallel replicas
    beyond ``data-parallel-size-local``) the others are other servers'.
    """
    sizes = {flag: found for flag in WORLD if (found := number(instance["args"].get(flag))) is not None}
    one = math.prod([instance["tensor_parallel_size"], sizes.get(WORLD[0], 1), sizes.get(WORLD[1], 1)])
    if "data-parallel-size-local" in sizes:
        return int(one * sizes["data-parallel-size-local"])
    return int(max(1, one * sizes.get("data-parallel-size", 1) // sizes.get("nnodes", 1)))


def config(instance: Mapping[str, Any], model: str, template: str, more: Optional[Mapping[str, Any]] = None) -> dict[str, Any]:
    """Return what goes into the YAML file for `vllm serve --config`: long flag names, only what was asked for.

    ``model`` is the path that the server loads, ``template`` that of a chat template of this collection; ``more`` are
    flags that the role sets where the instance has none. vLLM reads lists as several words and mappings as JSON.
    """
    wanted = {"model": model}
    for name, key in KEYS.items():
        if key.flag and instance[name] is not None and instance[name] is not False:
            wanted[name.replace("_", "-")] = instance[name]
    if own_template(instance):
        wanted["chat-template"] = template
    return {**wanted, **(more or {}), **instance["args"]}


def own_flags(release: str, drain_seconds: int) -> dict[str, Any]:
    """Return the flags that the role sets where a release has them.

    A stop lets running requests end; and what the start program asks every few seconds is not worth a line in the journal.
    """
    known = find_flags(release)
    wanted = {"shutdown-timeout": int(drain_seconds) or None, "disable-access-log-for-endpoints": "/health,/metrics"}
    return {name: value for name, value in wanted.items() if value is not None and known and known.find(name)}


def own_template(instance: Mapping[str, Any]) -> bool:
    """Tell whether an instance uses a chat template that this collection brings."""
    return instance["chat_template"] in chat_templates()


def catalogue(hostvars: Mapping[str, Mapping[str, Any]], servers: Sequence[str], track: str) -> list[dict[str, Any]]:
    """Return the instances of all servers, each with ``server`` and the ``base_url`` that others reach it by.

    ``track`` is used for a server whose inventory names none; one whose track is chosen, and not yet looked at, has what each
    choice would give it. A server that is refused is left out where its
    ``vllm_plan_strict`` is false; otherwise Refused is raised for its inventory.
    """
    found = []
    for server in servers:
        variables = hostvars[server]
        strict = str(variables.get("vllm_plan_strict", True)).lower() not in ("false", "no", "off", "0")
        judged = [variables.get(name) or {} for name in JUDGED]
        if not strict and any(verdict.get("ok") is False for verdict in judged):
            continue
        try:
            entries = server_instances(variables, track)
        except Refused:
            if strict:
                raise
            continue
        for instance in entries:
            if instance["state"] == "present":
                # without what only its own server may know: a team may put a token into environment
                known = {key: value for key, value in instance.items() if key != "environment"}
                found.append({**known, "server": server, "base_url": base_url(server, instance)})
    return found


def server_instances(variables: Mapping[str, Any], track: str) -> list[dict[str, Any]]:
    """Return a server's instances by its variables, with the track that was chosen when somebody looked."""
    lists = [variables.get(name) for name in VARIABLES]
    known = known_tracks(variables.get("vllm_tracks"))
    # by number once somebody has looked, where the inventory has a serial number or a UUID
    left_out = variables.get(f"__{LEFT_OUT}") or variables.get(LEFT_OUT) or ()
    name = str(variables.get(CHOSEN) or variables.get("vllm_track", track))
    if name == AUTO:
        return undecided(lists, candidates(str(variables.get("python_version") or ""), known), known, left_out)
    return instances(lists, find_track(name, known), known, left_out)


def base_url(server: str, instance: Mapping[str, Any]) -> str:
    """Return where an instance answers: its own address where it listens on one, else its server's name."""
    host = server if instance["host"] in EVERYWHERE else instance["host"]
    return f"http://{f'[{host}]' if ':' in host else host}:{instance['port']}/v1"


def local_url(instance: Mapping[str, Any]) -> str:
    """Return where a server reaches its own instance."""
    return base_url("127.0.0.1", instance).removesuffix("/v1")


def is_local(instance: Mapping[str, Any]) -> bool:
    """Tell whether an instance can be reached from its own server only."""
    return is_loopback(instance["host"])
