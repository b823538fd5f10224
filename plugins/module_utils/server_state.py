# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a server, as it is now, can run what the inventory gives it. Judged before anything on it is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .catalogue import EVERYWHERE, own_template
from .chat_templates import names as chat_templates
from .errors import Refused
from .folder_digest import archive_digest, archive_kind, source_digest
from .instance_rules import change
from .layout import hub_id, model_path
from .model_manifest import parse
from .port_moves import in_the_way, rows
from .units import unit_name

GIB = 1 << 30
OLLAMA = "ollama.service"


def problems(
    server: str,
    instances: Sequence[Mapping[str, Any]],
    observed: Mapping[str, Any],
    layout: Mapping[str, Any],
    space_gib: float,
) -> list[Refused]:
    """Return what stands in the way of instances (those with ``state: absent`` give up their ports).

    ``observed`` is what ownmetal.codex.tree saw: ports, paths (of chat templates), environments (whether they are whole), and free_space
    of the environments' directory. ``space_gib`` is what a new environment needs.
    """
    found = []
    missing = [path for path in layout["environments"].values() if not observed["environments"][path]]
    if missing:
        free, needed = min(observed["free_space"].values()) / GIB, space_gib * len(missing)
        if free < needed:
            many = "an environment" if len(missing) == 1 else f"{len(missing)} environments"
            why = f"{server} has {free:.1f} GiB free for it, and building {many} takes {needed:g} GiB."
            found.append(Refused("vllm_directory", why, "Free some space, or name a directory on a larger disk."))
    ours = {unit_name(instance["name"]) for instance in instances}
    if layout.get("replace_ollama"):
        ours.add(OLLAMA)
    found += _rings(instances, observed["ports"])
    holders = ((observed.get("gpus") or {}).get("nvidia") or {}).get("holders") or []
    for instance in instances:
        if instance["state"] == "present":
            found += [*_template(server, instance, observed["paths"]), *_port(server, instance, ours, observed["ports"])]
            found += [*_gpus(server, instance, ours, holders), *_cpus(server, instance, observed.get("system", {}).get("cpus"))]
    return found


def unnamed(server: str, instances: Sequence[Mapping[str, Any]], releases: Mapping[str, Mapping[str, Any]]) -> list[Refused]:
    """Return a warning for each instance of the server that its inventory does not name, with ``state: absent`` neither."""
    known = {instance["name"] for instance in instances}
    there = sorted(os.path.basename(home) for home, seen in releases.items() if seen["current"] is not None)
    why = f"is on {server}, and its inventory does not name it: it is left as it is."
    return [
        Refused(f"vllm_instances {name}", why, f"To take it away: {{name: {name}, state: absent}}.") for name in there if name not in known
    ]


