# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which files an instance has on its server, as entries for ownmetal.codex.tree.

A layout is a mapping: config, instances and models are directories; environment is the environment's path; shared
lists what every instance reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .catalogue import own_template
from .chat_templates import text as chat_template_text
from .folder_digest import folder_digest

Layout = Mapping[str, Any]


def unit_name(instance: str) -> str:
    """Return the systemd unit of an instance."""
    return f"vllm@{instance}.service"


def model_path(instance: Mapping[str, Any], models: str) -> str:
    """Return where an instance's model lies on its server: as given, or under the digest of what the controller has."""
    if instance["model"]:
        return str(instance["model"])
    return f"{models}/{folder_digest(instance['model_source'])}"


def _own_paths(name: str, layout: Layout) -> dict[str, str]:
    home = f"{layout['instances']}/{name}"
    return {
        "home": home,
        "environment": f"{home}/environment",
        "model": f"{home}/model",
        "config": f"{layout['config']}/{name}.yaml",
        "variables": f"{layout['config']}/{name}.env",
        "template": f"{layout['config']}/{name}.jinja",
    }


def instance_files(instances: Sequence[Mapping[str, Any]], layout: Layout) -> list[dict[str, Any]]:
    """Return the tree's entries for all instances."""
    entries: list[dict[str, Any]] = []
    for instance in instances:
        path = _own_paths(instance["name"], layout)
        # secret: a token that a team puts into environment must not be shown by --diff
        entries += [
            {"dest": path["home"], "state": "directory"},
            {"dest": path["environment"], "state": "link", "target": layout["environment"]},
            {"dest": path["model"], "state": "link", "target": model_path(instance, layout["models"])},
            {"dest": path["config"], "template": "etc/vllm/instance.yaml.j2", "vars": {"instance": instance}},
            {"dest": path["template"], **_chat_template(instance)},
            {
                "dest": path["variables"],
                "template": "etc/vllm/instance.env.j2",
                "vars": {"instance": instance},
                "mode": "0600",
                "secret": True,
            },
        ]
    return entries


def _chat_template(instance: Mapping[str, Any]) -> dict[str, str]:
    return {"content": chat_template_text(instance["chat_template"])} if own_template(instance) else {"state": "absent"}


def absent_instance_files(names: Sequence[str], layout: Layout) -> list[dict[str, Any]]:
    """Return the tree's entries that take instances away; models and environments stay."""
    paths = [_own_paths(name, layout) for name in names]
    return [{"dest": path[key], "state": "absent"} for path in paths for key in ("config", "variables", "template", "home")]


def unit_paths(instances: Sequence[Mapping[str, Any]], layout: Layout) -> dict[str, list[str]]:
    """Return unit -> the paths that it reads, which decide whether it has to restart."""
    result = {}
    for instance in instances:
        path = _own_paths(instance["name"], layout)
        own = [path[key] for key in ("environment", "model", "config", "variables", "template")]
        result[unit_name(instance["name"])] = [*own, *layout["shared"]]
    return result
