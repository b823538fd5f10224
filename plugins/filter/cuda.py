# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The core's functions for the role cuda as filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.ownmetal.codex.plugins.filter.catalogue import readable
from ansible_collections.ownmetal.codex.plugins.module_utils import cuda_after, cuda_plan, cuda_wants


def planned(settings: Mapping[str, Any], seen: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the plan for a server."""
    return cuda_plan.plan(settings, seen, name)


class FilterModule:
    """See the functions of plugins/module_utils/cuda_plan.py, cuda_wants.py and cuda_after.py."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        found = {
            "cuda_wants": cuda_wants.wants,
            "cuda_files": cuda_plan.files,
            "cuda_plan": planned,
            "cuda_newest_keyring": cuda_after.newest_keyring,
            "cuda_reboot_reasons": cuda_after.reboot_reasons,
            "cuda_fabric_version": cuda_after.fabric_version,
            "cuda_loose": cuda_after.loose,
            "cuda_held_by_role": cuda_after.held_by_role,
        }
        return {name: readable(function) for name, function in found.items()}
