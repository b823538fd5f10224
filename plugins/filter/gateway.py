# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The filters of roles/gateway: thin faces of module_utils/gateway_plan.py."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from ansible_collections.ownmetal.codex.plugins.filter.catalogue import readable
from ansible_collections.ownmetal.codex.plugins.module_utils import (
    gateway_caddy,
    gateway_keys,
    gateway_leftovers,
    gateway_rotation,
    gateway_setup,
    gateway_state,
)
from ansible_collections.ownmetal.codex.plugins.module_utils import gateway_plan as core


def problems(settings: Mapping[str, Any]) -> list[str]:
    """Return the sentences about what is wrong with the inventory; none when nothing is."""
    return [str(refused) for refused in core.problems(settings, settings["instances"])]


def host_problems(observed: Mapping[str, Any], host: str, port: int, unit: str) -> list[str]:
    """Return the sentences about what stands in the way on a gateway."""
    return [str(refused) for refused in core.host_problems(host, observed, int(port), unit)]


def models(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each served name with its upstream servers."""
    return core.models(settings["instances"], settings["drained"], settings["host"])


def classes(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the different limits of all keys."""
    return core.classes(settings["keys"], gateway_state.usual(settings))


def listing(settings: Mapping[str, Any]) -> str:
    """Return the answer to /v1/models, for an engine that has it in its configuration."""
    return gateway_caddy.listing(models(settings))


def leftovers(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what another engine, or another way to a certificate, has left, as entries of the module tree: never shown."""
    return [{"dest": path, "state": "absent", "secret": True} for path in gateway_leftovers.leftovers(settings)]


def client_instances(instances: Sequence[Mapping[str, Any]], gateway: str, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what developer machines are told of the instances: the same models, at the address of a gateway with these variables."""
    return core.client_instances(instances, gateway, variables)


def key_files(settings: Mapping[str, Any], team: str = "", name: str = "") -> list[str]:
    """Return the files of the keys that are rotated: all, those of a team, or one."""
    directory = os.path.expanduser(str(settings["secrets"]))
    return [gateway_keys.path(directory, entry) for entry in gateway_rotation.chosen(settings["keys"], team or None, name or None)]


def server_key_files(hostvars: Mapping[str, Any], servers: Sequence[str]) -> list[str]:
    """Return the files with the keys of model servers, each once."""
    return gateway_state.key_files({server: hostvars[server] for server in servers})


def left_out(hostvars: Mapping[str, Any], gateways: Sequence[str], secrets: str, present: Sequence[str]) -> list[str]:
    """Return the gateways that share the files of people's keys, and are no part of the run."""
    return gateway_rotation.left_out(secrets, {gateway: hostvars[gateway] for gateway in gateways}, present)


class FilterModule:
    """The filters of the role."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them by name."""
        functions = {
            "gateway_numbers": core.numbers,
            "gateway_problems": problems,
            "gateway_host_problems": host_problems,
            "gateway_models": models,
            "gateway_classes": classes,
            "gateway_listing": listing,
            "gateway_leftovers": leftovers,
            "gateway_client_instances": client_instances,
            "gateway_setup": gateway_setup.setup,
            "gateway_key_files": key_files,
            "gateway_left_out": left_out,
            "gateway_server_key_files": server_key_files,
        }
        return {name: readable(function) for name, function in functions.items()}
