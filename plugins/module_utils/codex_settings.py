# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What roles/codex is asked for: is it possible, and which files of a user does it make?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from .catalogue import is_local
from .errors import Refused, nearest

FIRST_RESPONSES = (0, 95)  # older ones speak only chat completions by default, and their config has other keys
ASSUMED_CONTEXT = 272_000  # tokens; what Codex takes for the context of a model that it does not know
RESERVED = ("amazon-bedrock", "lmstudio", "ollama", "openai")  # providers of its own, which Codex 0.169 lets no one redefine
USER = re.compile(r"[a-z_][a-z0-9_.-]*\$?")
PROVIDER = re.compile(r"[A-Za-z0-9_-]+")
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-[\w.]+)?")

HOME = ".codex"
BEFORE = "config.toml.before-ownmetal"  # the user's file as it was before the first merge
MERGED = "config.toml.ownmetal"  # what was merged last: uninstalling goes by it, whatever the inventory says by then

# Run as the user on the staged file, $2; its folder plays Codex's home. The links are for settings that name a file
# relative to the home. Codex prints a refusal as JSON, of which the message is kept.
VALIDATE = r"""
cd "${2%/*}" || exit 1
for file in ../*; do [ -e "${file##*/}" ] || ln -s "$file" .; done
said=$(CODEX_HOME=$PWD "$1" app-server --strict-config --print-startup-config 2>/dev/null) && exit 0
code=$?
[ $code -ne 127 ] || said="there is no $1"
echo "$said" | sed 's/.*"message":"failed to load configuration: /the strict validator of Codex says: /
s/"}}$//; s/[^ ]*\.ownmetal-[^/]*\///'
exit $code
""".strip()


def key_file(provider: str) -> str:
    """Return the name of the file with the provider's key, in Codex's home."""
    return f"ownmetal-{provider}.key"


def problems(settings: Mapping[str, Any]) -> list[Refused]:
    """Return what is wrong with the inventory, all of it, so that it is mended in one go.

    ``settings``: users, install, version, locked_version, provider, model, instances (a catalogue), servers_group, gateway (a host or
    empty), gateway_key, gateway_keys and host (the inventory name of the developer machine).
    """
    return [*_users(settings["users"]), *_version(settings), *_provider(settings["provider"]), *_model(settings), *_gateway(settings)]


def _gateway(settings: Mapping[str, Any]) -> Iterator[Refused]:
    if not settings.get("gateway") or settings.get("own_key"):
        return
    key = settings["gateway_key"]
    known = [f"{entry.get('team')}/{entry.get('name')}" for entry in settings["gateway_keys"] if entry.get("state", "present") == "present"]
    if not key:
        why = f"is empty, and Codex of {settings['host']} asks the gateway {settings['gateway']} with a key of its own."
        instead = f"Write codex_gateway_key: {known[0]}" if known else "Write TEAM/NAME of an entry of gateway_keys; there is none yet."
        yield Refused("codex_gateway_key", why, instead)
    elif key not in known:
        yield Refused(
            "codex_gateway_key", f"gateway_keys has no {key}.", nearest(str(key), known, f"It has: {', '.join(known) or 'none'}.")
        )


def _users(users: Any) -> Iterator[Refused]:
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
    found = VERSION.fullmatch(version)
    if not found:
        yield Refused("codex_version", f"{version!r} is no version.", f"Write it as in {locked}.")
    elif (int(found[1]), int(found[2])) < FIRST_RESPONSES:
        why = f"Codex {version} asks for chat completions, and this role configures the Responses API."
        yield Refused("codex_version", why, f"Write 0.95.0 or newer, such as {locked}.")
    elif settings["install"] and version != locked:
        instead = (
            f"Remove codex_version, or lock the other one: in roles/codex/files/npm run npm install --package-lock-only "
            f"--save-exact --omit-lockfile-registry-resolved @openai/codex@{version}"
        )
        yield Refused("codex_version", f"the lock of this role holds Codex {locked}, not {version}.", instead)


def _provider(provider: str) -> Iterator[Refused]:
    if provider in RESERVED:
        yield Refused("codex_provider", f"Codex keeps the name {provider} for itself.", "Write another, such as vllm.")
    elif not PROVIDER.fullmatch(provider):
        yield Refused("codex_provider", f"{provider!r} cannot name a provider.", "Use letters, digits, - and _ alone.")


