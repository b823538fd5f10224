# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The configuration of Codex for one version: everything that is wanted, less what that version does not have.

Pure: the role's settings and the models that the servers have go in, mappings for config.toml, for profile files and for
the catalogue of models come out. Which version has which key is in data/facts.yml. Used on the controller only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from . import compatibility

PROFILE_FILES = (0, 134)  # from here on a profile is a file of its own, and `profile =` stops Codex from starting
STRICT = (0, 131)  # has --strict-config
REQUIREMENTS = (0, 157)  # requirements.toml can name the provider from 0.156.1 on
CATALOGUE = "ownmetal-models.json"
OUTPUT_LIMIT = 10_000  # tokens of one command's output
COMPACTS_AT = (3, 4)  # of the context: the rest is for the summary, and for what the tokens were guessed wrong

# What a model that Codex does not know is told, instead of 17,000 characters that are written for its vendor's models.
INSTRUCTIONS = """\
You are a coding agent that works in a terminal on the user's machine, in the folder that you were started in.

- Do what the user asks for, all of it, and nothing else. When it is done, say in a few sentences what you did.
- Use the shell tool for everything: to look at files, to change them, to build and to test. Never say that you ran a command
  without having called the tool.
- Look before you change: list the folder, search with rg or grep, read the part of the file that matters.
- Change files with small edits, in the style of what stands around them. Do not touch what the task does not need.
- Files named AGENTS.md hold the rules of a project: follow those of the folder and of the folders above it.
- When a command fails, read what it printed and mend the cause. After two tries that fail alike, try another way or ask.
- Prove what you did: run the tests or the program where there are any. Never claim what you did not see.
- Never undo work of the user that you did not make, and never delete what cannot be had again, unless the user asks for it.
"""


@dataclass(frozen=True)
class Choice:
    """A provider and a model that the user can switch to: the name of both the provider and the profile."""

    name: str
    model: str
    base_url: str
    length: int
    label: str = ""


@dataclass(frozen=True)
class Wanted:
    """What the role was asked for. The first choice is the default; ``models`` has the context length of all served names.

    ``env_key`` is the variable that has the key; ``key_command`` prints it, where it is in a file.
    """

    version: str
    choices: Sequence[Choice]
    models: Mapping[str, int]
    env_key: str
    key_command: Optional[Sequence[str]] = None
    approval_policy: str = "on-request"
    sandbox_mode: str = "workspace-write"
    catalogue: Optional[str] = None
    log_dir: Optional[str] = None
    mcp_servers: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    guide: Optional[Mapping[str, Any]] = None

    @property
    def keeps_catalogue(self) -> bool:
        """Whether this version reads a catalogue of models, and it is wanted."""
        return self.catalogue is not None and has_key(self.version, "model_catalog_json")

    @property
    def reads_key_file(self) -> bool:
        """Whether this version reads the key out of a file by itself; others need it in the environment."""
        return self.key_command is not None and has_key(self.version, "model_providers.x.auth")


def at_least(version: str, floor: tuple[int, int]) -> bool:
    """Tell whether a version is at least a minor version."""
    return tuple(compatibility.version_key(version).release[:2]) >= floor


def has_key(version: str, key: str) -> bool:
    """Tell whether a version has a key; one that is not in the facts is in all of them."""
    row = compatibility.config_key(key)
    return row is None or row.in_version(version)


def key_command(name: str, own_home: bool) -> list[str]:
    """Return the command that prints a key out of a file in Codex's home, for a configuration in that home or in /etc/codex.

    Codex runs it in the folder of the configuration: so it holds no path, and a home may move.
    """
    return ["cat", name] if own_home else ["sh", "-c", f'cat "${{CODEX_HOME:-$HOME/.codex}}/{name}"']


def wire_api(version: str) -> str:
    """Return the API that a version of Codex is to speak: chat where that works, for those that speak both know it better."""
    known = compatibility.codex_range(version)
    return "chat" if known and known.chat == "works" else "responses"


