# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which files roles/codex makes on a machine, and how it takes them away: entries of ownmetal.codex.tree.

A configuration is merged into what is there. Beside it, NAME.ownmetal keeps what was merged last (uninstalling goes by it,
whatever the inventory says by then), and NAME.before-ownmetal the file as it was before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from .codex_catalogue import catalogue
from .codex_config import OWN_CA, STRICT, Wanted, at_least, config, enforced, key_file, profiles, wanted
from .codex_judge import in_home, of_machine

HOME = ".codex"
MACHINE = "/etc/codex"
MODELS = f"{MACHINE}/ownmetal-models.json"
ENVIRONMENT = "/etc/profile.d/ownmetal-codex.sh"
MACHINE_FILES = ("config.toml", "requirements.toml", "managed_config.toml")
CONFIG = "home/.codex/config.toml.j2"


@dataclass(frozen=True)
class Plan:
    """What the files are made from. ``place`` is user or machine.

    ``api_key`` is None where the key comes from elsewhere, ``api_keys`` are those of users who have one of their own; ``program`` judges
    a configuration; ``extra`` is laid over the role's keys. ``gone`` are users from whom what is the role's is taken back.
    """

    users: Sequence[str]
    wanted: Wanted
    provider: str
    program: str
    place: str = "user"
    enforce: bool = False
    api_key: Optional[str] = None
    api_keys: Mapping[str, str] = field(default_factory=dict)
    instructions: str = ""
    rust_log: str = ""
    ca_file: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    gone: Sequence[str] = ()


def plan(given: Mapping[str, Any]) -> Plan:
    """Return what the role's variables ask for: those of :func:`.codex_config.wanted`, and users, program, enforce, ... of Plan."""
    return Plan(
        users=[user["name"] for user in present(given["users"])],
        gone=[user["name"] for user in given["users"] if user.get("state") == "absent"],
        wanted=wanted(given),
        api_key=given["api_key"] if given["key_source"] == "file" else None,
        api_keys=given["api_keys"],
        **{name: given[name] for name in ("provider", "program", "place", "enforce", "instructions", "rust_log", "ca_file", "extra")},
    )


