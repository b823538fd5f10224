# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filters of roles/codex: thin faces of module_utils/codex_settings.py and toml_merge.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_settings as core
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.toml_merge import dump_toml


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Return the sentences about what is wrong with the inventory; none when nothing is."""
    return [str(refused) for refused in core.problems(settings)]


def host_problems(observed: Mapping[str, Any], host: str, link: str, directory: str, machines: Mapping[str, str]) -> list[str]:
    """Return the sentences about what stands in the way of installing on a machine."""
    return [str(refused) for refused in core.host_problems(observed, host, link, directory, list(machines))]


def serving(instances: Sequence[Mapping[str, Any]], model: str) -> Optional[Mapping[str, Any]]:
    """Return the instance that serves the model."""
    return core.serving(instances, model)


def merged_paths(users: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paths by which one sees for whom something was merged already."""
    return [core.merged_path(user["name"]) for user in users]


def files(
    users: Sequence[Mapping[str, Any]], provider: str, api_key: Optional[str], program: str, seen: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the tree's entries for all users; ``seen`` is what was observed of the merged paths, or nothing yet."""
    entries = []
    for user in users:
        first = not seen.get(core.merged_path(user["name"]), {}).get("exists", False)
        entries += core.user_files(user["name"], provider, api_key, program, first)
    return entries


def absent_files(users: Sequence[Mapping[str, Any]], provider: str, merged: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the tree's entries that uninstall; ``merged`` is, by user, what was merged into their configuration."""
    return [entry for user in users for entry in core.absent_user_files(user["name"], provider, merged.get(user["name"]))]


def to_toml(data: Mapping[str, Any]) -> str:
    """Return a mapping as TOML; keys that are null are left out."""
    try:
        return dump_toml(data)
    except Refused as refused:
        raise AnsibleFilterError(str(refused)) from refused


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {
            "codex_problems": problems,
            "codex_host_problems": host_problems,
            "codex_serving": serving,
            "codex_merged_paths": merged_paths,
            "codex_files": files,
            "absent_codex_files": absent_files,
            "to_toml": to_toml,
        }
