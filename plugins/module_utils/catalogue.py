# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The catalogue of instances: merged by name from three variables, checked, defaults filled in.

An instance is one vLLM server process: one model, one port. Its keys are vLLM's own flag names with
underscores (sources: `vllm serve` of the release, by tools/flag_catalogue.py), so an operator who knows
vLLM knows the inventory.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from .data_files import Flags, Track, flags, nearest
from .data_files import track as find_track
from .errors import ManyRefused, Refused

VARIABLES = ("vllm_instances", "vllm_instances_group", "vllm_instances_host")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
VENDOR_NAMES = re.compile(r"(gpt-\d|gpt-oss|codex-|o\d)", re.IGNORECASE)
ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")
# vLLM's key travels as a credential; the developer mode opens routes that change the server (vLLM's security notes)
FORBIDDEN_ENVIRONMENT = {"VLLM_API_KEY": "the key is vllm_api_key", "VLLM_SERVER_DEV_MODE": "it opens unguarded routes"}
EVERYWHERE = ("0.0.0.0", "::")
HIDDEN = tuple(f"/{name}/" for name in ("home", "root", "tmp", "var/tmp"))  # by ProtectHome and PrivateTmp of the unit


@dataclass(frozen=True)
class Key:
    """A key of an instance: what it must be, and what it is when not given."""

    check: Callable[[Any], bool]
    kind: str
    default: Any = None
    flag: bool = True


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\n" not in value


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_text(name) for name in value)


def _share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


def _yes(value: Any) -> bool:
    return isinstance(value, bool)


def _port(value: Any) -> bool:
    return _count(value) and 1024 <= value <= 65535


def _path(value: Any) -> bool:
    return _text(value) and value.startswith("/")


def _host(value: Any) -> bool:
    if not _text(value):
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return bool(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value)) and not re.fullmatch(r"[\d.]+", value)
    return True


def _mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


KEYS: dict[str, Key] = {
    "name": Key(
        lambda value: _text(value) and bool(NAME.fullmatch(value)), "lower-case letters, digits and dashes, at most 40", flag=False
    ),
    "state": Key(lambda value: value in ("present", "absent"), "present or absent", "present", flag=False),
    "model": Key(_path, "the path of a folder on the server, starting with /", flag=False),
    "model_source": Key(_path, "the path of a folder on the controller, starting with /", flag=False),
    "served_model_name": Key(_names, "a list of names", flag=True),
    "host": Key(_host, "an address or a name", "127.0.0.1"),
    "port": Key(_port, "a number from 1024 to 65535", 8000),
    "tensor_parallel_size": Key(_count, "a whole number of GPUs, at least 1", 1),
    "enable_auto_tool_choice": Key(_yes, "true or false"),
    "tool_call_parser": Key(_text, "the name of a parser"),
    "reasoning_parser": Key(_text, "the name of a parser"),
    "chat_template": Key(_path, "the path of a file on the server, starting with /"),
    "response_role": Key(_text, "the name of a role"),
    "max_model_len": Key(_count, "a whole number of tokens"),
    "max_num_seqs": Key(_count, "a whole number of requests"),
    "max_num_batched_tokens": Key(_count, "a whole number of tokens"),
    "gpu_memory_utilization": Key(_share, "a share above 0 and at most 1, such as 0.9"),
    "trust_remote_code": Key(_yes, "true or false", False),
    "args": Key(_mapping, "a mapping of further vLLM flags", {}, flag=False),
    "environment": Key(_mapping, "a mapping of environment variables", {}, flag=False),
}


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
            if not isinstance(entry, Mapping) or not _text(entry.get("name")):
                raise Refused(variable, "has an entry without a name.", "Begin each with: - name: NAME")
            name = entry["name"]
            if name in seen:
                raise Refused(f"{variable} {name}", "stands twice in this list.", "Join the two, or give one another name.")
            seen.add(name)
            merged[name] = _over(merged.get(name, {}), entry)
    return list(merged.values())


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    joined = {**below, **above}
    for key in ("args", "environment"):
        if isinstance(below.get(key), Mapping) and isinstance(above.get(key), Mapping):
            joined[key] = {**below[key], **above[key]}
    return joined


