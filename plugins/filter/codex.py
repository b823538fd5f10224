# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filters of roles/codex: thin faces of module_utils/codex_settings.py, codex_files.py and toml_merge.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from ansible.errors import AnsibleFilterError
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_files, codex_release, gateway_state
from ansible_collections.ownmetal.codex.plugins.module_utils import codex_settings as core
from ansible_collections.ownmetal.codex.plugins.module_utils.api_key import PLACEHOLDER, read_or_make
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused

try:
    from ansible_collections.ownmetal.codex.plugins.module_utils.toml_merge import dump_toml
except ImportError:  # of tomlkit, which ansible-core does not bring
    dump_toml = None


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Return the sentences about what is wrong with the inventory; none when nothing is."""
    return [str(refused) for refused in core.problems(settings)]


def host_problems(observed: Mapping[str, Any], settings: Mapping[str, Any], places: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the sentences about what stands in the way of installing on a machine."""
    return [str(refused) for refused in core.host_problems(observed, settings, places)]


def ca_problems(observed: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return the sentences about what is wrong with the certificates that Codex is to trust."""
    return [str(refused) for refused in core.ca_problems(observed, settings)]


def version_problems(version: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the sentences about what the Codex that is on a machine cannot do."""
    return [str(refused) for refused in core.version_problems(version, settings)]


def serving(instances: Sequence[Mapping[str, Any]], model: str) -> Optional[Mapping[str, Any]]:
    """Return the instance that serves the model."""
    return core.serving(instances, model)


def urls(instances: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[str]:
    """Return the base URLs that serve the models, each once."""
    found = [core.serving(instances, model) for model in models]
    return list(dict.fromkeys(instance["base_url"] for instance in found if instance))


def server_keys(hostvars: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return a number by server of the inventory, the same for the same key; a key is not made for it."""
    known = {str(one["server"]): hostvars[one["server"]] for one in instances if one["server"] in hostvars}
    return core.numbered({server: gateway_state.server_key(variables, False, _key_or_path) for server, variables in known.items()})


def _key_or_path(path: str, make: bool) -> str:
    """Return the key in a file; of one that is not there yet, or cannot be read, where it is."""
    try:
        key = read_or_make(path, make)
    except Refused:
        return path
    return path if key == PLACEHOLDER else key


def kept_paths(users: Sequence[Mapping[str, Any]], profiles: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the paths by which one sees what was merged already, where there was a file before, and which profiles there were."""
    people, names = [user["name"] for user in users], [profile["name"] for profile in profiles]
    places = codex_files.merge_places(people, names, {})
    found = [beside(path) for path in places for beside in (codex_files.merged_path, codex_files.before_path)]
    return found + [codex_files.noted_profiles(user) for user in people]


def machine_files(given: Mapping[str, Any], seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tree's entries of all users together; ``seen`` is what was observed of the kept paths, or nothing yet."""
    return codex_files.machine_entries(codex_files.plan(given), seen)


def user_files(given: Mapping[str, Any], seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tree's entries of each user, and of those who are taken out."""
    plan = codex_files.plan(given)
    found = [entry for user in plan.users for entry in codex_files.user_entries(plan, user, seen)]
    return found + [entry for user in plan.gone for entry in codex_files.user_taken_back(user, plan.provider, [], {})]


def left_over(given: Mapping[str, Any], seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tree's entries that take back profiles that the inventory has no more; ``seen`` is what was observed of the kept paths."""
    return codex_files.left_over(codex_files.plan(given), seen)


def absent_files(
    users: Sequence[Mapping[str, Any]], profiles: Sequence[Mapping[str, Any]], provider: str, seen: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the tree's entries that uninstall; ``seen`` is what was observed of the kept paths."""
    people, names = [user["name"] for user in users], [profile["name"] for profile in profiles]
    return codex_files.absent_entries(people, provider, names, seen)


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
            "codex_places": codex_release.places,
            "codex_host_problems": host_problems,
            "codex_ca_problems": ca_problems,
            "codex_version_problems": version_problems,
            "codex_serving": serving,
            "codex_urls": urls,
            "codex_server_keys": server_keys,
            "codex_kept_paths": kept_paths,
            "codex_machine_files": machine_files,
            "codex_user_files": user_files,
            "codex_left_over": left_over,
            "codex_present": codex_files.present,
            "absent_codex_files": absent_files,
            "to_toml": to_toml,
        }