def present(users: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the users who are not to be taken out."""
    return [user for user in users if user.get("state", "present") == "present"]


def user_config(user: str) -> str:
    """Return where a user's configuration is."""
    return f"~{user}/{HOME}/config.toml"


def merged_path(path: str) -> str:
    """Return where that is which was merged into a file last."""
    return f"{path}.ownmetal"


def before_path(path: str) -> str:
    """Return where a file is as it was before the first merge, if there was one."""
    return f"{path}.before-ownmetal"


def noted_profiles(user: str) -> str:
    """Return the pattern of the notes beside a user's profiles: by them those are found that the inventory has no more."""
    return f"~{user}/{HOME}/*.config.toml.ownmetal"


def profile_names(user: str, names: Sequence[str], seen: Mapping[str, Any]) -> list[str]:
    """Return the profiles that may have been merged into: those of the inventory, and those that were seen to have a note."""
    found = seen.get(noted_profiles(user), {}).get("matches", [])
    return list(dict.fromkeys([*names, *(name.removesuffix(".config.toml.ownmetal") for name in found)]))


def merge_places(users: Sequence[str], names: Sequence[str], seen: Mapping[str, Any]) -> list[str]:
    """Return every file that may have been merged into; ``names`` are those of profiles."""
    found = [f"{MACHINE}/{name}" for name in MACHINE_FILES]
    for user in users:
        found += [user_config(user), *(f"~{user}/{HOME}/{name}.config.toml" for name in profile_names(user, names, seen))]
    return found


def taken_back(path: str) -> list[dict[str, Any]]:
    """Return the entries that take out of a file what was merged into it last, if anything was."""
    notes = [merged_path(path), before_path(path)]
    merged = {"dest": path, "state": "absent", "merge": "toml", "notes": notes, "original": before_path(path)}
    return [merged, {"dest": merged_path(path), "state": "absent"}]


def machine_entries(plan: Plan, seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tree's entries of all users together, to be made first: without its catalogue Codex does not start.

    ``seen`` is what was observed beside the files.
    """
    files: list[dict[str, Any]] = [{"dest": MODELS, "content": catalogue(plan.wanted, plan.instructions)}]
    if plan.place == "machine":
        files += _merged(plan, f"{MACHINE}/config.toml", _laid_over(config(plan.wanted), plan.extra), seen)
    if plan.enforce:
        name, rules = enforced(plan.wanted)
        files += _merged(plan, f"{MACHINE}/{name}", rules, seen)
    written = [entry["dest"] for entry in files]
    for other in (f"{MACHINE}/{name}" for name in MACHINE_FILES):
        files += [] if other in written else taken_back(other)
    script = environment_script(plan)
    files.append({"dest": ENVIRONMENT, **({"content": script} if script else {"state": "absent"})})
    return [{"dest": MACHINE, "state": "directory"}, *files]


def user_entries(plan: Plan, user: str, seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tree's entries of one user. Without a key its file goes."""
    home = f"~{user}/{HOME}"
    api_key = plan.api_keys.get(user, plan.api_key)
    key = {"content": f"{api_key}\n", "mode": "0600"} if api_key else {"state": "absent"}
    found: list[dict[str, Any]] = [
        {"dest": home, "state": "directory", "mode": "0700"},
        {"dest": f"{home}/{key_file(plan.provider)}", "secret": True, **key},
    ]
    if plan.place == "user":
        found += _merged(plan, user_config(user), _laid_over(config(plan.wanted), plan.extra), seen)
    else:
        found += taken_back(user_config(user))
    for name, keys in profiles(plan.wanted).items():
        found += _merged(plan, f"{home}/{name}.config.toml", keys, seen)
    return found


def _merged(plan: Plan, path: str, keys: Mapping[str, Any], seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries that merge keys into a file, keep what it was, and note what was merged."""
    template = {"template": CONFIG, "vars": {"__codex_keys": keys}, "mode": "0600" if path.startswith("~") else "0644"}
    first = not seen.get(merged_path(path), {}).get("exists", False)
    guided = plan.wanted.guide is not None
    kind = "strict" if at_least(plan.wanted.version, STRICT) and not guided else "lenient"
    own_home = path.startswith("~")
    validate = in_home(plan.program, kind) if own_home else of_machine(plan.program, kind, MACHINE, plan.users)
    original = {"original": before_path(path)} if first else {}
    notes = [merged_path(path), before_path(path)]
    merged = {**template, "dest": path, "merge": "toml", "notes": notes, "validate": validate, **original}
    return [merged, {**template, "dest": merged_path(path)}]


def _laid_over(keys: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``keys`` with ``extra`` over them, table by table; a key that is null there is left out."""
    found = dict(keys)
    for key, value in extra.items():
        inner = found.get(key)
        found[key] = _laid_over(inner if isinstance(inner, Mapping) else {}, value) if isinstance(value, Mapping) else value
    return found


def environment_script(plan: Plan) -> str:
    """Return the lines that a login shell needs, '' where none: what Codex reads from its environment alone."""
    lines = []
    if plan.api_key and not plan.wanted.reads_key_file:
        path = f'"${{CODEX_HOME:-$HOME/.codex}}/{key_file(plan.provider)}"'
        lines.append(f'[ ! -r {path} ] || export {plan.wanted.env_key}="$(cat {path})"')
    if plan.rust_log:
        lines.append(f"export RUST_LOG={_quoted(plan.rust_log)}")
    if plan.ca_file:
        # CODEX_CA_CERTIFICATE is not known to all versions; the other one is read by other programs too
        name = "CODEX_CA_CERTIFICATE" if at_least(plan.wanted.version, OWN_CA) else "SSL_CERT_FILE"
        lines.append(f"export {name}={_quoted(plan.ca_file)}")
    return "".join(f"{line}\n" for line in ["# Made by Ansible: what Codex reads from its environment", *lines]) if lines else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def left_over(plan: Plan, seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries that take back profiles which were seen to have a note, and which the inventory has no more."""
    still = [(user, set(profiles(plan.wanted))) for user in plan.users] + [(user, set()) for user in plan.gone]
    places = [f"~{user}/{HOME}/{name}.config.toml" for user, names in still for name in profile_names(user, [], seen) if name not in names]
    return [entry for place in places for entry in taken_back(place)]


def user_taken_back(user: str, provider: str, names: Sequence[str], seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries that take back what one user was given; ``names`` are those of profiles."""
    places = [user_config(user), *(f"~{user}/{HOME}/{name}.config.toml" for name in profile_names(user, names, seen))]
    found = [entry for path in places for entry in taken_back(path)]
    return [*found, {"dest": f"~{user}/{HOME}/{key_file(provider)}", "state": "absent", "secret": True}]


def absent_entries(users: Sequence[str], provider: str, names: Sequence[str], seen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tree's entries that take away what those of a plan made; ``names`` are those of profiles."""
    found = [entry for name in MACHINE_FILES for entry in taken_back(f"{MACHINE}/{name}")]
    for user in users:
        found += user_taken_back(user, provider, names, seen)
    return found + [{"dest": path, "state": "absent"} for path in (MODELS, ENVIRONMENT)]