def config(wanted: Wanted) -> dict[str, Any]:
    """Return what config.toml has to hold for the version, with ``ownmetal_absent`` for what must not stand beside it."""
    first = wanted.choices[0]
    found: dict[str, Any] = {
        "ownmetal_absent": list(_absent(wanted)),
        **_guide_top(wanted, first),
        **_of_choice(wanted, first),
        **_limits(wanted),
        "model_reasoning_summary": "none",
        "web_search": "disabled",
        "approval_policy": wanted.approval_policy,
        "sandbox_mode": wanted.sandbox_mode,
        "check_for_update_on_startup": False,
        "log_dir": wanted.log_dir,
        "model_providers": {choice.name: _provider(wanted, choice) for choice in wanted.choices},
        "profiles": {choice.name: _of_choice(wanted, choice) for choice in wanted.choices[1:]},
        "agents": {"enabled": False},
        "features": {
            **{"goals": False, "plugins": False, "apps": False, "remote_models": False, "multi_agent": False},
            **wanted.features,
        },
        "analytics": {"enabled": False},
        "feedback": {"enabled": False},
        "mcp_servers": dict(wanted.mcp_servers),
        **_guide_tables(wanted),
    }
    return _for_version(found, wanted, wanted.guide is not None)


def profiles(wanted: Wanted) -> dict[str, dict[str, Any]]:
    """Return the files of profiles, by name, for versions that read each from a file of its own; for others none."""
    if not at_least(wanted.version, PROFILE_FILES):
        return {}
    return {choice.name: _of_choice(wanted, choice) for choice in wanted.choices[1:]}