def instances(lists: Sequence[Optional[Sequence[Any]]], track: str) -> list[dict[str, Any]]:
    """Merge, check and complete one server's instances.

    Returns a dict per instance with every name of KEYS (None: not given, vLLM decides), those with ``state: absent``
    included. Raises ManyRefused with every mistake found, so that an inventory is mended in one go.
    """
    found = find_track(track)
    known = flags(found.vllm)
    complete, refusals = [], []
    for entry in merge(*lists):
        problems = _problems(entry, found, known)
        refusals += problems
        if not problems:
            complete.append(_complete(entry))
    refusals += _conflicts(complete)
    if refusals:
        raise ManyRefused(refusals)
    return complete


def _complete(entry: Mapping[str, Any]) -> dict[str, Any]:
    full = {name: entry.get(name, key.default) for name, key in KEYS.items()}
    if full["served_model_name"] is None:
        full["served_model_name"] = [full["name"]]
    if full["enable_auto_tool_choice"] is None:
        full["enable_auto_tool_choice"] = full["tool_call_parser"] is not None
    full["args"] = {name.replace("_", "-").lstrip("-"): value for name, value in full["args"].items()}
    full["environment"] = {name: str(value) for name, value in full["environment"].items()}
    return full


def _problems(entry: Mapping[str, Any], track: Track, known: Flags) -> list[Refused]:
    where = f"vllm_instances {entry['name']}"
    problems = []
    for name, value in entry.items():
        if name not in KEYS:
            problems.append(_unknown_key(where, str(name), known))
        elif value is not None and not KEYS[name].check(value):
            # a mapping may hold a token
            shown = "what it is" if KEYS[name].check is _mapping else repr(value)
            problems.append(Refused(f"{where}: {name}", f"cannot be {shown}.", f"Write {KEYS[name].kind}."))
    if problems or entry.get("state") == "absent":
        return problems
    return [*_model(where, entry), *_parsers(where, entry, known), *_names_shown(where, entry), *_more(where, entry, track, known)]


def _unknown_key(where: str, name: str, known: Flags) -> Refused:
    flag = name.replace("_", "-")
    if flag in known.flags:
        return Refused(f"{where}: {name}", "is a vLLM flag, but not one with a key of its own.", f"Write it under args: {{{flag}: ...}}.")
    return Refused(f"{where}: {name}", "is not a key of an instance.", nearest(name, KEYS, f"The keys are: {', '.join(KEYS)}."))


def _model(where: str, entry: Mapping[str, Any]) -> list[Refused]:
    if bool(entry.get("model")) == bool(entry.get("model_source")):
        why = "has both model and model_source." if entry.get("model") else "has no model."
        instead = "Write model: /path/of/a/folder/on/the/server, or model_source: /path/of/a/folder/on/the/controller, one of the two."
        return [Refused(where, why, instead)]
    hidden = {key: entry[key] for key in ("model", "chat_template") if str(entry.get(key) or "").startswith(HIDDEN)}
    return [
        Refused(
            f"{where}: {key}", f"the unit does not see {path}: homes and /tmp are hidden from it.", "Put it elsewhere, such as below /srv."
        )
        for key, path in hidden.items()
    ]


def _parsers(where: str, entry: Mapping[str, Any], known: Flags) -> list[Refused]:
    problems = []
    for key, names in (("tool_call_parser", known.tool_parsers), ("reasoning_parser", known.reasoning_parsers)):
        value = entry.get(key)
        if value is not None and value not in names:
            instead = f"{nearest(value, names, 'Choose one of them.')} vLLM {known.release} has: {', '.join(names)}."
            problems.append(Refused(f"{where}: {key}", f"vLLM {known.release} has no parser {value!r}.", instead))
    if entry.get("enable_auto_tool_choice") and not entry.get("tool_call_parser"):
        why = "automatic tool choice needs a parser that finds the calls in the model's text."
        problems.append(Refused(f"{where}: enable_auto_tool_choice", why, "Add tool_call_parser, such as hermes for Qwen 2.5."))
    return problems


def _names_shown(where: str, entry: Mapping[str, Any]) -> list[Refused]:
    return [
        Refused(
            f"{where}: served_model_name",
            f"Codex takes {name!r} for one of its vendor's models and sends it tools that vLLM does not know.",
            "Give it a name of your own, such as team-coder.",
        )
        for name in entry.get("served_model_name") or [entry["name"]]
        if VENDOR_NAMES.match(name)
    ]


