# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filters of roles/codex: thin faces of module_utils/codex_settings.py and toml_merge.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_settings as core
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

try:
    from ansible_collections.ownmetal.codex.plugins.module_utils.toml_merge import dump_toml
except ImportError:  # of tomlkit, which ansible-core does not bring
    dump_toml = None


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Return the sentences about what is wrong with the inventory; none when nothing is."""
    return [str(refused) for refused in core.problems(settings)]


def host_problems(observed: Mapping[str, Any], host: str, link: str, directory: str, machines: Mapping[str, str]) -> list[str]:
    """Return the sentences about what stands in the way of installing on a machine."""
    return [str(refused) for refused in core.host_problems(observed, host, link, directory, list(machines))]


def serving(instances: Sequence[Mapping[str, Any]], model: str) -> Optional[Mapping[str, Any]]:
    """Return the instance that serves the model."""
    return core.serving(instances, model)


def kept_paths(users: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paths by which one sees for whom something was merged already, and who had a file before."""
    return [path(user["name"]) for user in users for path in (core.merged_path, core.before_path)]


def files(
    users: Sequence[Mapping[str, Any]], provider: str, api_key: Optional[str], program: str, seen: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the tree's entries for all users; ``seen`` is what was observed of the kept paths, or nothing yet."""
    entries = []
    for user in users:
        first = not seen.get(core.merged_path(user["name"]), {}).get("exists", False)
        entries += core.user_files(user["name"], provider, api_key, program, first)
    return entries


def absent_files(
    users: Sequence[Mapping[str, Any]], provider: str, merged: Mapping[str, str], seen: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the tree's entries that uninstall; ``merged`` is, by path, what was merged; ``seen`` is what was observed."""
    entries = []
    for name in (user["name"] for user in users):
        kept = seen[core.before_path(name)]["exists"]
        entries += core.absent_user_files(name, provider, merged.get(core.merged_path(name)), kept)
    return entries


def to_toml(data: Mapping[str, Any]) -> str:
    """Return a mapping as TOML; keys that are null are left out."""
    if dump_toml is None:
        raise AnsibleFilterError("The controller has no tomlkit, which Codex's configuration is merged with. Run: pip install tomlkit")
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
            "codex_kept_paths": kept_paths,
            "codex_files": files,
            "absent_codex_files": absent_files,
            "to_toml": to_toml,
        }
