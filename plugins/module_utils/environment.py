# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The name of an environment: what went into it decides it, so equal names mean equal environments."""

from __future__ import annotations

import hashlib

RECIPE = "1"  # of roles/vllm/tasks/environment.yml: raise it when that file builds something else from the same lock


def environment_id(lock: str, track: str, python: str, machine: str) -> str:
    """Return TRACK-DIGEST: of the lock's text without comments, the interpreter ("3.11") and the machine ("x86_64")."""
    lines = [line.rstrip() for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    digest = hashlib.sha256("\n".join([RECIPE, python, machine, *lines]).encode()).hexdigest()
    return f"{track}-{digest[:12]}"
