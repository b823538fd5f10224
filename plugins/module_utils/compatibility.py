# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What works with what, as data/facts.yml says it: typed rows, and look-ups in them. Read on the controller only."""

from __future__ import annotations

import datetime
import fnmatch
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional, TypeVar

import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

FILE = pathlib.Path(__file__).parent / "data" / "facts.yml"
# Codex looks for its vendor's names behind one namespace too (openai/gpt-oss-20b); see the sources of the block vendor_names
NAMESPACE = r"(?:[A-Za-z0-9_]+/)?"


@dataclass(frozen=True)
class System:
    """An operating system ("debian 12"), its C library ("2.36") and the Pythons of its packages."""

    name: str
    glibc: str
    pythons: tuple[str, ...]


@dataclass(frozen=True)
class Python:
    """A version of Python ("3.12") and the last day of its security fixes."""

    version: str
    end_of_life: datetime.date

    @property
    def ended(self) -> bool:
        """Whether that day is over."""
        return self.end_of_life < datetime.datetime.now(tz=datetime.timezone.utc).date()


@dataclass(frozen=True)
class Release:
    """A release of vLLM: the Pythons it allows (">=3.10,<3.15"), its torch, the CUDA of that, and by machine the oldest glibc."""

    release: str
    python: str
    torch: str
    cuda: str
    glibc: Mapping[str, str]

    def allows_python(self, version: str) -> bool:
        """Tell whether it can be installed for a Python ("3.12")."""
        return SpecifierSet(self.python).contains(f"{version}.0")


@dataclass(frozen=True)
class Family:
    """Models whose tool calls have one format: how they are known, the parsers that read them (the recommended first), their template.

    ``template`` is a chat template of this collection, for models whose own does not do. ``first`` is the first release of
    vLLM for them. ``codex`` says what Codex has to be held to: {"tools": ["function"]}.
    """

    name: str
    names: str
    tool_parsers: tuple[str, ...]
    first: str
    model_types: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    reasoning_parser: Optional[str] = None
    template: Optional[str] = None
    codex: Mapping[str, Any] = field(default_factory=dict)

    def asked_for_by(self, template: str) -> bool:
        """Tell whether a chat template asks for calls of this format."""
        return bool(self.marks) and all(mark in template for mark in self.marks)


@dataclass(frozen=True)
class Recognised:
    """A model's family, and what told it: "template", "model_type" or "name", the most certain first."""

    family: Family
    evidence: str


@dataclass(frozen=True)
class CodexRange:
    """Versions of Codex that are alike ("0.96" to "0.132", both included; no last: the newest too).

    ``wire_api`` is the default; ``chat`` tells whether the other works: works, broken or refused. ``developer``: it sends messages of
    that role. ``shell`` and ``tools`` are the names of its shell tools and the kinds of tools that an unknown model gets.
    """

    first: str
    wire_api: str
    chat: str
    developer: bool
    shell: tuple[str, ...]
    tools: tuple[str, ...]
    last: Optional[str] = None


@dataclass(frozen=True)
class ConfigKey:
    """A key of Codex's configuration, the versions that have it, and what to write where one does not. No first: none ever had it."""

    key: str
    first: Optional[str] = None
    last: Optional[str] = None
    instead: Optional[str] = None

    def in_version(self, version: str) -> bool:
        """Tell whether a version of Codex has it."""
        return self.first is not None and _within(version, self.first, self.last)


@dataclass(frozen=True)
class Pair:
    """Versions of Codex (first, last) and of vLLM (from, before) that do not do together, and ``why``.

    ``before`` is the release that mends it. ``family`` limits it to one family, ``unless`` excepts some. ``certain``: it fails whatever
    the model does. ``set`` has the keys of Codex's configuration that avoid it ({"agents.enabled": False}).
    """

    codex: Mapping[str, str]
    vllm: Mapping[str, str]
    why: str
    certain: bool
    family: Optional[str] = None
    unless: tuple[str, ...] = ()
    set: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mended(self) -> Optional[str]:
        """The first release of vLLM without it, None while there is none."""
        return self.vllm.get("before")


