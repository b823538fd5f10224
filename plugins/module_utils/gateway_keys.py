# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Keys of teams and people: what the inventory says of each, and the table of digests that a gateway gets.

The keys themselves stay in files of the controller, which are what is handed out. They are random words of 256 bits, so a
plain SHA-256 cannot be searched for: a slow hash would cost each request time and win nothing.
"""

from __future__ import annotations

import calendar
import datetime
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Callable, Optional

from .api_key import read_or_make
from .errors import Refused, nearest
from .gateway_rotation import before, digest

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,38}[a-z0-9])?")
KEYS = ("team", "name", "state", "expires", "models", "requests_per_minute", "burst", "concurrency")
LIMITS = ("requests_per_minute", "burst", "concurrency")


def identity(entry: Mapping[str, Any]) -> str:
    """Return what a key is called in logs: TEAM/NAME."""
    return f"{entry['team']}/{entry['name']}"


def path(directory: str, entry: Mapping[str, Any]) -> str:
    """Return the file of the controller that is handed out."""
    return os.path.join(directory, "keys", entry["team"], f"{entry['name']}.key")


def problems(entries: Any, served: Sequence[str]) -> list[Refused]:
    """Return what is wrong with gateway_keys; ``served`` are the names that clients may ask for."""
    if not isinstance(entries, list):
        return [Refused("gateway_keys", "is not a list.", "Write a list of keys: - {team: TEAM, name: NAME}")]
    found: list[Refused] = []
    seen: set[str] = set()
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            found.append(Refused(f"gateway_keys[{number}]", "is no mapping.", "Write - {team: TEAM, name: NAME}"))
            continue
        where = f"gateway_keys {entry.get('team')}/{entry.get('name')}"
        found += _names(where, entry) or _rest(where, entry, served)
        if where in seen:
            found.append(Refused(where, "stands twice.", "Remove one, or give it another name."))
        seen.add(where)
    return found


def _names(where: str, entry: Mapping[str, Any]) -> list[Refused]:
    return [
        Refused(where, f"its {part} {entry.get(part)!r} cannot be a file's name.", "Take lower-case letters, digits, '.', '_' and '-'.")
        for part in ("team", "name")
        if not (isinstance(entry.get(part), str) and NAME.fullmatch(entry[part]))
    ]


def _rest(where: str, entry: Mapping[str, Any], served: Sequence[str]) -> list[Refused]:
    found = [
        Refused(f"{where}: {key}", "is read by nobody.", nearest(str(key), KEYS, f"A key has {', '.join(KEYS)}."))
        for key in sorted(set(entry) - set(KEYS), key=str)
    ]
    if entry.get("state", "present") not in ("present", "absent"):
        found.append(Refused(f"{where}: state", f"{entry['state']!r} is none.", "Write present or absent."))
    try:
        expiry(entry)
    except ValueError:
        found.append(
            Refused(f"{where}: expires", f"{entry['expires']!r} is no day.", "Write one such as '2027-01-31', the last it is good on.")
        )
    found += [
        Refused(f"{where}: {key}", f"{entry[key]!r} is no whole number above 0.", "Write one, or leave it out for the gateway's own.")
        for key in LIMITS
        if key in entry and not is_count(entry[key])
    ]
    models = entry.get("models", [])
    if not isinstance(models, list) or not all(isinstance(name, str) for name in models):
        found.append(Refused(f"{where}: models", "is no list of names.", "Write [NAME], or leave it out for all."))
    elif entry.get("state", "present") == "present":
        found += [
            Refused(f"{where}: models", f"no instance serves {name}.", nearest(name, served, f"Served are: {', '.join(served)}."))
            for name in models
            if name not in served
        ]
    return found


def is_count(value: Any) -> bool:
    """Tell whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31


def expiry(entry: Mapping[str, Any]) -> Optional[int]:
    """Return the moment (epoch seconds, UTC) from which a key is refused: the end of its last day; None for never."""
    said = entry.get("expires")
    if said is None:
        return None
    day = said if isinstance(said, datetime.date) else datetime.date.fromisoformat(str(said))
    return calendar.timegm((day + datetime.timedelta(days=1)).timetuple())


def limits(entry: Mapping[str, Any], usual: Mapping[str, int]) -> dict[str, int]:
    """Return the limits of a key: its own, else the gateway's."""
    return {name: int(entry.get(name, usual[name])) for name in LIMITS}


def class_name(limit: Mapping[str, int]) -> str:
    """Return what keys with the same limits share in nginx, which has a zone for each rate."""
    return f"r{limit['requests_per_minute']}b{limit['burst']}c{limit['concurrency']}"


def present(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the keys that are good until they expire."""
    return [entry for entry in entries if entry.get("state", "present") == "present"]


def table(
    entries: Sequence[Mapping[str, Any]],
    directory: str,
    usual: Mapping[str, int],
    make: bool,
    read: Callable[[str, bool], str] = read_or_make,
    internal: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return, by digest, what a gateway knows of each key; files that are not there yet are made.

    Raises Refused where two keys are one word: the log could not tell who asked; and where one is of the model servers, whose digests
    are ``internal``.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in present(entries):
        file = path(directory, entry)
        key = read(file, make)
        own = digest(key)
        if own in found and make:
            raise Refused(file, f"holds the same key as {found[own]['key']}'s file.", "Remove one of the two files to have a key made.")
        if own in internal:
            raise Refused(file, "holds the model servers' own key, which no client may have.", "Remove that file to have a key made.")
        row = {
            "key": identity(entry),
            "team": entry["team"],
            "class": class_name(limits(entry, usual)),
            "expires": expiry(entry),
            "models": entry.get("models"),
        }
        for old, until in before(file).items():
            if old not in internal:  # that one has no overlap: it was never to be a person's
                found.setdefault(old, {**row, "expires": min(until, row["expires"] or until)})
        found[own] = row
    return found
