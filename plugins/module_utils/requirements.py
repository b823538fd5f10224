# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A hash-locked requirements file: what it pins, and what in it is no lock."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Optional

from .errors import Refused

PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^\]]*\])?==(?P<version>[^\s;,]+)\s*(;.*)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
MOST = 20  # mistakes of one file that are told


@dataclass(frozen=True)
class Lock:
    """A lock's path, its text, and the versions that it pins by normalised name (several where markers choose)."""

    path: str
    text: str
    pins: Mapping[str, frozenset[str]]

    def without(self, names: frozenset[str]) -> str:
        """Return the text of all requirements but those of some packages."""
        kept = [text for _, text in _requirements(self.text) if not (found := _pin(text)) or normal(found["name"]) not in names]
        return "".join(f"{text}\n" for text in kept)


def normal(name: str) -> str:
    """Return a package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(path: str, where: str) -> tuple[Optional[Lock], list[Refused]]:
    """Return a lock, and what is wrong with it; ``where`` is what the inventory calls it."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
    except (OSError, ValueError) as why:
        reason = getattr(why, "strerror", None) or "it is no text"
        return None, [Refused(where, f"{path} cannot be read on the controller: {reason}.", "Correct the path.")]
    problems: list[Refused] = []
    pins: dict[str, set[str]] = {}
    for line, requirement in _requirements(text):
        problem = _problem(requirement)
        if problem:
            problems.append(Refused(f"{where}, line {line} of {path}", *problem))
        elif found := _pin(requirement):
            pins.setdefault(normal(found["name"]), set()).add(found["version"])
    if not problems and not pins:
        problems = [Refused(where, f"{path} names no package.", "Make one with `uv pip compile --generate-hashes`.")]
    return Lock(path, text, {name: frozenset(versions) for name, versions in pins.items()}), problems[:MOST]


def _requirements(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the first line of each requirement, and its lines joined; comments are left out."""
    start, joined = 0, ""
    for number, line in enumerate([*text.splitlines(), ""], 1):
        written = re.sub(r"(^|\s)#.*$", "", line).strip()
        start = start if joined else number
        joined = f"{joined} {written.rstrip(chr(92)).strip()}".strip()
        if not written.endswith("\\"):
            if joined:
                yield start, joined
            joined = ""


def _pin(requirement: str) -> Optional[re.Match[str]]:
    return PIN.fullmatch(requirement.partition(" --hash=")[0].strip())


def _problem(requirement: str) -> Optional[tuple[str, str]]:
    word = requirement.split(maxsplit=1)[0]
    # what stands in a URL may be a token: it is not shown
    if word.startswith("-"):
        return f"has {word.partition('=')[0]}.", "Leave it out; vllm_installer_environment says where packages come from."
    if "://" in requirement or " @ " in requirement or word.startswith((".", "/")):
        return (
            "names a URL or a path.",
            "Write NAME==VERSION with hashes; vllm_installer_environment says where from.",
        )
    if not _pin(requirement):
        return f"{word!r} is not pinned.", "Write NAME==VERSION with hashes, as `uv pip compile --generate-hashes` does."
    if not HASH.search(requirement):
        return f"{word} has no sha256.", "Make the file with `uv pip compile --generate-hashes`."
    return None