@dataclass(frozen=True)
class Advisory:
    """A known weakness of vLLM: its id, what it is, the release that mends it and the first that has it ("0": all)."""

    id: str
    what: str
    fixed: str
    since: str = "0"


@dataclass(frozen=True)
class RetiredFlag:
    """A flag that guides name: what to write ``instead`` with the same value, or to ``say``; ``last`` is the last release that had it."""

    flag: str
    instead: Optional[str] = None
    say: Optional[str] = None
    last: Optional[str] = None


@dataclass(frozen=True)
class Variable:
    """A variable of other roles, and what to write ``instead``."""

    name: str
    instead: str


Row = TypeVar("Row")


@functools.cache
def _facts() -> Mapping[str, Any]:
    # every task's worker process reads it anew: libyaml takes 20 ms where Python takes 160
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    facts: Mapping[str, Any] = yaml.load(FILE.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 - both are safe loaders
    return facts


@functools.cache
def _rows(block: str, kind: Callable[..., Row]) -> tuple[Row, ...]:
    """Return a block as typed rows, in the file's order."""
    return tuple(kind(**_fields(row)) for row in _facts()[block]["rows"])


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    said = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items() if key != "source"}
    return {"since" if key == "from" else key: value for key, value in said.items()}


def is_version(text: str) -> bool:
    """Tell whether a text is a version."""
    try:
        return len(Version(text).release) > 1
    except InvalidVersion:
        return False


def version_key(version: str) -> Version:
    """Return what versions are compared by: "0.8.5.post1" of vLLM, "2.31" of glibc, "580.95.05" of a driver."""
    return Version(version)


def older(version: str, floor: str) -> bool:
    """Tell whether a version is older than another."""
    return version_key(version) < version_key(floor)


def systems() -> tuple[System, ...]:
    """Return all known operating systems."""
    return _rows("systems", System)


def system(name: str) -> Optional[System]:
    """Return a system by ID and VERSION_ID of /etc/os-release ("debian 12", "rhel 9.6"), None where it is not known."""
    known = {row.name: row for row in systems()}
    return known.get(name) or known.get(name.partition(".")[0])


def python(version: str) -> Optional[Python]:
    """Return a version of Python ("3.12"), None where it is not known."""
    return next((row for row in _rows("pythons", Python) if row.version == version), None)


def release(version: str) -> Optional[Release]:
    """Return a release of vLLM, None where it is not known."""
    return next((row for row in _rows("vllm", Release) if row.release == version), None)


def driver_floor(cuda: str) -> int:
    """Return the oldest branch of the NVIDIA driver (580) that runs a CUDA ("13.0"); 0 where that is not known."""
    major = int(cuda.partition(".")[0])
    return next((row["driver"] for row in _facts()["drivers"]["rows"] if row["cuda"] == major), 0)


def feature(name: str) -> str:
    """Return the first release of vLLM that has a feature of the block features; KeyError for another name."""
    return {row["name"]: str(row["release"]) for row in _facts()["features"]["rows"]}[name]


def families() -> tuple[Family, ...]:
    """Return all model families, special ones before general ones."""
    return _rows("families", Family)


def family_of(config: Mapping[str, Any], name: str, template: Optional[str]) -> Optional[Recognised]:
    """Return a model's family, None where nothing tells it.

    ``config`` is config.json (or empty), ``name`` a path or a repository's name, ``template`` the chat template, where they are known.
    A template is believed first, then a model type of the family's own, then the name.
    """
    typed = _by_type(config)
    told = typed or _by_name(name)
    asked = [family for family in families() if family.asked_for_by(template or "")]
    # a family whose templates are not known may use the words of another's: there its type or name is the better witness
    if asked and (told in asked or not told or told.marks):
        general = sorted(asked, key=lambda family: len(family.marks))[-1]
        return Recognised(told if told in asked else general, "template")
    return Recognised(told, "model_type" if typed else "name") if told else None


