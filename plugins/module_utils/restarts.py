# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which instances run with files that have changed since they started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def instances_to_restart(
    files: Mapping[str, Iterable[str]], observed: Mapping[str, Mapping[str, Any]], changed_paths: Iterable[str] = ()
) -> list[str]:
    """Return the units that need a restart.

    ``files`` is unit -> the paths it reads; ``observed`` is what ownmetal.codex.tree saw (units, paths);
    ``changed_paths`` is what it wrote since. A running unit whose file is younger than its process counts too: an earlier
    run may have ended between the writing and the restart, and would otherwise never be made good. Units that do not run are
    not listed: they read the new files when they start.
    """
    changed = set(changed_paths)
    stale = []
    for unit, paths in files.items():
        started = observed["units"].get(unit, {}).get("started")
        if started is None:
            continue
        seen = observed["paths"]
        if changed.intersection(paths) or any(seen.get(path, {}).get("modified", 0) > started for path in paths):
            stale.append(unit)
    return stale
