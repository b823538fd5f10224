# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The configuration of Codex for one version: everything that is wanted, less what that version does not have.

Pure: the role's settings and the models that the servers have go in, mappings for config.toml, for profile files and for
the catalogue of models come out. Which version has which key is in data/facts.yml. Used on the controller only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from . import compatibility

PROFILE_FILES = (0, 134)  # from here on a profile is a file of its own, and `profile =` stops Codex from starting
STRICT = (0, 131)  # has --strict-config
RESERVES = (0, 108)  # 0.107 lets one redefine its own providers, 0.130 does not start
RESERVED = ("amazon-bedrock", "lmstudio", "ollama", "openai")  # those
REQUIREMENTS = (0, 157)  # requirements.toml can name the provider from 0.156.1 on
OWN_CA = (0, 130)  # reads CODEX_CA_CERTIFICATE; 0.107 does not, and SSL_CERT_FILE is read by all from 0.63 to 0.169 (measured)
OUTPUT_LIMIT = 10_000  # tokens of one command's output
GUIDE_KEYS = ("custom_model", "custom_model_provider", "suppress_event_logs", "model_options", "env")
GUIDE_FEATURES = {"streamable_shell": True, "web_search_request": False}
COMPACTS_AT = (3, 4)  # of the context: the rest is for the summary, and for what the tokens were guessed wrong


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


def wanted(given: Mapping[str, Any]) -> Wanted:
    """Return what the role's variables ask for.

    ``given``: the variables without their prefix, profiles as [{name, model}], instances as a catalogue, live (by base URL, what the
    servers say: {model: context length}), remembered (what they said in the last run) and catalogue (its path, or empty).
    """
    models = context_lengths(given["instances"], given["live"], given["remembered"])
    named = [{"name": given["provider"], "model": given["model"], "label": given["provider_name"]}, *given["profiles"]]
    choices = []
    for entry in named:
        url = next(one["base_url"] for one in given["instances"] if entry["model"] in one["served_model_name"])
        label = entry.get("label") or f"{given['provider_name']}: {entry['model']}"
        choices.append(Choice(entry["name"], entry["model"], url, models[url][entry["model"]], label))
    own_home = given["place"] == "user" and not given["enforce"]
    guide = {"model_options": given["model_options"], "http_headers": given["http_headers"]}
    guide["env"] = {"RUST_LOG": given["rust_log"]} if given["rust_log"] else {}
    return Wanted(
        version=given["version"],
        choices=choices,
        models={name: length for url in dict.fromkeys(choice.base_url for choice in choices) for name, length in models[url].items()},
        env_key=given["env_key"],
        key_command=key_command(key_file(given["provider"]), own_home) if given["key_source"] == "file" else None,
        guide=guide if given["dialect"] == "guide" else None,
        approval_policy=given["approval_policy"],
        sandbox_mode=given["sandbox_mode"],
        mcp_servers=given["mcp_servers"],
        features=given["features"],
        catalogue=given["catalogue"] or None,
        log_dir=given["log_dir"] or None,
    )


