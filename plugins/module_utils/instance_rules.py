# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is wrong with one instance, told by the inventory and the compatibility data alone: no host is asked.

Each rule returns refusals, with the inventory that would be accepted where there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from . import compatibility
from .compatibility import older
from .errors import Refused, closest, nearest
from .flags import Flag, Flags, elsewhere, number, plain, releases, value_problem
from .flags import find as find_flags
from .host_rules import better_track
from .host_rules import proposal as track_proposal
from .instance_keys import KEYS, is_mapping
from .tracks import Track, tracks

CPU_SPACE = "VLLM_CPU_KVCACHE_SPACE"  # GiB
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# vLLM's key travels as a credential; the developer mode opens routes that change the server (vLLM's security notes)
FORBIDDEN_ENVIRONMENT = {
    "VLLM_API_KEY": "the key is vllm_api_key",
    "VLLM_SERVER_DEV_MODE": "it opens unguarded routes",
    "CUDA_VISIBLE_DEVICES": "the GPUs are the instance's gpus",
}
SECRET_FLAGS = {
    "api-key": ("would be seen in the process list.", "Set vllm_api_key instead."),
    "hf-token": ("would stand in a file that everyone on the server can read.", "Write environment: {HF_TOKEN: ...} instead."),
}
MODEL_KEYS = ("model", "model_source", "model_repository", "model_revision", "model_files", "model_manifest")
COMMIT_LIKE = re.compile(r"[0-9a-fA-F]{7,}")
RANKS = ("pipeline-parallel-size", "data-parallel-size", "prefill-context-parallel-size", "nnodes")
MOST_RANKS = 1024
HIDDEN = tuple(f"/{name}/" for name in ("home", "root", "tmp", "var/tmp"))  # by ProtectHome and PrivateTmp of the unit
OWN_FLAGS = {name.replace("_", "-"): name for name, key in KEYS.items() if key.flag} | {"model": "model", "device-ids": "gpus"}


def change(name: str, **keys: Any) -> dict[str, Any]:
    """Return a proposal: the inventory variable that lays ``keys`` over an instance. None takes a key away."""
    return {"vllm_instances_host": [{"name": name, **keys}]}


def problems(entry: Mapping[str, Any], track: Track) -> list[Refused]:
    """Return what is wrong with an instance as the inventory has it (merged, not completed)."""
    known = find_flags(track.vllm)
    found = [*_keys(entry, known)]
    if found or entry.get("state") == "absent":
        return found
    rules = (_model, _paths, _tool_calling, _parsers, _served_names, _environment)
    found += [refused for rule in rules for refused in rule(entry, track, known)]
    if known:
        found += [refused for name, value in (entry.get("args") or {}).items() for refused in _argument(entry, name, value, known)]
    if track.device == "cpu":
        found += _without_gpu(entry, track)
    return found


def _where(entry: Mapping[str, Any], *path: str) -> str:
    return ": ".join([f"vllm_instances {entry['name']}", *path])


def _keys(entry: Mapping[str, Any], known: Optional[Flags]) -> Iterator[Refused]:
    """Names that are no keys, and values of another kind."""
    name = entry["name"]
    for key, value in entry.items():
        if key not in KEYS:
            yield _unknown_key(entry, str(key), value, known)
        elif not KEYS[key].check(value):
            # a mapping may hold a token
            shown = "what it is" if KEYS[key].check is is_mapping else repr(value)
            instead = _find_commit(entry) if key == "model_revision" else ""
            yield Refused(_where(entry, key), f"cannot be {shown}.", f"Write {KEYS[key].kind}.{instead}", _of_kind(name, key, value))


def _of_kind(name: str, key: str, value: Any) -> Optional[dict[str, Any]]:
    """Return the proposal for a value of another kind: the number that a text holds, else what no one has to write."""
    if key == "name" or key in MODEL_KEYS:
        return None
    number = int(value) if isinstance(value, str) and value.isdecimal() else None
    return change(name, **{key: number if number is not None and KEYS[key].check(number) else None})