def _more(where: str, entry: Mapping[str, Any], track: Track, known: Flags) -> list[Refused]:
    problems = []
    own = {name.replace("_", "-"): name for name, key in KEYS.items() if key.flag}
    for name in entry.get("args") or {}:
        flag = name.lstrip("-").replace("_", "-")
        if flag in own or flag == "model":
            problems.append(
                Refused(f"{where}: args: {name}", "has a key of its own.", f"Write {own.get(flag, 'model')}: beside name: instead.")
            )
        elif flag == "api-key":
            problems.append(Refused(f"{where}: args: {name}", "would be seen in the process list.", "Set vllm_api_key instead."))
        elif flag not in known.flags:
            instead = nearest(flag, known.flags, f"`vllm serve --help=all` of that release lists its {len(known.flags)} flags.")
            problems.append(Refused(f"{where}: args: {name}", f"vLLM {known.release} has no flag --{flag}.", instead))
    for name in entry.get("environment") or {}:
        if name in FORBIDDEN_ENVIRONMENT:
            problems.append(Refused(f"{where}: environment: {name}", f"is not allowed: {FORBIDDEN_ENVIRONMENT[name]}.", "Remove it."))
        elif not ENVIRONMENT_NAME.fullmatch(name) or any(mark in str(entry["environment"][name]) for mark in "\n\0"):
            problems.append(Refused(f"{where}: environment: {name}", "is not an environment variable of one line.", "Write NAME: value."))
    if track.device == "cpu" and entry.get("gpu_memory_utilization") is not None:
        instead = "Remove it; the KV cache's size is environment: {VLLM_CPU_KVCACHE_SPACE: 4} (GiB)."
        problems.append(Refused(f"{where}: gpu_memory_utilization", f"the track {track.name} has no GPU.", instead))
    return problems


def _conflicts(complete: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Find two instances of one server that want one port."""
    problems = []
    holders: dict[int, str] = {}
    for entry in complete:
        if entry["state"] == "absent":
            continue
        other = holders.setdefault(entry["port"], entry["name"])
        if other != entry["name"]:
            why = f"the port {entry['port']} is {other}'s already."
            problems.append(
                Refused(f"vllm_instances {entry['name']}: port", why, f"Give one of the two another port, such as {max(holders) + 1}.")
            )
    return problems


def config(instance: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return what goes into the YAML file for `vllm serve --config`: long flag names, only what was asked for.

    ``model`` is the path that the server loads. vLLM reads lists as several words and mappings as JSON.
    """
    wanted = {"model": model}
    for name, key in KEYS.items():
        if key.flag and instance[name] is not None:
            wanted[name.replace("_", "-")] = instance[name]
    return {**wanted, **instance["args"]}


def catalogue(hostvars: Mapping[str, Mapping[str, Any]], servers: Sequence[str], track: str) -> list[dict[str, Any]]:
    """Return the instances of all servers, each with ``server`` and the ``base_url`` that others reach it by.

    ``track`` is used for a server whose inventory names none.
    """
    found = []
    for server in servers:
        variables = hostvars[server]
        lists = [variables.get(name) for name in VARIABLES]
        for instance in instances(lists, str(variables.get("vllm_track", track))):
            if instance["state"] == "present":
                # without what only its own server may know: a team may put a token into environment
                known = {key: value for key, value in instance.items() if key != "environment"}
                found.append({**known, "server": server, "base_url": base_url(server, instance)})
    return found


def base_url(server: str, instance: Mapping[str, Any]) -> str:
    """Return where an instance answers: its own address where it listens on one, else its server's name."""
    host = server if instance["host"] in EVERYWHERE else instance["host"]
    return f"http://{f'[{host}]' if ':' in host else host}:{instance['port']}/v1"


def local_url(instance: Mapping[str, Any]) -> str:
    """Return where a server reaches its own instance."""
    return base_url("127.0.0.1", instance).removesuffix("/v1")


def is_local(instance: Mapping[str, Any]) -> bool:
    """Tell whether an instance can be reached from its own server only."""
    try:
        return ipaddress.ip_address(instance["host"]).is_loopback
    except ValueError:
        return bool(instance["host"] == "localhost")
