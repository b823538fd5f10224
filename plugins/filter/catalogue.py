# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The core's functions as filters. Those for an operator's own use are documented in the file of their name beside this one."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.ownmetal.codex.plugins.module_utils import catalogue as core
from ansible_collections.ownmetal.codex.plugins.module_utils import (
    compatibility,
    environment,
    firewall,
    layout,
    model_rules,
    pythons,
    server_state,
)
from ansible_collections.ownmetal.codex.plugins.module_utils import gpu_gate as gpu_gates
from ansible_collections.ownmetal.codex.plugins.module_utils.api_key import usable
from ansible_collections.ownmetal.codex.plugins.module_utils.diagnoses import journal_signatures
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.folder_digest import folder_digest
from ansible_collections.ownmetal.codex.plugins.module_utils.inventory_names import misspelt, unknown
from ansible_collections.ownmetal.codex.plugins.module_utils.inventory_names import play_hosts as hosts_of_play
from ansible_collections.ownmetal.codex.plugins.module_utils.model_rules import NEWEST_CODEX
from ansible_collections.ownmetal.codex.plugins.module_utils.networks import is_loopback
from ansible_collections.ownmetal.codex.plugins.module_utils.own_tracks import known as known_tracks
from ansible_collections.ownmetal.codex.plugins.module_utils.program_files import program_files
from ansible_collections.ownmetal.codex.plugins.module_utils.pythons import source
from ansible_collections.ownmetal.codex.plugins.module_utils.restarts import instances_to_restart
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import AUTO
from ansible_collections.ownmetal.codex.plugins.module_utils.tracks import track as find_track

# defaults of roles, which other hosts cannot see (a test compares them)
DEFAULT_TRACK = "auto"
DEFAULT_CODEX = NEWEST_CODEX


def readable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the core's Refused into Ansible's own error, with the same sentences."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Refused as refused:
            raise AnsibleFilterError(str(refused)) from refused

    return wrapped


def instances(everyone: Any, group: Any, host: Any, track: str, tracks: Any = None, left_out: Any = None) -> list[dict[str, Any]]:
    """Merge and check the three variables of one server; ``tracks`` is vllm_tracks, ``left_out`` vllm_gpus_left_out."""
    variables = dict(zip(core.VARIABLES, (everyone, group, host)))
    return core.server_instances({**variables, "vllm_track": track, "vllm_tracks": tracks, core.LEFT_OUT: left_out}, track)