def enforced(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """Return the file below /etc/codex that no user can override, and what it has to hold: where prompts go, and who is told."""
    first = wanted.choices[0]
    found = {"model_provider": first.name, "model_providers": {choice.name: _provider(wanted, choice) for choice in wanted.choices}}
    if at_least(wanted.version, REQUIREMENTS):
        return "requirements.toml", _for_version(found, wanted, guide=False)
    quiet = {"analytics": {"enabled": False}, "feedback": {"enabled": False}}
    return "managed_config.toml", _for_version({**found, **quiet}, wanted, guide=False)


def catalogue(wanted: Wanted, instructions: str = "") -> str:
    """Return the catalogue of models as JSON: all that the servers have, in the order of their names."""
    rows = [_catalogue_row(wanted, name, length, instructions or INSTRUCTIONS) for name, length in sorted(wanted.models.items())]
    return json.dumps({"models": rows}, indent=1) + "\n"


def _catalogue_row(wanted: Wanted, name: str, length: int, instructions: str) -> dict[str, Any]:
    return {
        "slug": name,
        "display_name": name,
        "description": "own server",
        "supported_reasoning_levels": [],
        "shell_type": "default",
        "visibility": "list",
        "supported_in_api": True,
        "priority": 1 if name == wanted.choices[0].model else 2,
        "support_verbosity": False,
        "supports_reasoning_summaries": False,
        "default_reasoning_summary": "none",
        "truncation_policy": {"mode": "tokens", "limit": _output_limit(length)},
        "supports_parallel_tool_calls": True,
        "context_window": length,
        "max_context_window": length,
        "auto_compact_token_limit": _compacts_at(length),
        "experimental_supported_tools": [],
        "input_modalities": ["text"],
        "base_instructions": instructions,
    }


def _of_choice(wanted: Wanted, choice: Choice) -> dict[str, Any]:
    """Return what switching to a choice sets; a file of its own can say the context too."""
    found: dict[str, Any] = {"model": choice.model, "model_provider": choice.name}
    if choice is not wanted.choices[0] and at_least(wanted.version, PROFILE_FILES) and not wanted.keeps_catalogue:
        found.update(model_context_window=choice.length, model_auto_compact_token_limit=_compacts_at(choice.length))
    return found


def _limits(wanted: Wanted) -> dict[str, Any]:
    """Return the limits that hold for every model: the smallest context of those that can be switched to.

    Where they differ and a catalogue has each one's, nothing: these keys would beat it.
    """
    lengths = set(wanted.models.values()) | {choice.length for choice in wanted.choices}
    smallest = min(lengths)
    if len(lengths) > 1 and wanted.keeps_catalogue:
        return {"model_catalog_json": wanted.catalogue, "tool_output_token_limit": _output_limit(smallest)}
    return {
        "model_catalog_json": wanted.catalogue,
        "model_context_window": smallest,
        "model_auto_compact_token_limit": _compacts_at(smallest),
        "tool_output_token_limit": _output_limit(smallest),
    }


def _compacts_at(length: int) -> int:
    return length * COMPACTS_AT[0] // COMPACTS_AT[1]


def _output_limit(length: int) -> int:
    return min(length // 8, OUTPUT_LIMIT)


def _provider(wanted: Wanted, choice: Choice) -> dict[str, Any]:
    if wanted.key_command is not None and wanted.reads_key_file:
        command, *arguments = wanted.key_command
        auth: dict[str, Any] = {"auth": {"command": command, "args": arguments, "cwd": "."}}
    else:
        auth = {"env_key": wanted.env_key}
    headers = wanted.guide.get("http_headers") if wanted.guide else None
    return {
        "name": choice.label or choice.name,
        "base_url": choice.base_url,
        "wire_api": wire_api(wanted.version),
        # a restart of the server is waited for by the gateway; these are for answers that break off
        "request_max_retries": 2,
        "stream_max_retries": 2,
        "stream_idle_timeout_ms": 300_000,
        "supports_websockets": False,
        "requires_openai_auth": False,
        **({"http_headers": dict(headers)} if headers else {}),
        **auth,
    }


def _absent(wanted: Wanted) -> Iterator[list[str]]:
    """Yield what must not stand beside ours: other sources of a key, of which Codex takes the wrong one, and limits of another model."""
    for choice in wanted.choices:
        provider = ["model_providers", choice.name]
        yield [*provider, "experimental_bearer_token"]
        yield [*provider, "http_headers", "Authorization"]
        yield [*provider, "env_http_headers", "Authorization"]
        yield [*provider, "env_key" if wanted.reads_key_file else "auth"]
    limits = _limits(wanted)
    yield from ([key] for key in ("model_context_window", "model_auto_compact_token_limit") if key not in limits)
    if not wanted.keeps_catalogue:
        yield ["model_catalog_json"]
    if not has_key(wanted.version, "agents.enabled"):
        yield ["agents", "enabled"]


def _guide_top(wanted: Wanted, first: Choice) -> dict[str, Any]:
    if wanted.guide is None:
        return {}
    return {"custom_model": first.model, "custom_model_provider": first.name, "suppress_event_logs": True}


def _guide_tables(wanted: Wanted) -> dict[str, Any]:
    if wanted.guide is None:
        return {}
    return {"model_options": dict(wanted.guide.get("model_options") or {}), "env": dict(wanted.guide.get("env") or {})}


GUIDE_KEYS = ("custom_model", "custom_model_provider", "suppress_event_logs", "model_options", "env")
GUIDE_FEATURES = {"streamable_shell": True, "web_search_request": False}


def _for_version(found: Mapping[str, Any], wanted: Wanted, guide: bool) -> dict[str, Any]:
    """Return the mapping less what is empty, and less what the version does not have; the fork's own keys stay for the fork."""
    kept: dict[str, Any] = {}
    for key, value in found.items():
        if key == "ownmetal_absent" or (guide and key in GUIDE_KEYS):
            kept[key] = value
        elif value is not None and value != {}:
            kept.update(_pruned({key: value}, wanted.version, ()))
    if guide:
        kept["features"] = {**kept.get("features", {}), **GUIDE_FEATURES}
    if not wanted.keeps_catalogue:
        kept.pop("model_catalog_json", None)
    return {key: value for key, value in kept.items() if value != {}}


def _pruned(table: Mapping[str, Any], version: str, above: tuple[str, ...]) -> dict[str, Any]:
    kept = {}
    for key, value in table.items():
        path = (*above, key)
        if not has_key(version, ".".join(path)):
            continue
        inner = _pruned(value, version, path) if isinstance(value, Mapping) else value
        if inner != {}:
            kept[key] = inner
    return kept
