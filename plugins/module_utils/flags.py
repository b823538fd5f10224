# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `vllm serve` of each release understands: its flags, the values they take, its parsers. Read on the controller only.

The data is made by tools/flag_catalogue.py from vLLM's own wheels.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from .errors import Refused

FOLDER = pathlib.Path(__file__).parent / "data/flags"
# as vLLM reads sizes: 32k is 32,000 and 32K is 32,768; only thousands may have decimals (vllm/utils/argparse_utils.py)
SIZE = re.compile(r"\d+(\.\d+)?[kmgt]|\d+[KMGT]|auto", re.ASCII)
SIZE_IN_JSON = re.compile(r"\b\d+(\.\d+)?[kKmMgGtT]\b")
MUST_BE = {
    "int": "must be a whole number",
    "size": "must be a whole number, or one such as 32k (32000) or 32K (32768)",
    "float": "must be a number",
    "json": "must be a mapping, or JSON in quotes",
}


# take JSON, though they are declared as text
JSON_AS_TEXT = ("hf-overrides", "additional-config")


def plain(name: str) -> str:
    """Return a flag's name as vLLM folds it: without leading dashes, with dashes for underscores, but not after a dot."""
    head, dot, part = name.lstrip("-").partition(".")
    return head.replace("_", "-") + dot + part


def number(value: Any) -> Optional[int]:
    """Return the whole number that a value is for vLLM, which reads 2, "2" and ["2"] alike; None where it is none."""
    inner = value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value
    if isinstance(inner, bool):
        return None
    return int(inner) if isinstance(inner, int) or (isinstance(inner, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", inner)) else None


@dataclass(frozen=True)
class Flag:
    """A flag: its name without leading dashes and what it takes.

    ``kind`` is bool, int, size (an int that may be written as 32k), float, str, json (a mapping, or JSON as text) or any.
    ``choices`` is empty where every value of the kind may do, and where vLLM computes them when it starts. ``default`` is
    None where there is none, and where vLLM computes it. ``several``: it takes a list.
    """

    name: str
    kind: str
    choices: tuple[Any, ...] = ()
    default: Any = None
    several: bool = False
    deprecated: bool = False
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flags:
    """What `vllm serve` of one release understands; names without leading dashes."""

    release: str
    flags: Mapping[str, Flag]
    tool_parsers: tuple[str, ...]
    reasoning_parsers: tuple[str, ...]

    def find(self, name: str) -> Optional[Flag]:
        """Return the flag of a name or of an alias, of `no-NAME` for one that can be switched off, or of a part such as `NAME.key`."""
        found = self.flags.get(name) or next((flag for flag in self.flags.values() if name in flag.aliases), None)
        if found:
            return found
        positive, whole = self.flags.get(name.removeprefix("no-")), self.flags.get(name.partition(".")[0])
        if positive and positive.kind == "bool":
            return Flag(name, "bool", default=False)
        parts = "." in name and whole and (whole.kind in ("json", "any") or whole.name in JSON_AS_TEXT)
        return Flag(name, "any") if parts else None


@functools.cache
def flags(release: str) -> Flags:
    """Return the catalogue of a vLLM release ("0.32.0"); raise Refused for a release that has none."""
    if release not in releases():
        instead = f"Choose one of {', '.join(releases())}, or make its catalogue: make flags RELEASE={release}."
        raise Refused(f"vLLM {release}", "is a release whose flags this collection does not know.", instead)
    data = json.loads((FOLDER / f"{release}.json").read_text(encoding="utf-8"))
    known = {name: _flag(name, said) for name, said in data["flags"].items()}
    return Flags(data["release"], known, tuple(data["tool_parsers"]), tuple(data["reasoning_parsers"]))


def find(release: str) -> Optional[Flags]:
    """Return the catalogue of a release, None where there is none."""
    return flags(release) if release in releases() else None


def _flag(name: str, said: Mapping[str, Any]) -> Flag:
    lists = {key: tuple(said.get(key) or ()) for key in ("choices", "aliases")}
    return Flag(**{"name": name, **said, **lists})


@functools.cache
def releases() -> tuple[str, ...]:
    """Return the releases that have a catalogue, oldest first."""
    names = [path.stem for path in FOLDER.glob("[0-9]*.json")]
    return tuple(sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)]))


@functools.cache
def _history() -> dict[str, list[str]]:
    return dict(json.loads((FOLDER / "history.json").read_text(encoding="utf-8"))["flags"])


def elsewhere(flag: str) -> Optional[tuple[str, str]]:
    """Return the first and the last release that have a flag, among the releases that were read; None where none has it."""
    found = _history().get(flag)
    return (found[0], found[1]) if found else None


def value_problem(flag: Flag, value: Any) -> Optional[str]:
    """Return what a flag's value must be, as part of a sentence, or None when it may do.

    ``value`` is what YAML holds. Refused is only what vLLM's own reader of `--config` refuses for certain; it
    turns a list into words, a mapping into JSON, true into the flag alone, and leaves out false and an empty list.
    """
    if isinstance(value, bool):
        return None if not value or flag.kind in ("bool", "any") else "must have a value, and true is none"
    if value == []:
        return None
    if flag.kind == "bool":
        return "must be true or false"
    if isinstance(value, Mapping):
        words = [json.dumps(value, default=str)]
    else:
        words = [str(item) for item in (value if isinstance(value, (list, tuple)) else [value])]
    if len(words) > 1 and not flag.several:
        return """must be JSON in quotes, such as '["a", "b"]'""" if flag.kind == "json" else "must be a single value, not a list"
    return next((problem for word in words if (problem := _word_problem(flag, word))), None)


def _word_problem(flag: Flag, word: str) -> Optional[str]:
    """Say what is wrong with one word of the command line that vLLM makes of its configuration file."""
    if word in ("", "None"):
        return None  # vLLM takes these for "not given" wherever a flag may be left out
    if not _reads(flag.kind, word):
        return MUST_BE[flag.kind]
    if flag.choices and _folded(word) not in map(_folded, flag.choices):
        return f"must be one of: {', '.join(map(str, flag.choices))}"
    return None


def _reads(kind: str, word: str) -> bool:
    """Tell whether vLLM's converter for a kind takes a word."""
    try:
        if kind == "int" or (kind == "size" and not SIZE.fullmatch(word.strip())):
            int(word)
        elif kind == "float":
            float(word)
        elif kind == "json":
            json.loads(SIZE_IN_JSON.sub("0", word))
    except ValueError:
        return False
    return True


def _folded(choice: Any) -> str:
    # some flags (moe-backend) fold their value so, and the catalogue does not say which
    return str(choice).strip().lower().replace("-", "_")