def files_to_see(instances: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> list[str]:
    """Return the paths whose presence :func:`problems` wants to know."""
    paths = [*layout["environments"].values()]
    for instance in instances:
        model = model_path(instance, layout["models"])
        paths += [model]
        paths += [instance["chat_template"]] if instance["chat_template"] and not own_template(instance) else []
    return paths


def _template(server: str, instance: Mapping[str, Any], paths: Mapping[str, Any]) -> list[Refused]:
    template = instance["chat_template"]
    if template and not own_template(instance) and not paths[template]["exists"]:
        where = f"vllm_instances {instance['name']}: chat_template"
        instead = f"Put it there, correct the path, or write one of this collection's: {', '.join(chat_templates())}."
        return [Refused(where, f"{server} has no file {template}.", instead, change(instance["name"], chat_template=None))]
    return []


def _port(server: str, instance: Mapping[str, Any], ours: set[str], ports: Mapping[str, Any]) -> list[Refused]:
    for holder in ports[str(instance["port"])]:
        overlap = instance["host"] in EVERYWHERE or holder["address"] in (*EVERYWHERE, instance["host"])
        if overlap and holder.get("unit") not in ours:
            why = f"{instance['port']} on {server} is taken by {_who(holder)}."
            instead = "Give the instance another port, or stop that program."
            return [_in_the_way(f"vllm_instances {instance['name']}: port", why, instead, holder)]
    return []


def _rings(instances: Sequence[Mapping[str, Any]], ports: Mapping[str, Any]) -> list[Refused]:
    """Find instances that take one another's ports in a ring: none can be switched, and proved, before the others."""
    present = [one for one in instances if one["state"] == "present"]
    names = {unit_name(one["name"]): one["name"] for one in present}
    takes = {}
    for one in present:
        held = [row for row in ports[str(one["port"])] if in_the_way((one["host"], one["port"]), (row["address"], one["port"]))]
        takes[one["name"]] = {names[row["unit"]] for row in held if row.get("unit") in names} - {one["name"]}
    try:
        rows(takes)
    except Refused as refused:
        return [refused]
    return []


def _gpus(server: str, instance: Mapping[str, Any], ours: set[str], holders: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Find who has an instance's GPUs. One that says itself which share of them it takes is believed."""
    for holder in holders if instance["gpu_memory_utilization"] is None else ():
        memory = holder.get("memory")
        if holder["gpu"] in (instance["gpus"] or ()) and holder.get("unit") not in ours and (memory is None or memory >= GIB):
            size = f"{memory / GIB:.0f} GiB of " if memory else ""
            why = f"{size}the GPU {holder['gpu']} of {server} {'are' if size else 'is'} held by {_who(holder)}."
            instead = "Stop that program, name other GPUs, or write the share that is left: gpu_memory_utilization."
            return [_in_the_way(f"vllm_instances {instance['name']}: gpus", why, instead, holder)]
    return []


def _cpus(server: str, instance: Mapping[str, Any], count: Optional[int]) -> list[Refused]:
    """Find CPUs that a server does not have: systemd would not start the instance."""
    highest = max((int(number) for number in re.findall(r"\d+", instance["cpus"] or "")), default=0)
    if not count or highest < count:
        return []
    why = f"{server} has the CPUs 0 to {count - 1}, and no CPU {highest}."
    return [Refused(f"vllm_instances {instance['name']}: cpus", why, "Write others, or remove it.", change(instance["name"], cpus=None))]


def _who(holder: Mapping[str, Any]) -> str:
    return f"{holder.get('process') or 'another program'} (pid {holder.get('pid', '?')}, {holder.get('unit') or 'no unit'})"


def _in_the_way(where: str, why: str, instead: str, holder: Mapping[str, Any]) -> Refused:
    if holder.get("unit") == OLLAMA:
        words = "Write vllm_replace_ollama: true to have it stopped and disabled (its models stay, and uninstalling brings it back)."
        return Refused(where, why, words, {"vllm_replace_ollama": True})
    return Refused(where, why, instead)


def models_missing(instances: Sequence[Mapping[str, Any]], paths: Mapping[str, Any], layout: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the models of the controller that are not on the server yet: source, id, kind (of an archive, or empty), sha256."""
    missing = {}
    for instance in instances:
        path, source = model_path(instance, layout["models"]), instance["model_source"]
        if source and not paths[path]["exists"]:
            kind = archive_kind(source)
            sha256 = archive_digest(source) if kind else ""
            missing[path] = {"source": source, "id": source_digest(source), "kind": kind, "sha256": sha256}
    return list(missing.values())


def hub_models(instances: Sequence[Mapping[str, Any]], paths: Mapping[str, Any], layout: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the models of the hub that are not on the server yet, as ownmetal.codex.vllm_model takes them.

    ``paths`` is what ownmetal.codex.tree saw; a model whose path was not looked at counts as missing.
    """
    missing: dict[str, dict[str, Any]] = {}
    for instance in instances:
        path = model_path(instance, layout["models"]) if instance["model_repository"] else ""
        if path and path not in missing and not paths.get(path, {}).get("exists", False):
            missing[path] = {
                "id": hub_id(instance),
                "instance": instance["name"],
                "repository": instance["model_repository"],
                "revision": instance["model_revision"],
                "files": instance["model_files"] or [],
                "manifest": _manifest(instance),
            }
    return list(missing.values())


def _manifest(instance: Mapping[str, Any]) -> Optional[str]:
    path = instance["model_manifest"]
    if not path:
        return None
    where = f"vllm_instances {instance['name']}: model_manifest"
    try:
        with open(path, encoding="utf-8") as stream:
            return parse(stream.read(), where).text()
    except (OSError, UnicodeDecodeError) as error:
        why = f"{path} cannot be read: {error.strerror if isinstance(error, OSError) else 'it is not text'}."
        raise Refused(where, why, "Write it with playbooks/lock_model.yml, or correct the path.") from error


def models_to_see(instances: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> list[str]:
    """Return the folders on the server whose models are judged: a folder of the controller is read there."""
    kept = [one for one in instances if not one["model_source"] or archive_kind(one["model_source"])]
    return list(dict.fromkeys(model_path(one, layout["models"]) for one in kept))


def fetched(instance: Mapping[str, Any], observed: Mapping[str, Any], layout: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what was seen of a model that comes from elsewhere: of its folder, else of the hub; nothing when of neither."""
    path = model_path(instance, layout["models"])
    if observed["paths"].get(path, {}).get("exists"):
        return observed["models"].get(path) or {}
    return observed.get("hub", {}).get("seen", {}).get(path.rpartition("/")[2]) or {}
