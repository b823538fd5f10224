# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What each engine of the gateway can, as data: what the chosen one cannot is refused, and docs/gateway.md shows the same table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import Refused

ENGINES = ("nginx", "caddy")


@dataclass(frozen=True)
class Ability:
    """One thing that a gateway does: how each engine does it (empty: it cannot), and the settings that ask for it."""

    what: str
    nginx: str
    caddy: str
    settings: tuple[str, ...] = ()  # variables of the role, without their prefix
    of_a_key: tuple[str, ...] = ()  # words of an entry of gateway_keys


LIMITS = ("requests_per_minute", "burst", "concurrency")
MODELS = "several models at one address"
LENGTHS = "lengths of models that the inventory leaves to vLLM"
TABLE = (
    Ability(MODELS, "by the model in the body", ""),
    Ability("keys for some models only", "by the model in the body", "", of_a_key=("models",)),
    Ability("a rate and a concurrency of each key", "429 above them", "", LIMITS, LIMITS),
    Ability(LENGTHS, "what the servers say", ""),
    Ability("keys at rest on the gateway", "SHA-256 digests", "SHA-256 digests"),
    Ability("a key's end, and a new key with an overlap", "yes", "yes"),
    Ability(
        "a new key of the servers", "the old one is asked with where the new one is refused", "each server is asked first which one it has"
    ),
    Ability("allow-list of routes, fixed headers to the servers", "yes", "yes", ("routes",)),
    Ability("`prompt_cache_key` keeps a conversation on its server", "yes", "by the header `session_id` alone"),
    Ability("waiting for a server that restarts", "while none answers", "while no `/health` is 200", ("hold",)),
    Ability(
        "another server is asked",
        "when one refuses, or dies before its first byte",
        "when one takes no connection, or its `/health` is not 200",
    ),
    Ability("draining, also by an upgrade of a server", "yes", "yes", ("drained",)),
    Ability("`/health` and `/metrics` for monitors", "yes", "yes", ("monitors",)),
    Ability("`/setup` for developers without Ansible", "yes", "", ("setup",)),
    Ability("a limit of bodies", "413", "413", ("body_limit_mib",)),
    Ability("a body that comes slowly", "is cut off after 60 s of silence", "is waited for"),
    Ability("an answer that its server did not end", "is cut off", "may end as if it were whole"),
    Ability("a client that takes nothing of an answer", "is cut off after `gateway_stream_timeout`", "is kept"),
    Ability("a body without a length, with HTTP/2", "411 or 400", "yes"),
    Ability("certificates", "private CA, files, ACME (certbot)", "private CA, files, ACME (its own)", ("tls",)),
    Ability("reload without a lost stream", "yes", "yes, but a request that waits for a server gets a 503"),
    Ability("the model in the access log", "yes", ""),
    Ability("rotation of the access log", "logrotate, daily, 14 files", "its own, at 50 MB, 14 files"),
)


def how(ability: Ability, engine: str) -> str:
    """Return how an engine does something; empty where it cannot."""
    return {"nginx": ability.nginx, "caddy": ability.caddy}[engine]


def limits_keys(engine: str) -> bool:
    """Tell whether an engine counts the requests of a key."""
    return all(how(ability, engine) for ability in TABLE if ability.settings == LIMITS)


def problems(settings: Mapping[str, Any]) -> list[Refused]:
    """Return the settings that the chosen engine cannot honour; it has to be one that is known."""
    engine = settings["engine"]
    found = []
    for ability in TABLE:
        if how(ability, engine):
            continue
        why = f"gateway_engine {engine} cannot: {ability.what}."
        other = next(name for name in ENGINES if how(ability, name))
        otherwise = f"Write gateway_engine: {other}, or leave it out."
        found += [Refused(f"gateway_{name}", why, otherwise) for name in ability.settings if settings[name]]
        found += [
            Refused(f"gateway_keys {key.get('team')}/{key.get('name')}: {name}", why, otherwise)
            for key in (settings["keys"] if isinstance(settings["keys"], list) else [])
            if isinstance(key, Mapping) and key.get("state", "present") == "present"
            for name in ability.of_a_key
            if name in key
        ]
    return found


def problems_of_models(engine: str, models: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Return what the chosen engine cannot honour of the models that it leads to."""
    found = []
    if not _can(MODELS, engine) and any(model["servers"] != models[0]["servers"] for model in models):
        names = ", ".join(sorted(model["name"] for model in models))
        why = f"cannot see which model a body asks for, and these have servers of their own: {names}."
        instead = "Write gateway_engine: nginx, or gateway_instances with the instances of one model."
        found.append(Refused(f"gateway_engine {engine}", why, instead))
    if not _can(LENGTHS, engine):
        why = f"is left to vLLM, and gateway_engine {engine} lists in /v1/models what the inventory says."
        unsaid = sorted({row["instance"] for model in models if not model["max_model_len"] for row in model["servers"]})
        found += [Refused(f"vllm_instances {name}: max_model_len", why, "Write it, or gateway_engine: nginx.") for name in unsaid]
    return found


def _can(what: str, engine: str) -> bool:
    return any(how(ability, engine) for ability in TABLE if ability.what == what)


def rows() -> list[tuple[str, str, str]]:
    """Return the table as it is shown."""
    return [(ability.what, ability.nginx or "no", ability.caddy or "no: refused") for ability in TABLE]