def _may_hide(value: Any) -> bool:
    """Tell whether a value may hold a token: proposals are printed."""
    return isinstance(value, (Mapping, list)) or (isinstance(value, str) and value.lstrip().startswith(("{", "[")))


def _unknown_key(entry: Mapping[str, Any], key: str, value: Any, known: Optional[Flags]) -> Refused:
    flag = known.find(plain(key)) if known else None
    if flag:
        instead = f"Write it under args: {{{flag.name}: ...}}."
        moved = {} if flag.name in SECRET_FLAGS or _may_hide(value) else {"args": {flag.name: value}}
        proposal = change(entry["name"], **{key: None}, **moved)
        return Refused(_where(entry, key), "is a vLLM flag, but not one with a key of its own.", instead, proposal)
    close = closest(key, KEYS)
    # a mapping may hold a token, and proposals are printed
    carried = close and close not in entry and KEYS[close].check is not is_mapping and KEYS[close].check(value)
    right = {close: value} if close and carried else {}
    return Refused(
        _where(entry, key),
        "is not a key of an instance.",
        f"Did you mean {close}?" if close else f"The keys are: {', '.join(KEYS)}.",
        change(entry["name"], **{key: None}, **right),
    )


def _find_commit(entry: Mapping[str, Any]) -> str:
    """Return the words that name the command which finds a branch's commit."""
    repository = entry.get("model_repository")
    if not repository or not KEYS["model_repository"].check(repository):
        return ""
    branch = str(entry.get("model_revision") or "main")
    safe = branch if re.fullmatch(r"[\w./-]+", branch) and not COMMIT_LIKE.fullmatch(branch) else "main"
    return f" `ansible-playbook playbooks/lock_model.yml -e repository={repository} -e revision={safe}` finds it."


def _model(entry: Mapping[str, Any], *_: Any) -> Iterator[Refused]:
    ways = [key for key in ("model", "model_source", "model_repository") if entry.get(key)]
    if len(ways) > 1:
        instead = f"Write model: /path/of/a/folder/on/the/server, or another of {', '.join(ways)}, one alone."
        without: dict[str, Any] = dict.fromkeys(ways[1:])
        if "model_repository" in without:
            without |= {key: None for key in ("model_revision", "model_files", "model_manifest") if entry.get(key)}
        yield Refused(_where(entry), f"has both {' and '.join(ways[:2])}.", instead, change(entry["name"], **without))
    elif not ways:
        instead = (
            "Write model: /path/of/a/folder/on/the/server, model_source: /path/of/a/folder/or/archive/on/the/controller, "
            "or model_repository: organisation/name with its model_revision."
        )
        yield Refused(_where(entry), "has no model.", instead)
    elif ways == ["model_repository"] and not entry.get("model_revision"):
        why = "names no model_revision, and what a branch holds changes without a word."
        yield Refused(_where(entry, "model_repository"), why, f"Pin a commit, its 40 digits.{_find_commit(entry)}")
    elif ways != ["model_repository"]:
        stray = [key for key in ("model_revision", "model_files", "model_manifest") if entry.get(key)]
        if stray:
            why = f"is for a model_repository, and this instance has {ways[0]}."
            yield Refused(_where(entry, stray[0]), why, "Remove it.", change(entry["name"], **dict.fromkeys(stray)))


def _paths(entry: Mapping[str, Any], *_: Any) -> Iterator[Refused]:
    for key in ("model", "chat_template"):
        path = str(entry.get(key) or "")
        if path.startswith(HIDDEN):
            why = f"the unit does not see {path}: homes and /tmp are hidden from it."
            yield Refused(_where(entry, key), why, "Put it elsewhere, such as below /srv.")