def _model(settings: Mapping[str, Any]) -> Iterator[Refused]:
    model, instances, host = settings["model"], settings["instances"], settings["host"]
    if not instances:
        group = settings["servers_group"]
        yield Refused("codex_instances", f"no host of the group {group} has an instance.", f"Add vllm_instances to the hosts of {group}.")
        return
    instance = serving(instances, model)
    if instance is None:
        names = sorted({name for one in instances for name in one["served_model_name"]})
        yield Refused("codex_model", f"no instance serves {model!r}.", nearest(model, names, f"They serve: {', '.join(names)}."))
        return
    where, server = f"vllm_instances {instance['name']}", instance["server"]
    if instance["max_model_len"] is None:
        why = f"is not set, and without it Codex would take the context for {ASSUMED_CONTEXT} tokens."
        yield Refused(f"{where}: max_model_len", why, f"Write max_model_len: TOKENS beside name: {instance['name']}.")
    if is_local(instance) and server != host:
        why = f"{instance['host']} is reached from {server} alone, and Codex runs on {host}."
        yield Refused(f"{where}: host", why, f'Write host: ADDRESS, one of {server} that {host} reaches, such as "{{{{ ansible_host }}}}".')


def host_problems(observed: Mapping[str, Any], host: str, link: str, directory: str, machines: Sequence[str]) -> list[Refused]:
    """Return what stands in the way of installing on a machine.

    ``observed`` is what ownmetal.codex.tree saw, with the path ``link``; ``directory`` is where releases go; ``machines``
    are the processors that the lock has a program for.
    """
    found = []
    target, machine = observed["paths"][link].get("target") or "", observed["system"]["machine"]
    if target and not target.startswith(f"{directory}/"):
        why = f"leads to another Codex, {target}."
        found.append(
            Refused(f"{link} on {host}", why, "Remove that one (npm uninstall --global @openai/codex), or set codex_install: false.")
        )
    if machine not in machines:
        found.append(Refused(host, f"has the processor {machine}.", f"The lock has Codex for {' and '.join(machines)}."))
    return found


def serving(instances: Sequence[Mapping[str, Any]], model: str) -> Optional[Mapping[str, Any]]:
    """Return the first instance that serves ``model``, or None."""
    return next((one for one in instances if model in one["served_model_name"]), None)


def merged_path(user: str) -> str:
    """Return where a user's MERGED is."""
    return f"~{user}/{HOME}/{MERGED}"


def before_path(user: str) -> str:
    """Return where a user's BEFORE is, if there was a file."""
    return f"~{user}/{HOME}/{BEFORE}"


def user_files(user: str, provider: str, api_key: Optional[str], program: str, first: bool) -> list[dict[str, Any]]:
    """Return the tree's entries for one user; ``program`` judges the configuration. Without a key its file goes.

    ``first``: nothing was merged for this user before, so a file that is there is the user's own, and is kept aside.
    """
    home = f"~{user}/{HOME}"
    key = f"{home}/{key_file(provider)}"
    template = {"template": "home/.codex/config.toml.j2", "mode": "0600"}
    return [
        {"dest": home, "state": "directory", "mode": "0700"},
        {"dest": key, "secret": True, **({"content": f"{api_key}\n", "mode": "0600"} if api_key else {"state": "absent"})},
        {
            **template,
            "dest": f"{home}/config.toml",
            "merge": "toml",
            **({"original": before_path(user)} if first else {}),
            "validate": ["/bin/sh", "-c", VALIDATE, "sh", program, "%s"],
        },
        {**template, "dest": merged_path(user)},
    ]


def absent_user_files(user: str, provider: str, merged: Optional[str], kept: bool) -> list[dict[str, Any]]:
    """Return the tree's entries that take away what :func:`user_files` made.

    ``merged`` is what MERGED holds, None where nothing was merged; ``kept`` says whether BEFORE is there.
    """
    home = f"~{user}/{HOME}"
    config = {"dest": f"{home}/config.toml", "state": "absent", "merge": "toml", "content": merged}
    original = {"original": before_path(user)} if kept else {}
    return [
        *([{**config, **original}] if merged else []),
        {"dest": merged_path(user), "state": "absent"},
        {"dest": f"{home}/{key_file(provider)}", "state": "absent", "secret": True},
    ]