def environments(instances: Sequence[Mapping[str, Any]], tracks: Any, python: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what each environment of a server is built from; ``python`` is what says where its Pythons come from."""
    return environment.environments(instances, known_tracks(tracks), source(python))


def gpu_gate(
    instances: Sequence[Mapping[str, Any]], environments: Sequence[Mapping[str, Any]], paths: Mapping[str, str], starting: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the instances on GPUs, for ownmetal.codex.gpu_gate; ``starting`` are the names of those that will be started."""
    return gpu_gates.rows(instances, environments, paths, starting, model_rules.usual_share)


def new_warnings(hostvars: Mapping[str, Any], servers: Sequence[str], server: str) -> list[str]:
    """Return a server's warnings without those about tracks and Pythons that a server before it has too."""
    said = {name: sentences(((hostvars[name].get("__vllm_planned") or {}).get("plan") or {}).get("warnings") or []) for name in servers}
    before = {sentence for name in servers[: servers.index(server)] for sentence in said[name]} if server in servers else set()
    return [one for one in said.get(server, []) if not (one in before and one.startswith(("vllm_track ", "python_version ")))]


def track_python(name: str, tracks: Any = None) -> str:
    """Return the Python ("3.11") of a track; empty where it is not chosen yet."""
    return "" if name == AUTO else find_track(name, known_tracks(tracks)).python


def python_problems(versions: Sequence[str], host: str, system: Mapping[str, str], wanted: Mapping[str, Any]) -> list[str]:
    """Return the sentences about Pythons that a host cannot have."""
    where = source(wanted)
    return [str(refused) for version in versions for refused in pythons.problems(str(version), host, system, where)]


def codex_machines(hostvars: Mapping[str, Any], hosts: Sequence[str]) -> list[dict[str, Any]]:
    """Return, of the developer machines, what a server's plan wants to know: host, version and extra."""
    return [
        {
            "host": host,
            "version": str(hostvars[host].get("codex_version", DEFAULT_CODEX)),
            "extra": hostvars[host].get("codex_extra_config", {}),
        }
        for host in hosts
    ]


def sentences(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the refusals or warnings of a plan as sentences."""
    return [f"{row['where']}: {row['why']} {row['instead']}".strip() for row in rows]


def plans(hostvars: Mapping[str, Any], servers: Sequence[str]) -> list[dict[str, Any]]:
    """Return the plans of all servers; one that failed before it was planned is not ok, and the play says why."""
    why = "failed before it was planned: the play's output says why."
    missing = {"where": "playbooks/plan.yml", "why": why, "instead": ""}
    planned = {server: (hostvars[server].get("__vllm_planned") or {}).get("plan") for server in servers}
    return [plan or {"server": server, "ok": False, "refusals": [missing]} for server, plan in planned.items()]


def catalogue(hostvars: Mapping[str, Any], servers: Sequence[str], track: str = DEFAULT_TRACK) -> list[dict[str, Any]]:
    """Return the instances of all servers, with server and base_url."""
    return core.catalogue(hostvars, servers, track)


def catalogue_problems(hostvars: Mapping[str, Any], servers: Sequence[str], track: str = DEFAULT_TRACK) -> list[str]:
    """Return the sentences about what is wrong with the instances of all servers; none when nothing is."""
    found: dict[str, None] = {}
    for server in servers:
        try:
            core.catalogue(hostvars, [server], track)
        except Refused as refused:
            found.update(dict.fromkeys(str(refused).splitlines()))  # servers that share a list share its mistakes
    return list(found)


def pool_problems(server: str, host: str, address: str) -> list[str]:
    """Return what is wrong with the address by which a server reaches its pool; none when nothing is."""
    if host == server or not is_loopback(address):
        return []
    why = f"of the pool host {host} is {address}: on {server} that is {server} itself."
    return [str(Refused("vllm_pool_address", why, f"Write the address by which the servers reach {host}."))]


def key_problems(key: Any, variable: str = "vllm_api_key") -> list[str]:
    """Return the sentence about a key that is none, without the key."""
    if usable(key):
        return []
    why = "is not one word of at least 16 ASCII characters; with an empty one vLLM would let everyone in."
    return [str(Refused(variable, why, "Write a longer one, or remove it to have one made."))]


def path_problems(paths: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each variable that has to be an absolute path and is not."""
    wrong = {name: path for name, path in paths.items() if not (isinstance(path, str) and path.startswith("/"))}
    return [str(Refused(name, f"{path!r} is no absolute path.", "Begin it with /.")) for name, path in wrong.items()]


def number_problems(numbers: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each variable that counts something and is negative; what is no number is refused by its specification."""
    wrong = {name: number for name, number in numbers.items() if re.fullmatch(r"-\s*\d+", str(number).strip())}
    return [str(Refused(name, f"cannot be {number}.", "Write 0 or more.")) for name, number in wrong.items()]


def misspelt_variables(names: Sequence[str], specs: Mapping[str, Any], *more: str) -> list[str]:
    """Return a sentence for each variable name that is very like one of a role's argument specs."""
    return [str(refused) for refused in misspelt(names, _options(specs) | set(more))]


def unknown_variables(names: Sequence[str], role: str, specs: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each variable name with a role's prefix that is none of its argument specs."""
    return [str(refused) for refused in unknown(role, names, _options(specs))]


def _options(specs: Mapping[str, Any]) -> set[str]:
    return {option for spec in specs["argument_specs"].values() for option in spec.get("options", {})}


def play_hosts(groups: Mapping[str, Sequence[str]], usual: str, group: str = "", optional: bool = False) -> str:
    """Return the pattern of a play's hosts.

    A play's `hosts` is the one thing that Ansible's main process computes. What is loaded there, all filters and the facts, its
    workers have; otherwise each task's worker would load it again, for a quarter of a second.
    """
    compatibility.systems()
    return hosts_of_play(groups, usual, group, optional)


class FilterModule:
    """The filters of the collection."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        functions = {
            "instances": instances,
            "instance_config": core.config,
            "program_files": program_files,
            "firewall_files": firewall.files,
            "guarded": firewall.guarded,
            "own_flags": core.own_flags,
            "is_local": core.is_local,
            "local_url": core.local_url,
            "instances_to_restart": instances_to_restart,
            "catalogue": catalogue,
            "catalogue_problems": catalogue_problems,
            "key_problems": key_problems,
            "pool_problems": pool_problems,
            "path_problems": path_problems,
            "number_problems": number_problems,
            "python_problems": python_problems,
            "pythons": lambda versions, wanted: pythons.wanted(versions, source(wanted)),
            "track_python": track_python,
            "environments": environments,
            "gpu_gate": gpu_gate,
            "new_warnings": new_warnings,
            "folder_digest": folder_digest,
            "models_missing": server_state.models_missing,
            "hub_models": server_state.hub_models,
            "models_to_see": server_state.models_to_see,
            "journal_signatures": lambda _nothing: journal_signatures(),
            "instance_files": layout.instance_files,
            "new_releases": layout.new_releases,
            "new_release_files": layout.new_release_files,
            "unit_jobs": layout.unit_jobs,
            "all_served": lambda seen: all(one["current"] in one["served"] for one in seen),
            "absent_instance_files": layout.absent_instance_files,
            "unit_paths": layout.unit_paths,
            "files_to_see": server_state.files_to_see,
            "misspelt_variables": misspelt_variables,
            "unknown_variables": unknown_variables,
            "codex_machines": codex_machines,
            "sentences": sentences,
            "plans": plans,
            "play_hosts": play_hosts,
        }
        return {name: readable(function) for name, function in functions.items()}