def _tool_calling(entry: Mapping[str, Any], track: Track, _: Optional[Flags]) -> Iterator[Refused]:
    parser = entry.get("tool_call_parser")
    wanted = entry.get("enable_auto_tool_choice", parser is not None)
    floor = compatibility.feature("auto_tool_choice")
    if wanted and older(track.vllm, floor):
        key = "tool_call_parser" if parser else "enable_auto_tool_choice"
        why = f"tool calls came with vLLM {floor}, and the track {track.name} has {track.vllm}."
        better = better_track(track, None, tracks(), lambda other: not older(other.vllm, floor))
        yield Refused(
            _where(entry, key),
            why,
            f"Choose a track with vLLM {floor} or newer.",
            track_proposal(better, entry["name"] if entry.get("track") else None) if better else None,
        )
    elif wanted and not parser:
        family = family_by_name(entry)
        advice = f"tool_call_parser: {family.tool_parsers[0]}, which {family.name} needs" if family else "tool_call_parser, such as hermes"
        # without automatic choice the server starts, but Codex needs it
        proposal = {"tool_call_parser": family.tool_parsers[0]} if family else {"enable_auto_tool_choice": False}
        why = "automatic tool choice needs a parser that finds the calls in the model's text."
        yield Refused(_where(entry, "enable_auto_tool_choice"), why, f"Add {advice}.", change(entry["name"], **proposal))


def model_name(entry: Mapping[str, Any]) -> str:
    """Return what the inventory calls an instance's model: a path or a repository."""
    return str(entry.get("model") or entry.get("model_source") or entry.get("model_repository") or "")


def family_by_name(entry: Mapping[str, Any]) -> Optional[compatibility.Family]:
    """Return the model family that the model's path tells, None where it tells none."""
    found = compatibility.family_of({}, model_name(entry), None)
    return found.family if found else None


def plugin(entry: Mapping[str, Any], key: str) -> bool:
    """Tell whether an instance brings its own parser for tool_call_parser or reasoning_parser: then its name may be any."""
    flag = {"tool_call_parser": "tool-parser-plugin", "reasoning_parser": "reasoning-parser-plugin"}[key]
    return any(plain(name) == flag for name in entry.get("args") or {})


def _parsers(entry: Mapping[str, Any], track: Track, known: Optional[Flags]) -> Iterator[Refused]:
    family = family_by_name(entry)
    for key, names, usual in (
        ("tool_call_parser", known.tool_parsers if known else (), family.tool_parsers if family else ()),
        ("reasoning_parser", known.reasoning_parsers if known else (), (family.reasoning_parser,) if family else ()),
    ):
        value = entry.get(key)
        if value is None or not names or value in names or plugin(entry, key):
            continue
        right = next((name for name in usual if name in names), None) or closest(value, names)
        advice = f"{family.name} needs {right}." if family and right in usual else nearest(value, names, "Choose one of them.")
        why = f"vLLM {track.vllm} has no parser {value!r}."
        yield Refused(_where(entry, key), why, f"{advice} It has: {', '.join(names)}.", change(entry["name"], **{key: right}))


def _served_names(entry: Mapping[str, Any], *_: Any) -> Iterator[Refused]:
    names = entry.get("served_model_name") or [entry["name"]]
    for name in names:
        if compatibility.is_vendor_name(name):
            why = f"Codex takes {name!r} for one of its vendor's models and sends it tools that vLLM does not know."
            own = [f"own-{one}" if compatibility.is_vendor_name(one) else one for one in names]
            proposal = change(entry["name"], served_model_name=own)
            yield Refused(_where(entry, "served_model_name"), why, f"Give it a name of your own, such as own-{name}.", proposal)


def _environment(entry: Mapping[str, Any], *_: Any) -> Iterator[Refused]:
    for name, value in (entry.get("environment") or {}).items():
        # what stands after "=" may be a token
        where = _where(entry, "environment", name.partition("=")[0])
        without = None if "=" in name else change(entry["name"], environment={name: None})
        if name in FORBIDDEN_ENVIRONMENT:
            yield Refused(where, f"is not allowed: {FORBIDDEN_ENVIRONMENT[name]}.", "Remove it.", without)
        elif name == CPU_SPACE and not str(value).isdecimal():
            # vLLM reads it with int() and ends (envs.py)
            yield Refused(where, "is not a whole number.", "Write it in GiB, such as 4.", without)
        elif not ENVIRONMENT_NAME.fullmatch(name) or any(mark in str(value) for mark in "\n\0"):
            yield Refused(where, "is not an environment variable of one line.", "Write NAME: value.", without)


