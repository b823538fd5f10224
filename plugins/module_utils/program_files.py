# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A program of several files as entries for ownmetal.codex.tree."""

from __future__ import annotations

import os
from typing import Any


def program_files(folder: str, dest: str) -> list[dict[str, Any]]:
    """Return the entries that put ``folder`` (on the controller) to ``dest``, programs with the mode of one."""
    entries: list[dict[str, Any]] = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        there = os.path.normpath(os.path.join(dest, os.path.relpath(place, folder)))
        entries.append({"dest": there, "state": "directory"})
        for name in sorted(files):
            path = os.path.join(place, name)
            with open(path, encoding="utf-8") as stream:
                content = stream.read()
            # an archive of the collection keeps no modes
            entries.append({"dest": os.path.join(there, name), "content": content, "mode": "0755" if content.startswith("#!") else "0644"})
    return entries
