# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gateway reads when it starts, for nginx: digests of keys, models, the servers' own keys. A secret as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from . import gateway_caddy, gateway_keys, gateway_plan
from .api_key import PLACEHOLDER, read_or_make
from .errors import Refused
from .gateway_rotation import digest, servers_before

# settings that are in nginx's own file: here, so that the digest of the state tells whether that one was loaded too
OF_NGINX = (
    "listen", "port", "names", "routes", "monitors", "body_limit_mib", "stream_timeout", "drained", "tls", "acme_directory", "acme_email"
)  # fmt: skip


def usual(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the limits of a key that has none of its own."""
    return {name: int(settings[name]) for name in gateway_keys.LIMITS}


def server_key(variables: Mapping[str, Any], make: bool, read: Callable[[str, bool], str] = read_or_make) -> str:
    """Return the key of a model server, from where its role has it."""
    return str(variables["vllm_api_key"]) if variables.get("vllm_api_key") else read(key_file(variables), make)


def key_file(variables: Mapping[str, Any]) -> str:
    """Return the file of the controller with a model server's key, from where its role has it."""
    return str(variables.get("vllm_api_key_file") or os.path.join(str(variables["inventory_dir"]), ".secrets/vllm_api_key"))


def key_files(servers: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the files with the keys of model servers, each once. Raises Refused for a key that is in the inventory itself."""
    for server, variables in servers.items():
        if variables.get("vllm_api_key"):
            why = f"of {server} is written in the inventory, where a playbook does not change it."
            raise Refused("vllm_api_key", why, "Write another there and run site.yml, or remove it to have keys kept in a file.")
    return sorted({os.path.expanduser(key_file(variables)) for variables in servers.values()})


def key_before(variables: Mapping[str, Any]) -> str:
    """Return the key that a model server may still have while the servers' key is rotated; else nothing."""
    return "" if variables.get("vllm_api_key") else servers_before(key_file(variables))


def text(
    settings: Mapping[str, Any],
    instances: Sequence[Mapping[str, Any]],
    server_keys: Mapping[str, tuple[str, str]],
    certificate: str,
    make: bool,
    read: Callable[[str, bool], str] = read_or_make,
) -> str:
    """Return the file's text. ``server_keys`` has by server its key, and the one that it may have still, or nothing."""
    models = gateway_plan.models(instances, settings["drained"], settings["host"])
    headers = gateway_plan.backend_authorizations(models, server_keys)
    directory = os.path.expanduser(str(settings["secrets"]))
    caddy = settings["engine"] == "caddy"
    internal = {digest(key) for pair in server_keys.values() for key in pair if key not in ("", PLACEHOLDER)}
    keys = gateway_keys.table(settings["keys"], directory, usual(settings), make, read, internal)
    state = {
        "keys": {} if caddy else keys,
        "models": gateway_plan.lua_models(models, {} if caddy else headers),
        "hold": settings["hold"],
        "stream_timeout": settings["stream_timeout"],
        "nginx": {name: settings[name] for name in OF_NGINX},
        "certificate": hashlib.sha256(certificate.encode()).hexdigest(),
    }
    said = json.dumps(state, indent=1, sort_keys=True) + "\n"
    if not caddy:
        return said
    # all models are on the same servers there, which have one key
    return gateway_caddy.secrets(keys, headers[models[0]["upstream"]], digest(said))
