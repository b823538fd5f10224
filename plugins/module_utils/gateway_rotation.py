# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Rotation of people's keys: a new word in each file, and beside it, in NAME.old, the digests of those before it with their ends.

{"rotated": WHICH, "keys": [{"sha256": DIGEST, "until": EPOCH}]}
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from . import api_key
from .errors import Refused, nearest

BEFORE = ".before"  # beside the servers' key, until every server has the new one


def old_path(key_file: str) -> str:
    """Return the file that remembers what a key's file held before."""
    return key_file.removesuffix(".key") + ".old"


def digest(key: str) -> str:
    """Return what a gateway knows a key by."""
    return hashlib.sha256(key.encode()).hexdigest()


def before(key_file: str) -> dict[str, int]:
    """Return the ends (epoch seconds) of the keys that a file held, by digest. Those that have ended stay until the next rotation."""
    return {row["sha256"]: row["until"] for row in _read(key_file)["keys"]}


def _read(key_file: str) -> dict[str, Any]:
    file = old_path(key_file)
    try:
        with open(file, encoding="utf-8") as stream:
            found = json.load(stream)
        return {
            "rotated": str(found["rotated"]),
            "keys": [{"sha256": str(row["sha256"]), "until": int(row["until"])} for row in found["keys"]],
        }
    except FileNotFoundError:
        return {"rotated": "", "keys": []}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(file, f"cannot be read: {error}.", "Remove it: keys of before the last rotation end with that.") from error


def chosen(entries: Sequence[Mapping[str, Any]], team: Optional[str], name: Optional[str]) -> list[Mapping[str, Any]]:
    """Return the keys that are rotated: all, those of a team, or one. Raises Refused where there is none of that name."""
    if name and not team:
        raise Refused("-e key_name", f"{name} may be in several teams.", "Write -e key_team=TEAM too.")
    present = [entry for entry in entries if entry.get("state", "present") == "present"]
    found = [entry for entry in present if team in (None, entry["team"]) and name in (None, entry["name"])]
    if not found and (team or name):
        known = [f"{entry['team']}/{entry['name']}" for entry in present]
        asked = f"{team}/{name}" if name else str(team)
        which = known if name else sorted({entry["team"] for entry in present})
        raise Refused(
            f"-e key_{'name' if name else 'team'}", f"gateway_keys has no {asked}.", nearest(asked, which, f"It has {', '.join(known)}.")
        )
    return found


def rotate(files: Sequence[str], which: str, now: int, overlap: int, make: bool = True) -> list[str]:
    """Put a new key into each file; the one before it is good for ``overlap`` seconds more. Return the files where that was to be done.

    A rotation has a name, ``which``: what was done under it is not done again, so that a run that was ended goes on. Raises Refused for
    what is no key, before the first file is changed.
    """
    held = {file: (_read(file), api_key.read_or_make(file)) for file in files if os.path.exists(file)}
    found = [file for file, (known, _key) in held.items() if known["rotated"] != which]
    for file in found if make else []:
        _rotate(file, which, now, now + overlap, *held[file])
    return found


def _rotate(file: str, which: str, now: int, ends: int, known: Mapping[str, Any], key: str) -> None:
    # a shorter overlap counts for the ones before as well: it is how a key that leaked is ended
    keys = [{**row, "until": min(row["until"], ends)} for row in known["keys"] if row["until"] > now and row["sha256"] != digest(key)]
    keys.append({"sha256": digest(key), "until": ends})
    # what is handed out changes in between: an end of this program leaves a good key in the file, and no key that nobody knows of
    _write(file, known["rotated"], keys)
    api_key.replace(file)
    _write(file, which, keys)


def _write(key_file: str, which: str, keys: Sequence[Mapping[str, Any]]) -> None:
    text = json.dumps({"rotated": which, "keys": keys}, indent=1) + "\n"
    os.replace(api_key.write_aside(old_path(key_file), text), old_path(key_file))


def servers_before(key_file: str) -> str:
    """Return the key that the model servers had before, while some may have it still; empty when all have the new one."""
    file = os.path.expanduser(key_file) + BEFORE
    return api_key.read_or_make(file) if os.path.exists(file) else ""


def rotate_servers(files: Sequence[str], make: bool = True) -> list[str]:
    """Put a new key for model servers into each file, and keep the old one beside it; return the files where that was to be done.

    A rotation that is under way goes on: its new key stays.
    """
    found = [file for file in files if os.path.exists(file) and not os.path.exists(file + BEFORE)]
    for file in found if make else []:
        os.replace(api_key.write_aside(file + BEFORE, api_key.read_or_make(file) + "\n"), file + BEFORE)
        api_key.replace(file)
    return found


def finish_servers(files: Sequence[str], make: bool = True) -> list[str]:
    """Forget the servers' old keys; return the files that had one."""
    found = [file for file in files if os.path.exists(file + BEFORE)]
    for file in found if make else []:
        os.unlink(file + BEFORE)
    return found


def left_out(secrets: str, variables: Mapping[str, Mapping[str, Any]], present: Sequence[str]) -> list[str]:
    """Return the gateways that have their keys from the files of ``secrets``, and are no part of a run.

    ``variables`` are those of each gateway of the inventory, ``present`` the hosts of the run.
    """
    shared = _folder(secrets)
    return [
        gateway
        for gateway, said in variables.items()
        if gateway not in present and _folder(said.get("gateway_secrets") or f"{said.get('inventory_dir')}/.secrets/gateway") == shared
    ]


def _folder(path: object) -> str:
    return os.path.realpath(os.path.expanduser(str(path)))  # however it is written
