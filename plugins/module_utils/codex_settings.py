# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What roles/codex is asked for: is it possible?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from . import codex_features, compatibility
from .catalogue import is_local
from .codex_config import RESERVED, at_least
from .codex_release import SPACE, TRIPLES, archive_problems
from .errors import Refused, nearest

PACKAGED = (0, 134)  # npm brings the program as bin/codex
MACHINE_WIDE = (0, 80)  # has /etc/codex/config.toml
ASSUMED_CONTEXT = 272_000  # tokens; what Codex takes for the context of a model that it does not know
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "max_tokens", "max_output_tokens", "repetition_penalty")
USER = re.compile(r"[a-z_][a-z0-9_.-]*\$?")
PROVIDER = re.compile(r"[A-Za-z0-9_-]+")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
GATEWAYS_CA = "/usr/local/share/ca-certificates/ownmetal-gateway.crt"  # what playbooks/developers.yml makes, by roles/gateway
# a key below which a secret stands, and those below which the name of a variable stands
SECRET = re.compile(
    r"token(?!_limit)|secret|passw|authorization|bearer|credential|(api|access|private)[_-]?key|(^|[_-])(key|pat|pwd)$", re.I
)
NAMES_VARIABLES = ("bearer_token_env_var", "env_http_headers", "env_key", "env_vars")
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-[\w.]+)?")


def problems(settings: Mapping[str, Any]) -> list[Refused]:
    """Return what is wrong with the inventory, all of it, so that it is mended in one go.

    ``settings``: the role's variables without their prefix, locked_version, instances (a catalogue), servers_group, gateway (a host
    or empty), gateway_keys, own_key (no entry of those), server_keys (by server, which key it has: the same for the same key),
    inventory_hosts (names) and host (the inventory name of the developer machine).
    """
    found = [
        *_users(settings),
        *_version(settings),
        *_ways(settings),
        *_provider(settings["provider"]),
        *_ca(str(settings["ca_file"])),
        *_model(settings, "codex_model", settings["model"]),
        *_profiles(settings),
        *_secrets(settings),
        *_readable_secrets(settings),
        *_gateway(settings),
        *_server_keys(settings),
    ]
    return list({str(refused): refused for refused in found}.values())  # two models of one instance: said once


def _users(settings: Mapping[str, Any]) -> Iterator[Refused]:
    users = settings["users"]
    if users == [] and settings["place"] == "machine" and settings["key_source"] == "environment":
        return  # nothing is written into a home
    if not isinstance(users, Sequence) or isinstance(users, str) or not users:
        yield Refused("codex_users", "names no one.", "Write codex_users: [{name: dev}]")
        return
    seen = set()
    for user in users:
        name = user.get("name") if isinstance(user, Mapping) else None
        if not isinstance(name, str) or not USER.fullmatch(name):
            yield Refused("codex_users", f"{user!r} does not name a user.", "Begin each with: - name: NAME")
        elif name in seen:
            yield Refused(f"codex_users {name}", "stands twice in this list.", "Remove one of the two.")
        seen.add(name)


def _version(settings: Mapping[str, Any]) -> Iterator[Refused]:
    version, locked = str(settings["version"]), settings["locked_version"]
    if not VERSION.fullmatch(version):
        yield Refused("codex_version", f"{version!r} is no version.", f"Write it as in {locked}.")
    elif settings["install"] and settings["source"] == "npm" and version != locked:
        instead = (
            f"Remove codex_version, or give an archive of it (codex_source: archive), or lock it: in roles/codex/files/npm "
            "run npm install --package-lock-only "
            f"--save-exact --omit-lockfile-registry-resolved @openai/codex@{version}"
        )
        yield Refused("codex_version", f"the lock of this role holds Codex {locked}, not {version}.", instead)
    elif settings["install"] and settings["source"] == "npm" and not at_least(version, PACKAGED):
        why = f"Codex {version} is packed in another way than those that the role installs."
        yield Refused("codex_version", why, "Write 0.134.0 or newer, or install it yourself and set codex_install: false.")
    elif settings["install"]:
        yield from version_problems(version, settings)


