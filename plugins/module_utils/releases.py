# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The releases of an instance on its server: numbered directories, and one link that says which of them runs.

HOME/releases/N/    links environment and model, config.yaml, variables.env; proof.json: what its proof asks;
                    replaces: the number that ran before it; served.json once it has served
HOME/current        -> releases/N
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
from collections.abc import Sequence
from typing import Any, Optional

from .errors import Refused

CURRENT = "current"
SERVED, REPLACES, PROOF = "served.json", "replaces", "proof.json"
PARTS = ("environment", "model", "config.yaml", "variables.env", "unit.conf")


def read(home: str) -> dict[str, Any]:
    """Return the ``numbers`` of an instance's releases, ascending, the ``current`` one (or None), which have ``served``, and ``pending``.

    A pending release is the newest one, where it was written and never switched to. ``listens`` has where each of them listens, once:
    [host, port].
    """
    try:
        numbers = sorted(int(name) for name in os.listdir(f"{home}/releases") if name.isdecimal())
    except (FileNotFoundError, NotADirectoryError):
        numbers = []
    served = [number for number in numbers if os.path.exists(f"{home}/releases/{number}/{SERVED}")]
    now, newest = current(home), max(numbers, default=None)
    tried = newest is None or newest == now or newest in served or os.path.exists(f"{home}/releases/{newest}/{REPLACES}")
    places = {place for number in numbers if (place := listens(home, f"releases/{number}"))}
    where = [[host, port] for host, port in sorted(places)]
    return {"numbers": numbers, "current": now, "served": served, "pending": None if tried else newest, "listens": where}


def listens(home: str, release: str) -> Optional[tuple[str, int]]:
    """Return host and port of a release ("releases/3", "current") by its configuration, which the role wrote: one key a line."""
    try:
        with open(f"{home}/{release}/config.yaml", encoding="utf-8") as stream:
            found = dict(re.findall(r"(?m)^(host|port): ['\"]?([^'\"\s]+)", stream.read()))
        return found["host"], int(found["port"])
    except (OSError, ValueError, KeyError):
        return None


def missing(home: str, number: int) -> Optional[str]:
    """Return what a release lacks that a start needs, None for a whole one."""
    place = f"{home}/releases/{number}"
    return next((f"{place}/{part}" for part in PARTS if not os.path.exists(f"{place}/{part}")), None)


def current(home: str) -> Optional[int]:
    """Return the number of the release that ``current`` names, None where there is none."""
    try:
        name = os.path.basename(os.readlink(f"{home}/current"))
    except OSError:
        return None
    return int(name) if name.isdecimal() else None


def switch(home: str, number: int) -> None:
    """Let ``current`` name a release; a new one remembers what it replaced. There is no moment without the link."""
    before, note = current(home), f"{home}/releases/{number}/{REPLACES}"
    if before is not None and before < number and not os.path.exists(note):
        with open(f"{note}.part", "w", encoding="ascii") as stream:
            stream.write(f"{before}\n")
        os.replace(f"{note}.part", note)
    aside = f"{home}/.current"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(aside)
    os.symlink(f"releases/{number}", aside)
    os.replace(aside, f"{home}/current")


def mark_served(home: str, number: int, proof: str) -> None:
    """Write down that a release has served: it is one to go back to. ``proof`` says what it did."""
    path = f"{home}/releases/{number}/{SERVED}"
    if not os.path.exists(path):
        at = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        try:
            with open(f"{path}.part", "w", encoding="utf-8") as stream:
                json.dump({"at": at, "proof": proof}, stream)
            os.replace(f"{path}.part", path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(f"{path}.part")
            raise OSError(error.errno, error.strerror, path) from error  # a write to a full disk names no file


def proof(home: str) -> Optional[dict[str, Any]]:
    """Return what the proof of the current release asks; None where it cannot be asked for a tool call."""
    try:
        with open(f"{home}/current/{PROOF}", encoding="utf-8") as stream:
            found: Optional[dict[str, Any]] = json.load(stream)
    except FileNotFoundError:
        return None
    return found


def to_go_back_to(home: str) -> Optional[int]:
    """Return the release that the current one replaced, or the newest before it, that has served; None where there is none."""
    found = read(home)
    with contextlib.suppress(OSError, ValueError), open(f"{home}/releases/{found['current']}/{REPLACES}", encoding="ascii") as stream:
        replaced = int(stream.read())
        if replaced in found["served"]:
            return replaced
    before = [number for number in found["served"] if found["current"] is None or number < found["current"]]
    return max(before, default=None)


def prune(home: str, keep: int) -> list[int]:
    """Remove all but the newest ``keep`` releases, never the current one or the one to go back to; return what went."""
    found = read(home)
    # those that failed are kept too, to be looked at, but take no place of one that served
    newest = {*found["served"][-keep:], *found["numbers"][-keep:]} if keep else set()
    wanted = {found["current"], to_go_back_to(home), *newest}
    doomed = [number for number in found["numbers"] if number not in wanted]
    for number in doomed:
        shutil.rmtree(f"{home}/releases/{number}")
    return doomed


def history(home: str) -> list[dict[str, Any]]:
    """Return what is known of each release, oldest first: number, current, environment, model, served (when, or None), proof."""
    found = read(home)
    rows = []
    for number in found["numbers"]:
        place = f"{home}/releases/{number}"
        links = {}
        for name in ("environment", "model"):
            try:
                links[name] = os.readlink(f"{place}/{name}")
            except OSError:
                links[name] = ""
        served: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError), open(f"{place}/{SERVED}", encoding="utf-8") as stream:
            served = json.load(stream)
        rows.append(
            {"number": number, "current": number == found["current"], **links, "served": served.get("at"), "proof": served.get("proof")}
        )
    return rows


def gone_back(home: str) -> bool:
    """Tell whether an instance has gone back from a release that had served: an upgrade that failed has not."""
    found = read(home)
    return found["current"] is not None and max(found["served"], default=0) > found["current"]


def choose(home: str, instance: str, number: Optional[int]) -> int:
    """Return the release that an instance is rolled back to: the one that is asked for, or the one before the current one.

    Where none is asked for and it has gone back already, that is the current one: a rollback that was cut off is finished, and
    not taken one step further. Raises Refused for what is not there.
    """
    where = f"-e instance={instance}"
    found = read(home)
    if number is None:
        if gone_back(home):
            return int(found["current"])
        back = to_go_back_to(home)
        if back is None:
            raise Refused(where, "has no release before the current one that has served.", "Name one with -e release=N.")
        number = back
    if number not in found["numbers"]:
        others = [str(one) for one in found["numbers"] if one != found["current"]]
        raise Refused(where, f"release {number} is not there.", f"It has: {', '.join(others) or 'no other'}.")
    lacks = missing(home, number)
    if lacks:
        gone = os.readlink(lacks) if os.path.islink(lacks) else lacks
        raise Refused(where, f"release {number} needs {gone}, which is gone.", "Choose another, or let site.yml make a new one.")
    return number


def report(homes: Sequence[str]) -> list[str]:
    """Return the releases of all instances as lines to read."""
    lines = []
    for home in homes:
        lines.append(os.path.basename(home))
        for row in history(home):
            mark = "*" if row["current"] else " "
            did = f"served since {row['served']} ({row['proof']})" if row["served"] else "never served"
            lines.append(f"{mark} {row['number']:4}  {os.path.basename(row['environment'])}  {os.path.basename(row['model'])}  {did}")
    return lines
