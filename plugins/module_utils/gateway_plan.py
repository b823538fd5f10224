# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""From the catalogue of instances and the gateway's variables to what nginx is told, or a refusal."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from . import gateway_acme, gateway_engines, gateway_keys
from .catalogue import is_local
from .errors import ManyRefused, Refused, nearest
from .networks import bad_sources

ROUTES = {
    "chat/completions": "chat completions",
    "responses": "what Codex speaks",
    "completions": "plain completions",
    "embeddings": "embeddings",
}
TLS = ("private_ca", "files", "acme")
COUNTS = ("port", *gateway_keys.LIMITS, "body_limit_mib", "stream_timeout")
OR_NONE = ("hold", "key_overlap_hours")  # 0 is one too
LAST_PORT, ACME_PORT = 65535, 80
USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*")


def problems(settings: Mapping[str, Any], instances: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Return everything that is wrong with a gateway's inventory, so that it is mended in one go.

    ``settings`` has the role's variables without their prefix, and ``host``, the gateway's name in the inventory.
    """
    found = _engine(settings) + _tls(settings) + _addresses(settings) + _routes(settings) + _numbers(settings)
    try:
        every = models(instances, settings["drained"], settings["host"])
    except Refused as refused:
        return found + (refused.refusals if isinstance(refused, ManyRefused) else [refused])
    if settings["engine"] in gateway_engines.ENGINES:
        found += gateway_engines.problems_of_models(settings["engine"], every)
    return found + gateway_keys.problems(settings["keys"], [model["name"] for model in every])


def _engine(settings: Mapping[str, Any]) -> list[Refused]:
    engine = settings["engine"]
    if engine in gateway_engines.ENGINES:
        return gateway_engines.problems(settings)
    return [
        Refused(f"gateway_engine {engine}", "is no engine that this role knows.", f"Write one of: {', '.join(gateway_engines.ENGINES)}.")
    ]


def _tls(settings: Mapping[str, Any]) -> list[Refused]:
    kind, files = settings["tls"], {name: settings[f"tls_{name}"] for name in ("certificate", "key")}
    if kind not in TLS:
        return [Refused(f"gateway_tls {kind}", "is no way to a certificate that this role knows.", f"Write one of: {', '.join(TLS)}.")]
    found = gateway_acme.problems(settings)
    if kind == "files":
        return found + [
            Refused(f"gateway_tls_{name}", "is empty.", "Name a file of the controller.") for name, file in files.items() if not file
        ]
    return found + [
        Refused(f"gateway_tls_{name}", "is read with gateway_tls: files alone.", "Set that, or remove this.")
        for name, file in files.items()
        if file
    ]


def _addresses(settings: Mapping[str, Any]) -> list[Refused]:
    found = []
    if not _is_address(settings["listen"]):
        found.append(Refused("gateway_listen", f"{settings['listen']!r} is no address.", "Write one of the gateway's, 0.0.0.0 or '::'."))
    names = settings["names"]
    if not isinstance(names, list) or not names:
        found.append(Refused("gateway_names", "names nothing.", "Write the names and addresses that clients use."))
    else:
        found += [_bad_name(name) for name in names if not (isinstance(name, str) and (HOST_NAME.fullmatch(name) or _is_address(name)))]
    found += [Refused("gateway_monitors", why, "Write a list such as ['192.0.2.0/24'].") for why in bad_sources(settings["monitors"])]
    if not os.path.isabs(os.path.expanduser(str(settings["secrets"]))):
        found.append(Refused("gateway_secrets", f"{settings['secrets']} depends on where Ansible is started.", "Write an absolute path."))
    return found


def _bad_name(name: Any) -> Refused:
    why = f"{name!r} is neither a host's name nor an address."
    if isinstance(name, str) and HOST_NAME.fullmatch(name.replace("_", "-")):  # as the name in the inventory, which is the default
        return Refused("gateway_names", why, "A host's name has no '_': write the names and addresses that clients use.")
    return Refused("gateway_names", why, "Write it without scheme, port and path.")


def _is_address(text: Any) -> bool:
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def _routes(settings: Mapping[str, Any]) -> list[Refused]:
    routes = settings["routes"]
    if not isinstance(routes, list) or not routes:
        return [Refused("gateway_routes", "opens nothing.", "Write [chat/completions, responses], or leave it out.")]
    otherwise = f"Known are {', '.join(ROUTES)}; /v1/models is always open to who has a key."
    found = [
        Refused(f"gateway_routes: {name}", "is no route that a gateway opens.", nearest(str(name), ROUTES, otherwise))
        for name in routes
        if not (isinstance(name, str) and name in ROUTES)
    ]
    twice = [name for name in ROUTES if routes.count(name) > 1]
    return found + [Refused(f"gateway_routes: {name}", "stands twice.", "Remove one.") for name in twice]


def numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with whole numbers where they stand as text; what is none stays, to be refused."""
    return {key: int(value) if key in (*COUNTS, *OR_NONE) and str(value).isdecimal() else value for key, value in settings.items()}


def _numbers(settings: Mapping[str, Any]) -> list[Refused]:
    unlimited = settings["engine"] in gateway_engines.ENGINES and not gateway_engines.limits_keys(settings["engine"])
    counts = [name for name in COUNTS if not (unlimited and name in gateway_keys.LIMITS)]
    wrong = [name for name in counts if not gateway_keys.is_count(settings[name])]
    refusals = [
        Refused(f"gateway_{name}", f"{settings[name]!r} is no whole number above 0.", "Write one, or leave it out.") for name in wrong
    ]
    for name in OR_NONE:
        if not (gateway_keys.is_count(settings[name]) or (type(settings[name]) is int and settings[name] == 0)):
            refusals.append(
                Refused(f"gateway_{name}", f"{settings[name]!r} is no whole number.", "Write one, 0 for none, or leave it out.")
            )
    port = settings["port"]
    if gateway_keys.is_count(port) and port > LAST_PORT:
        refusals.append(Refused("gateway_port", f"{port} is no port: the last one is {LAST_PORT}.", "Write one, or leave it out for 443."))
    if port == ACME_PORT and settings["tls"] == "acme" and settings["engine"] == "nginx":
        why = f"{port} is where certbot answers the authority, whenever it renews the certificate."
        refusals.append(Refused("gateway_port", why, "Write another one, or leave it out for 443."))
    if settings["user"] == "root":
        why = "is root, and what reads the requests of strangers must not be."
        refusals.append(Refused("gateway_user", why, "Write another name, or leave it out."))
    elif not (isinstance(settings["user"], str) and USER.fullmatch(settings["user"])):  # to systemd nothing is root, and so is 0
        refusals.append(Refused("gateway_user", f"{settings['user']!r} is no user's name.", "Write one, or leave it out."))
    return refusals


def models(instances: Sequence[Mapping[str, Any]], drained: Any, gateway: str) -> list[dict[str, Any]]:
    """Return each served name with its upstream servers.

    A dict per name: ``name``, ``upstream`` (its name in nginx), ``max_model_len`` (the least of its instances, None where one leaves it
    to vLLM) and ``servers`` (``server``, ``instance``, ``address``, ``down``). Raises ManyRefused.
    """
    if not isinstance(drained, list):
        raise Refused("gateway_drained", "is not a list.", "Write [SERVER] or [SERVER/INSTANCE].")
    refusals = _unreachable(instances, gateway) + _unknown_drained(instances, drained)
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for instance in instances:
        for name in instance["served_model_name"]:
            by_name.setdefault(name, []).append(instance)
    if not by_name:
        refusals.append(
            Refused("gateway_instances", "is empty: no model to lead to.", "Add a vllm_instances entry to a server of the group.")
        )
    refusals += [one for name, group in by_name.items() for one in _mixed(name, group)]
    if refusals:
        raise ManyRefused(refusals)
    return [_model(number, name, group, drained) for number, (name, group) in enumerate(by_name.items())]


def _model(number: int, name: str, group: Sequence[Mapping[str, Any]], drained: Sequence[str]) -> dict[str, Any]:
    lengths = [instance["max_model_len"] for instance in group]
    servers = [
        {
            "server": instance["server"],
            "instance": instance["name"],
            "address": address(instance),
            "down": bool({instance["server"], f"{instance['server']}/{instance['name']}"} & set(drained)),
        }
        for instance in group
    ]
    return {"name": name, "upstream": f"model{number}", "max_model_len": None if None in lengths else min(lengths), "servers": servers}


def address(instance: Mapping[str, Any]) -> str:
    """Return HOST:PORT of an instance."""
    return str(instance["base_url"]).removeprefix("http://").removesuffix("/v1")


def _unreachable(instances: Sequence[Mapping[str, Any]], gateway: str) -> list[Refused]:
    return [
        Refused(
            f"vllm_instances {instance['name']}: host",
            f"listens on loopback of {instance['server']}, where the gateway {gateway} cannot reach it.",
            "Write host: with a private address of the server, and allow the gateway in vllm_allowed_sources.",
        )
        for instance in instances
        if is_local(instance) and instance["server"] != gateway
    ]


def _unknown_drained(instances: Sequence[Mapping[str, Any]], drained: Sequence[str]) -> list[Refused]:
    known = {one for row in instances for one in (row["server"], f"{row['server']}/{row['name']}")}
    return [
        Refused(f"gateway_drained: {name}", "leads to no instance.", nearest(str(name), known, "Write SERVER or SERVER/INSTANCE."))
        for name in drained
        if not (isinstance(name, str) and name in known)
    ]


def _mixed(name: str, group: Sequence[Mapping[str, Any]]) -> list[Refused]:
    """Find one served name over several models: what answers would be a matter of luck."""
    kinds = {_what(instance): f"{instance['name']} of {instance['server']}" for instance in group}
    if len(kinds) < 2:
        return []
    why = f"is served by different models: {' and '.join(sorted(kinds.values()))}."
    return [Refused(f"served_model_name {name}", why, "Give one of them another name.")]


def _what(instance: Mapping[str, Any]) -> tuple[str, str]:
    if instance.get("model_repository"):
        return str(instance["model_repository"]), str(instance.get("model_revision"))
    return os.path.basename(str(instance.get("model") or instance.get("model_source") or "").rstrip("/")), ""


def classes(entries: Sequence[Mapping[str, Any]], usual: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the different limits of all keys, each with its name in nginx; the gateway's own is always there."""
    every = [dict(usual)] + [gateway_keys.limits(entry, usual) for entry in gateway_keys.present(entries)]
    return [{"name": name, **limit} for name, limit in sorted({gateway_keys.class_name(limit): limit for limit in every}.items())]


def backend_authorizations(found: Sequence[Mapping[str, Any]], keys: Mapping[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Return, by upstream, the headers that its servers take: that of their key, and in a rotation that of the one before.

    ``keys`` has the internal key of each server, and the one before or nothing.

    Raises ManyRefused where the servers of one model have different keys: the header is set before one is chosen.
    """
    refusals: list[Refused] = []
    headers: dict[str, list[str]] = {}
    for model in found:
        servers = sorted({row["server"] for row in model["servers"]})
        if len({keys[server] for server in servers}) > 1:
            why = f"differs between {', '.join(servers)}, which serve the same model {model['name']}."
            refusals.append(Refused("vllm_api_key", why, "Give them one, such as by one inventory."))
        headers[model["upstream"]] = [f"Bearer {key}" for key in keys[servers[0]] if key]
    if refusals:
        raise ManyRefused(refusals)
    return headers


def host_problems(host: str, observed: Mapping[str, Any], port: int, unit: str) -> list[Refused]:
    """Return what stands in the way on a gateway: a system without the packages, a port that somebody else has."""
    found = []
    system = observed["system"]
    if system["name"] not in ("debian", "ubuntu"):
        why = f"runs {system['name']} {system['version']}, and the role knows the packages of Debian and Ubuntu."
        found.append(Refused(host, why, "Take another host for the gateway."))
    for number, rows in observed["ports"].items():
        others = sorted({str(row.get("unit") or "somebody") for row in rows} - {unit})
        why = f"{' and '.join(others)} listens there already."
        if others and number == str(port):
            found.append(Refused(f"{host}: gateway_port {port}", why, "Stop that, or write another port."))
        elif others:  # looked at where an authority asks it
            found.append(Refused(f"{host}: gateway_tls acme, port {number}", why, "Stop that: the authority asks that port for the proof."))
    return found


def client_instances(instances: Sequence[Mapping[str, Any]], gateway: str, variables: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what developer machines are told of the instances: the same models, at the one address of a gateway with these variables."""
    name = str((variables.get("gateway_names") or [gateway])[0])
    port = int(variables.get("gateway_port", 443))
    host = f"[{name}]" if ":" in name else name
    url = f"https://{host}{'' if port == 443 else f':{port}'}/v1"
    lengths = {model["name"]: model["max_model_len"] for model in models(instances, [], gateway)}
    return [
        {
            **instance,
            "server": gateway,
            "host": name,
            "port": port,
            "base_url": url,
            "max_model_len": lengths[instance["served_model_name"][0]],
        }
        for instance in instances
    ]


def lua_models(found: Sequence[Mapping[str, Any]], headers: Optional[Mapping[str, Sequence[str]]] = None) -> dict[str, Any]:
    """Return what the gateway's program knows of each model, by served name."""
    return {
        model["name"]: {
            "upstream": model["upstream"],
            "authorizations": list((headers or {}).get(model["upstream"], [])),
            "max_model_len": model["max_model_len"],
            "servers": [row["address"] for row in model["servers"] if not row["down"]],
        }
        for model in found
    }
