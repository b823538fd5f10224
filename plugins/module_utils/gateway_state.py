# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a gateway's program reads when it starts: digests of keys, models, the servers' own keys. A secret as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Callable

from . import gateway_keys, gateway_plan
from .api_key import read_or_make

# settings that are in nginx's own file: here, so that the digest of the state tells whether that one was loaded too
OF_NGINX = ("listen", "port", "routes", "monitors", "body_limit_mib", "stream_timeout", "drained")


def usual(settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the limits of a key that has none of its own."""
    return {name: int(settings[name]) for name in gateway_keys.LIMITS}


def server_key(variables: Mapping[str, Any], make: bool, read: Callable[[str, bool], str] = read_or_make) -> str:
    """Return the key of a model server, from where its role has it."""
    if variables.get("vllm_api_key"):
        return str(variables["vllm_api_key"])
    file = variables.get("vllm_api_key_file") or os.path.join(str(variables["inventory_dir"]), ".secrets/vllm_api_key")
    return read(str(file), make)


def text(
    settings: Mapping[str, Any],
    instances: Sequence[Mapping[str, Any]],
    server_keys: Mapping[str, str],
    certificate: str,
    make: bool,
    read: Callable[[str, bool], str] = read_or_make,
) -> str:
    """Return the file's text."""
    models = gateway_plan.models(instances, settings["drained"], settings["host"])
    headers = gateway_plan.backend_authorizations(models, server_keys)
    directory = os.path.expanduser(str(settings["secrets"]))
    state = {
        "keys": gateway_keys.table(settings["keys"], directory, usual(settings), make, read),
        "models": gateway_plan.lua_models(models, headers),
        "hold": settings["hold"],
        "stream_timeout": settings["stream_timeout"],
        "nginx": {name: settings[name] for name in OF_NGINX},
        "certificate": hashlib.sha256(certificate.encode()).hexdigest(),
    }
    return json.dumps(state, indent=1, sort_keys=True) + "\n"