def _ways(settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield what is wrong with the way in which Codex comes; the archive itself is read when it is needed."""
    archive, digest = str(settings["archive"]), str(settings["sha256"])
    if not settings["install"]:
        return
    if settings["scope"] == "user" and not settings["users"]:
        yield Refused("codex_scope: user", "is for no one: codex_users is empty.", "Name the users, or write codex_scope: machine.")
    if settings["source"] == "npm" and (archive or digest):
        yield Refused("codex_archive", "is not read: codex_source is npm.", "Write codex_source: archive, or remove it.")
    elif settings["source"] == "archive":
        if not archive.startswith("/"):
            yield Refused("codex_archive", "is no absolute path.", "Write the path of a .tar.gz file on the controller.")
        if not SHA256.fullmatch(digest):
            yield Refused("codex_archive_sha256", "is not 64 hexadecimal digits.", "Write what `sha256sum FILE` prints.")


def version_problems(version: Optional[str], settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield what a version of Codex, installed by the role or found on the machine, cannot do."""
    host, program = settings["host"], settings["program"]
    if not version or not VERSION.fullmatch(version):
        yield Refused(
            f"codex_install on {host}", f"is false, and {program} does not run there.", "Remove it, or write codex_program: PATH."
        )
        return
    known = compatibility.codex_range(version)
    if known is None:
        yield Refused(f"Codex {version} on {host}", "is older than all that are known.", f"Install {settings['locked_version']}.")
    elif known.chat == "broken":
        why = "cannot join the pieces in which a server sends a tool call."
        yield Refused(f"Codex {version} on {host}", why, "Install 0.66.0 or newer, or remove codex_install: false.")
    yield from codex_features.problems(settings["features"], version, settings["dialect"] == "guide")
    places = {"codex_place: machine": settings["place"] == "machine", "codex_enforce": settings["enforce"]}
    for where in [name for name, asked in places.items() if asked and not at_least(version, MACHINE_WIDE)]:
        yield Refused(where, f"Codex {version} on {host} reads nothing in /etc/codex.", "Remove it, or install 0.80.0 or newer.")


def _ca(path: str) -> Iterator[Refused]:
    if path and not path.startswith("/"):
        yield Refused("codex_ca_file", f"{path} is no absolute path.", "Write where the file is on the developer machine.")


def _provider(provider: str) -> Iterator[Refused]:
    if provider in RESERVED:
        yield Refused("codex_provider", f"Codex keeps the name {provider} for itself.", "Write another, such as vllm.")
    elif not PROVIDER.fullmatch(provider):
        yield Refused("codex_provider", f"{provider!r} cannot name a provider.", "Use letters, digits, - and _ alone.")


def _profiles(settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield what is wrong with the models that people can switch to; what is wrong with all servers was said of the first."""
    seen = {settings["provider"]}
    for profile in settings["profiles"]:
        name = str(profile.get("name", ""))
        where = f"codex_profiles {name}"
        if not PROVIDER.fullmatch(name) or name in RESERVED:
            yield Refused("codex_profiles", f"{name!r} cannot name a profile and its provider.", "Write another, such as vllm-8b.")
        elif name in seen:
            yield Refused(where, "stands twice, or is codex_provider.", "Write another name.")
        elif settings["instances"]:
            yield from _model(settings, f"{where}: model", str(profile.get("model", "")))
        seen.add(name)


def _secrets(settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield sampling settings that Codex does not send, and keys in places that everyone can read."""
    if any(str(name).lower() == "authorization" for name in settings["http_headers"]):
        yield Refused(
            "codex_http_headers: Authorization", "would stand in a file as it is.", "Remove it: the key comes from codex_key_source."
        )
    if settings["model_options"] and settings["dialect"] != "guide":
        why = "is read by no Codex of upstream, which sends no sampling parameter."
        instead = "Write them for the server: vllm_instances: args: override-generation-config."
        yield Refused("codex_model_options", why, instead)
    for name in SAMPLING:
        if name in settings["extra"]:
            why = "is no key of Codex, which sends no sampling parameter."
            instead = f"Write it for the server: vllm_instances: args: override-generation-config: {{{name}: {settings['extra'][name]}}}."
            yield Refused(f"codex_extra_config: {name}", why, instead)


def _readable_secrets(settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield secrets that would stand in the machine's file, which everyone reads."""
    if settings["place"] != "machine":
        return
    for variable, table in (("codex_mcp_servers", settings["mcp_servers"]), ("codex_extra_config", settings["extra"])):
        for path in _secret_paths(table, ()):
            instead = {
                "env": f"Write env_vars: [{path[-1]}], and put the variable into each user's environment,",
                "http_headers": f"Write env_http_headers: {{{path[-1]}: VARIABLE}}, and put the variable into each user's environment,",
            }.get(path[-2] if len(path) > 1 else "", "Write the name of a variable (env_key, bearer_token_env_var),")
            why = (
                "sounds like a secret, and codex_place: machine writes it into /etc/codex/config.toml, which everyone on the machine reads."
            )
            yield Refused(f"{variable}: {'.'.join(path)}", why, f"{instead} or remove codex_place: a user's own file has mode 0600.")


def _secret_paths(table: Any, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, value in table.items() if isinstance(table, Mapping) else ():
        path = (*above, str(key))
        if key in NAMES_VARIABLES:
            continue
        if isinstance(value, str) and value and SECRET.search(str(key)):
            yield path
        yield from _secret_paths(value, path)


def _server_keys(settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield which models are on a server that has another key: Codex has one, that of the server of codex_model."""
    if settings.get("gateway") or settings.get("own_key"):
        return
    keys = settings["server_keys"]
    first = serving(settings["instances"], settings["model"])
    for profile in settings["profiles"]:
        other = serving(settings["instances"], str(profile.get("model", "")))
        if first is None or other is None or keys.get(first["server"]) == keys.get(other["server"]):
            continue
        why = f"{profile['model']} is served by {other['server']}, whose key is another than that of {first['server']}: Codex is given one."
        instead = (
            "Give both servers one key (the same vllm_api_key_file), or put a gateway before them (the group gateways), "
            "or take this profile out."
        )
        yield Refused(f"codex_profiles {profile.get('name')}: model", why, instead)


def numbered(keys: Mapping[str, str]) -> dict[str, int]:
    """Return a number in place of each key, the same for the same."""
    known = list(dict.fromkeys(keys.values()))
    return {server: known.index(key) for server, key in keys.items()}


def _gateway(settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield which users have no key of the gateway; a machine's own key, or one that is not the role's to write, is not looked at."""
    gateway = settings.get("gateway")
    if gateway and gateway not in settings["inventory_hosts"]:
        instead = nearest(gateway, settings["inventory_hosts"], "Remove it, and write codex_instances and codex_api_key.")
        yield Refused("codex_gateway", f"{gateway} is no host of the inventory.", instead)
        return
    if not gateway or settings.get("own_key"):
        return
    known = [f"{entry.get('team')}/{entry.get('name')}" for entry in settings["gateway_keys"] if entry.get("state", "present") == "present"]
    have = f"It has: {', '.join(known) or 'none'}."
    named = [user for user in settings["users"] if isinstance(user, Mapping) and user.get("state") != "absent"]
    for user in named:
        key = user.get("gateway_key")
        if key is not None and key not in known:
            yield Refused(f"codex_users {user.get('name')}: gateway_key", f"gateway_keys has no {key}.", nearest(str(key), known, have))
        else:
            yield from _allowed(settings, f"codex_users {user.get('name')}: gateway_key", key or settings["gateway_key"])
    key = settings["gateway_key"]
    if key and not named:
        yield from _allowed(settings, "codex_gateway_key", key)
    if key and key not in known and key not in [user.get("gateway_key") for user in named]:
        yield Refused("codex_gateway_key", f"gateway_keys has no {key}.", nearest(str(key), known, have))
    elif not key:
        why = f"is empty, and Codex of {settings['host']} asks the gateway {settings['gateway']} with a key of its own."
        instead = f"Write codex_gateway_key: {known[0]}" if known else "Write TEAM/NAME of an entry of gateway_keys; there is none yet."
        yield Refused("codex_gateway_key", why, instead)


def _allowed(settings: Mapping[str, Any], where: str, key: str) -> Iterator[Refused]:
    """Yield which of the models a key of the gateway may not use."""
    entry: Mapping[str, Any] = next((one for one in settings["gateway_keys"] if f"{one.get('team')}/{one.get('name')}" == key), {})
    models = entry.get("models")
    if not isinstance(models, list):
        return
    wanted = {"codex_model": settings["model"]}
    wanted.update((f"codex_profiles {profile.get('name')}", str(profile.get("model", ""))) for profile in settings["profiles"])
    for variable, model in wanted.items():
        if model and model not in models:
            why = f"{key} may use {', '.join(models) or 'no model'} alone (its models in gateway_keys), and {variable} asks for {model}."
            instead = f"Write models: [{', '.join([*models, model])}] for {key} in gateway_keys, or another model."
            yield Refused(where, why, instead)


def _model(settings: Mapping[str, Any], variable: str, model: str) -> Iterator[Refused]:
    instances, host = settings["instances"], settings["host"]
    if not instances:
        group = settings["servers_group"]
        yield Refused("codex_instances", f"no host of the group {group} has an instance.", f"Add vllm_instances to the hosts of {group}.")
        return
    instance = serving(instances, model)
    if instance is None:
        names = sorted({name for one in instances for name in one["served_model_name"]})
        yield Refused(variable, f"no instance serves {model!r}.", nearest(model, names, f"They serve: {', '.join(names)}."))
        return
    where, server = f"vllm_instances {instance['name']}", instance["server"]
    if instance["max_model_len"] is None:
        why = f"is not set, and without it Codex would take the context for {ASSUMED_CONTEXT} tokens."
        yield Refused(f"{where}: max_model_len", why, f"Write max_model_len: TOKENS beside name: {instance['name']}.")
    if not settings.get("gateway") and not settings.get("own_key") and server not in settings["inventory_hosts"]:
        why = f"is not set, and {server}, which serves {model}, is in no inventory to have it from."
        yield Refused("codex_api_key", why, "Write the key of that server, from a vault, or codex_key_source: environment.")
    if is_local(instance) and server != host:
        why = f"{instance['host']} is reached from {server} alone, and Codex runs on {host}."
        yield Refused(f"{where}: host", why, f'Write host: ADDRESS, one of {server} that {host} reaches, such as "{{{{ ansible_host }}}}".')


def host_problems(observed: Mapping[str, Any], settings: Mapping[str, Any], places: Sequence[Mapping[str, str]]) -> list[Refused]:
    """Return what stands in the way of installing on a machine.

    ``observed`` is what ownmetal.codex.tree saw: the paths, and the free space, of ``places`` (:func:`.codex_release.places`).
    """
    found: list[Refused] = []
    host, system = settings["host"], observed["system"]
    for place in places:
        found += _command(observed["paths"][place["link"]], place, host)
    missing = [place for place in places if not observed["paths"][place["release"]]["exists"]]
    if system["machine"] not in TRIPLES:
        found.append(Refused(host, f"has the processor {system['machine']}.", f"There is a Codex for {' and '.join(TRIPLES)}."))
    elif missing and system["name"] and settings["source"] == "archive":
        found += archive_problems(settings["archive"], settings["sha256"], settings["version"], system["machine"])
    if missing and not system["name"]:  # such as macOS on Intel, whose processor is one that there is a Codex for
        why = "is no Linux that says its name, and the role installs programs for Linux alone."
        found.append(Refused(f"codex_source on {host}", why, "Take the host out of the group, and install Codex there yourself."))
    elif missing and settings["source"] == "npm" and system["name"] not in settings["package_managers"]:
        why = f"is {system['name']}, whose packages of npm are not known."
        instead = "Write codex_source: archive, or install Codex yourself and set codex_install: false."
        found.append(Refused(f"codex_source on {host}", why, instead))
    for place in missing:
        free = observed["free_space"][place["directory"]]
        if free < SPACE:
            why = f"has {free >> 20} MiB free, and Codex takes {SPACE >> 20} while it is installed."
            found.append(Refused(f"{place['directory']} on {host}", why, "Make room there."))
    return found


def ca_problems(observed: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[Refused]:
    """Yield what is wrong with the certificates that Codex is to trust: it does not mention TLS, and says that it cannot connect."""
    path = settings["ca_file"]
    why = observed["certificates"].get(path)
    # the playbook puts that one there before the role
    if not why or (path == GATEWAYS_CA and settings["gateway"] and "No such file" in why):
        return
    instead = "Write the path of a file there with the authority's certificate, or remove it: the system's are trusted then."
    yield Refused(f"codex_ca_file on {settings['host']}", f"{path} {why}.", instead)


def _command(seen: Mapping[str, Any], place: Mapping[str, str], host: str) -> Iterator[Refused]:
    """Yield that a command is somebody else's: a link that leads elsewhere. A plain file is refused by the tree."""
    own = place["target"].rsplit("/", 2)[0]
    target = seen.get("target") or ""
    if target and not target.startswith(f"{own}/"):
        why = f"leads to another Codex, {target}."
        instead = "Remove that one (npm uninstall --global @openai/codex), or set codex_install: false."
        yield Refused(f"{place['link']} on {host}", why, instead)


def serving(instances: Sequence[Mapping[str, Any]], model: str) -> Optional[Mapping[str, Any]]:
    """Return the first instance that serves ``model``, or None."""
    return next((one for one in instances if model in one["served_model_name"]), None)
