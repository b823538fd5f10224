# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which features releases of Codex have, as data/codex_features.json says. Read on the controller only."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from . import compatibility
from .codex_config import GUIDE_FEATURES, has_key
from .errors import Refused, nearest

FILE = pathlib.Path(__file__).parent / "data" / "codex_features.json"
ANYWAY = "Or, where you know that this Codex has it, write it below codex_extra_config: features."


@functools.cache
def _data() -> Any:
    return json.loads(FILE.read_text(encoding="utf-8"))


def problems(features: Mapping[str, Any], version: str, guide: bool) -> Iterator[Refused]:
    """Yield which features a version does not have: an older Codex ignores them in silence, and the role leaves them out."""
    names, newest = _data()["names"], _data()["releases"][-1]
    for name, value in features.items() if isinstance(features, Mapping) else ():  # another kind is told by the argument spec
        where = f"codex_features {name}"
        if guide and name in GUIDE_FEATURES:
            continue
        row = compatibility.config_key(f"features.{name}")
        if name not in names and row is None:
            # what a release that nobody has looked at has is not known
            if not compatibility.older(newest, version):
                yield Refused(where, "is no feature of any Codex that is known.", nearest(name, names, "Remove it.") + " " + ANYWAY)
        elif value and (not has_key(version, f"features.{name}") or _lacks(version, name)):
            instead = f"Write {row.instead} instead." if row and row.instead and row.instead != "nothing" else "Remove it."
            yield Refused(where, f"Codex {version} has no such feature.", f"{instead} {ANYWAY}")


def _lacks(version: str, name: str) -> bool:
    """Tell whether a version is surely outside of those that have a feature: between two that were looked at it is not known."""
    if name not in _data()["names"]:
        return False
    releases, (first, last) = _data()["releases"], _data()["names"][name]
    before, after = releases.index(first) - 1, releases.index(last) + 1
    return (before >= 0 and not compatibility.older(releases[before], version)) or (
        after < len(releases) and not compatibility.older(version, releases[after])
    )