def context_lengths(
    instances: Sequence[Mapping[str, Any]], live: Mapping[str, Mapping[str, int]], remembered: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    """Return the context length of each served model, by base URL: what the server says, what it said last, what the inventory says."""
    found: dict[str, dict[str, int]] = {}
    for instance in instances:
        url = instance["base_url"]
        models = found.setdefault(url, dict(live.get(url, {})))
        for name in instance["served_model_name"]:
            known = remembered.get(name) if url not in live else None
            length = models.get(name) or known or instance["max_model_len"]
            if length:
                models[name] = length
    return found


def key_file(provider: str) -> str:
    """Return the name of the file with the provider's key, in Codex's home."""
    return f"ownmetal-{provider}.key"


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
    """Return what config.toml has to hold for the version, with the instructions of toml_merge for what must not stand beside it."""
    first = wanted.choices[0]
    found: dict[str, Any] = {
        "ownmetal_absent": list(_absent(wanted)),
        "ownmetal_retired": list(_retired(wanted)),
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


def _of_choice(wanted: Wanted, choice: Choice) -> dict[str, Any]:
    """Return what switching to a choice sets; a file of its own can say the context too."""
    found: dict[str, Any] = {"model": choice.model, "model_provider": choice.name}
    if choice is not wanted.choices[0] and at_least(wanted.version, PROFILE_FILES) and not wanted.keeps_catalogue:
        found.update(model_context_window=choice.length, model_auto_compact_token_limit=compacts_at(choice.length))
    return found


def _limits(wanted: Wanted) -> dict[str, Any]:
    """Return the limits that hold for every model: the smallest context of those that can be switched to.

    Where they differ and a catalogue has each one's, nothing: these keys would beat it.
    """
    lengths = set(wanted.models.values()) | {choice.length for choice in wanted.choices}
    smallest = min(lengths)
    if len(lengths) > 1 and wanted.keeps_catalogue:
        return {"model_catalog_json": wanted.catalogue, "tool_output_token_limit": output_limit(smallest)}
    return {
        "model_catalog_json": wanted.catalogue,
        "model_context_window": smallest,
        "model_auto_compact_token_limit": compacts_at(smallest),
        "tool_output_token_limit": output_limit(smallest),
    }


def compacts_at(length: int) -> int:
    """Return at how many tokens of a context Codex sums up what was said."""
    return length * COMPACTS_AT[0] // COMPACTS_AT[1]


def output_limit(length: int) -> int:
    """Return how many tokens of a command's output go into a context."""
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
        for table in ("http_headers", "env_http_headers"):
            yield from ([*provider, table, name] for name in ("Authorization", "authorization"))
        yield [*provider, "env_key" if wanted.reads_key_file else "auth"]
    limits = _limits(wanted)
    yield from ([key] for key in ("model_context_window", "model_auto_compact_token_limit") if key not in limits)
    if not wanted.keeps_catalogue:
        yield ["model_catalog_json"]


def _retired(wanted: Wanted) -> Iterator[dict[str, Any]]:
    """Yield what a user's file may have from another version or a guide: it becomes a comment, and a provider gets another name."""
    version = wanted.version
    if at_least(version, RESERVES):
        for name in RESERVED:
            why = f"Codex {version} keeps the name {name} for itself: this provider is now {name}-own"
            own = ["model_providers", name]
            if has_key(version, "profiles"):
                path = ["profiles", "*", "model_provider"]
                yield {"path": path, "only": name, "becomes": f"{name}-own", "beside": own, "why": why}
            yield {"path": own, "to": ["model_providers", f"{name}-own"], "why": why}
    if wire_api(version) == "responses":
        yield {
            "path": ["model_providers", "*", "wire_api"],
            "only": "chat",
            "why": f"Codex {version} speaks the Responses API alone, and does not start with another",
        }
    if has_key(version, "profile"):
        yield {"path": ["profile"], "why": "a profile goes before model and provider, wherever it leads; instead: codex -p NAME"}
    for row in compatibility.missing_keys(version):
        if wanted.guide is None or row.key not in (*GUIDE_KEYS, *(f"features.{name}" for name in GUIDE_FEATURES)):
            yield {"path": row.key.split("."), "why": f"no key of Codex {version}; instead: {row.instead}"}


def _guide_top(wanted: Wanted, first: Choice) -> dict[str, Any]:
    if wanted.guide is None:
        return {}
    return {"custom_model": first.model, "custom_model_provider": first.name, "suppress_event_logs": True}


def _guide_tables(wanted: Wanted) -> dict[str, Any]:
    if wanted.guide is None:
        return {}
    return {"model_options": dict(wanted.guide.get("model_options") or {}), "env": dict(wanted.guide.get("env") or {})}


def _for_version(found: Mapping[str, Any], wanted: Wanted, guide: bool) -> dict[str, Any]:
    """Return the mapping less what is empty, and less what the version does not have; the fork's own keys stay for the fork."""
    kept: dict[str, Any] = {}
    for key, value in found.items():
        if key in ("ownmetal_absent", "ownmetal_retired") or (guide and key in GUIDE_KEYS):
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