def _by_type(config: Mapping[str, Any]) -> Optional[Family]:
    nested = config.get("text_config")
    types = [config.get("model_type"), nested.get("model_type") if isinstance(nested, Mapping) else None]
    return next((family for family in families() if any(kind in family.model_types for kind in types)), None)


def _by_name(name: str) -> Optional[Family]:
    """Look at a path's last part first: a folder above it may be named after something else."""
    for part in reversed(name.split("/")):
        found = next((family for family in families() if re.search(family.names, part, re.IGNORECASE)), None)
        if found:
            return found
    return None


def template_parsers(template: str) -> tuple[str, ...]:
    """Return the tool parsers that read what a chat template of this collection asks for, the recommended first."""
    parsers = [parser for family in families() if family.template == template for parser in family.tool_parsers]
    return tuple(dict.fromkeys(parsers))


def is_vendor_name(name: str) -> bool:
    """Tell whether Codex takes a served model's name for one of its vendor's, and sends that other tools."""
    patterns = "|".join(row["pattern"] for row in _facts()["vendor_names"]["rows"])
    return re.match(f"{NAMESPACE}(?:{patterns})", name) is not None


def codex_ranges() -> tuple[CodexRange, ...]:
    """Return what is known of Codex's versions, oldest first."""
    return _rows("codex", CodexRange)


def codex_range(version: str) -> Optional[CodexRange]:
    """Return what is known of a version of Codex ("0.169.0"), None for one before all."""
    return next((row for row in codex_ranges() if _within(version, row.first, row.last)), None)


def _within(version: str, first: Optional[str], last: Optional[str]) -> bool:
    """Tell whether a version of Codex is in a range of minor versions, both ends included."""
    minor = version_key(version).release[:2]
    return (first is None or version_key(first).release <= minor) and (last is None or minor <= version_key(last).release)


def config_key(key: str) -> Optional[ConfigKey]:
    """Return what is known of a key of Codex's configuration ("model_providers.vllm.api_key"), None for a key with no trouble."""
    return next((row for row in _rows("config_keys", ConfigKey) if fnmatch.fnmatchcase(key, row.key)), None)


def missing_keys(version: str) -> tuple[ConfigKey, ...]:
    """Return the keys that a version of Codex does not have, and for which there is something to write instead."""
    return tuple(row for row in _rows("config_keys", ConfigKey) if row.instead and not row.in_version(version))


def pairs(codex: str, vllm: str, family: Optional[str]) -> tuple[Pair, ...]:
    """Return what is known against a version of Codex with a release of vLLM and a family (its name, None where it is not known)."""
    return tuple(row for row in _rows("pairs", Pair) if _concerns(row, codex, vllm, family))


def _concerns(pair: Pair, codex: str, vllm: str, family: Optional[str]) -> bool:
    mended, since = pair.vllm.get("before"), pair.vllm.get("from", "0")
    return (
        _within(codex, pair.codex.get("first"), pair.codex.get("last"))
        and not older(vllm, since)
        and (mended is None or older(vllm, mended))
        and pair.family in (None, family)
        and family not in pair.unless
    )


def advisories(vllm: str) -> tuple[Advisory, ...]:
    """Return the known weaknesses of a release of vLLM."""
    return tuple(row for row in _rows("advisories", Advisory) if older(vllm, row.fixed) and not older(vllm, row.since))


def retired_flag(flag: str) -> Optional[RetiredFlag]:
    """Return what is known of a flag that guides name (without dashes before it), None for another."""
    return next((row for row in _rows("flags", RetiredFlag) if row.flag == flag), None)


def renamed_variable(name: str) -> Optional[Variable]:
    """Return what is known of a variable of other roles, None for another name."""
    return next((row for row in _rows("variables", Variable) if row.name == name), None)