def _counted(value: Any) -> int:
    """Return the number that a value is, 1 for what is none: its kind is judged elsewhere."""
    found = number(value)
    return 1 if found is None else found


def _argument(entry: Mapping[str, Any], name: str, value: Any, known: Flags) -> Iterator[Refused]:
    """Further flags, under args: one that has its own key, that the release has not, or that cannot have this value."""
    where, flag = _where(entry, "args", name), plain(name)
    found = known.find(flag)
    own = OWN_FLAGS.get((found.name if found else flag).removeprefix("no-"))
    without = {name: None}
    if own:
        moved = {own: value} if own not in entry and KEYS[own].check(value) and not flag.startswith("no-") else {}
        yield Refused(where, "has a key of its own.", f"Write {own}: beside name: instead.", change(entry["name"], args=without, **moved))
    elif flag in SECRET_FLAGS:
        yield Refused(where, *SECRET_FLAGS[flag], change(entry["name"], args=without))
    elif not found:
        yield _unknown_flag(entry, where, flag, {name: value}, known)
    elif found.name in RANKS and not 1 <= _counted(value) <= MOST_RANKS:
        yield Refused(where, f"--{found.name} cannot be {value}.", f"Write 1 to {MOST_RANKS}.", change(entry["name"], args=without))
    elif found.name == "block-size" and _counted(value) < 1:
        yield Refused(where, f"--{found.name} cannot be {value}.", "Write a number of tokens.", change(entry["name"], args=without))
    elif problem := value_problem(found, value):
        # nothing is shown of a value that may hold a token
        advice = "Remove it" if found.default is None else f"Remove it to have {found.default!r}"
        yield Refused(where, f"--{found.name} {problem}.", f"{advice}, or write such a value.", change(entry["name"], args=without))


def _unknown_flag(entry: Mapping[str, Any], where: str, flag: str, written: Mapping[str, Any], known: Flags) -> Refused:
    """Tell a flag of another release, one that guides invent, and one that is misspelt from one another."""
    why = f"vLLM {known.release} has no flag --{flag}."
    without = dict.fromkeys(written)
    retired = compatibility.retired_flag(flag)
    right = retired.instead if retired and retired.instead else None
    if not retired and (span := elsewhere(flag)):
        first, last = span
        whose = f"vLLM {first} and newer have it" if last == releases()[-1] else f"vLLM {first} to {last} had it"
        instead = "Remove it, or choose a track with such a release."
        return Refused(where, f"{why} {whose}.", instead, change(entry["name"], args=without))
    if retired and not right:
        return Refused(where, why, f"{retired.say} Remove it.", change(entry["name"], args=without))
    right = right or closest(flag, known.flags)
    if not right:
        instead = f"`vllm serve --help=all` of that release lists its {len(known.flags)} flags."
        return Refused(where, why, instead, change(entry["name"], args=without))
    return Refused(where, why, f"Did you mean {right}?", change(entry["name"], **_renamed(entry, right, written, known.find(right))))


def _renamed(entry: Mapping[str, Any], right: str, written: Mapping[str, Any], flag: Optional[Flag]) -> dict[str, Any]:
    """Return the keys that carry a flag's value over to its right name, where the value does there."""
    without = dict.fromkeys(written)
    (value,) = written.values()
    own = OWN_FLAGS.get(right)
    if own:
        carried = own not in entry and KEYS[own].check(value)
        return {"args": without, **({own: value} if carried else {})}
    return {"args": {**without, **({right: value} if flag and not _may_hide(value) and not value_problem(flag, value) else {})}}


def _without_gpu(entry: Mapping[str, Any], track: Track) -> Iterator[Refused]:
    if entry.get("gpus") is not None:
        yield Refused(_where(entry, "gpus"), f"the track {track.name} has no GPU.", "Remove it.", change(entry["name"], gpus=None))
