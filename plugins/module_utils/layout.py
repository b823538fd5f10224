# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which files an instance has on its server, as entries for ownmetal.codex.tree.

A layout is a mapping: server is its name; config, instances and models are directories; environments are
their paths by track, devices what a track computes on; shared lists what every instance reads.

An instance has releases: /var/lib/vllm/NAME/releases/N holds links to an environment and a model, and the files that vLLM is
started with. The link ``current`` beside them names the one that runs, and is the only thing that a deployment, a revert or a
rollback switches. A release that was written is never changed. What the unit of one instance has besides (its memory, its CPUs, the
GPUs' devices) is in the release too, so that going back takes it back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from .catalogue import local_url, own_template
from .chat_templates import text as chat_template_text
from .folder_digest import source_digest
from .model_manifest import model_id
from .units import unit_name

Layout = Mapping[str, Any]
CURRENT = "current"
DROP_INS = "/etc/systemd/system"


def model_path(instance: Mapping[str, Any], models: str) -> str:
    """Return where an instance's model lies on its server: as given, or under a name that its content decides."""
    if instance["model"]:
        return str(instance["model"])
    if instance["model_repository"]:
        return f"{models}/{hub_id(instance)}"
    return f"{models}/{source_digest(instance['model_source'])}"


def hub_id(instance: Mapping[str, Any]) -> str:
    """Return the name of a hub model's folder."""
    return model_id(instance["model_repository"], instance["model_revision"], instance["model_files"] or ())


def home_path(name: str, layout: Layout) -> str:
    """Return the directory of an instance."""
    return f"{layout['instances']}/{name}"


def drop_in(name: str) -> str:
    """Return the link by which systemd finds what the unit of one instance has besides."""
    return f"{DROP_INS}/{unit_name(name)}.d/ownmetal.conf"


def _home_entries(name: str, layout: Layout) -> list[dict[str, Any]]:
    """Return what does not depend on a release: directories, and the names that the unit reads."""
    home = home_path(name, layout)
    return [
        {"dest": home, "state": "directory"},
        {"dest": f"{home}/releases", "state": "directory"},
        {"dest": f"{layout['config']}/{name}.yaml", "state": "link", "target": f"{home}/{CURRENT}/config.yaml"},
        {"dest": f"{layout['config']}/{name}.env", "state": "link", "target": f"{home}/{CURRENT}/variables.env"},
        {"dest": os.path.dirname(drop_in(name)), "state": "directory"},
        {"dest": drop_in(name), "state": "link", "target": f"{home}/{CURRENT}/unit.conf"},
    ]


def _release_entries(instance: Mapping[str, Any], layout: Layout, release: str) -> list[dict[str, Any]]:
    """Return what a release holds, at ``release``: the path of its directory."""
    values = {"instance": instance}
    unit = {**values, "device": layout["devices"][instance["track"]]}
    # secret: a token that a team puts into environment must not be shown by --diff
    variables = {"template": "etc/vllm/instance.env.j2", "vars": values, "mode": "0600", "secret": True}
    template = {"content": chat_template_text(instance["chat_template"])} if own_template(instance) else {"state": "absent"}
    return [
        {"dest": f"{release}/environment", "state": "link", "target": layout["environments"][instance["track"]]},
        {"dest": f"{release}/model", "state": "link", "target": model_path(instance, layout["models"])},
        {"dest": f"{release}/config.yaml", "template": "etc/vllm/instance.yaml.j2", "vars": values},
        {"dest": f"{release}/chat_template.jinja", **template},
        {"dest": f"{release}/variables.env", **variables},
        {"dest": f"{release}/unit.conf", "template": "etc/systemd/system/vllm@instance.service.d/ownmetal.conf.j2", "vars": unit},
        {"dest": f"{release}/proof.json", "content": json.dumps(_proof(instance, layout["server"])) + "\n"},
    ]


def instance_files(instances: Sequence[Mapping[str, Any]], layout: Layout) -> list[dict[str, Any]]:
    """Return what all instances should have, to compare with what they have: their releases are looked at by ``current``."""
    entries: list[dict[str, Any]] = []
    for instance in instances:
        entries += _home_entries(instance["name"], layout)
        entries += _release_entries(instance, layout, f"{home_path(instance['name'], layout)}/{CURRENT}")
    return entries


def new_releases(
    instances: Sequence[Mapping[str, Any]], layout: Layout, seen: Mapping[str, Mapping[str, Any]], changed_paths: Iterable[str]
) -> dict[str, int]:
    """Return instance -> number, of those whose current release is not what it should be.

    ``seen`` is what ownmetal.codex.tree observed of their directories (releases). A number is used again only where nothing was switched
    to it: so the phase that writes may run twice, and the one that runs finds what the other wrote.
    """
    changed = list(changed_paths)
    numbers = {}
    for instance in instances:
        home = home_path(instance["name"], layout)
        if any(path.startswith(f"{home}/{CURRENT}/") for path in changed):
            numbers[instance["name"]] = seen[home]["pending"] or max(seen[home]["numbers"], default=0) + 1
    return numbers


def new_release_files(instances: Sequence[Mapping[str, Any]], layout: Layout, numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the entries that write the instances' new releases, and what every instance has besides."""
    entries: list[dict[str, Any]] = []
    for instance in instances:
        name = instance["name"]
        entries += _home_entries(name, layout)
        if name in numbers:
            release = f"{home_path(name, layout)}/releases/{numbers[name]}"
            entries += [{"dest": release, "state": "directory"}, *_release_entries(instance, layout, release)]
    return entries


def absent_instance_files(names: Sequence[str], layout: Layout) -> list[dict[str, Any]]:
    """Return the tree's entries that take instances away; models and environments stay."""
    etc, homes = layout["config"], [home_path(name, layout) for name in names]
    doomed = [f"{etc}/{name}.{ending}" for name in names for ending in ("yaml", "env")] + homes
    doomed += [drop_in(name) for name in names]
    return [{"dest": path, "state": "absent"} for path in doomed]


def unit_jobs(
    instances: Sequence[Mapping[str, Any]],
    layout: Layout,
    numbers: Mapping[str, int],
    seen: Optional[Mapping[str, Mapping[str, Any]]] = None,
) -> list[dict[str, Any]]:
    """Return the instances for ownmetal.codex.vllm_units, each with its new release, else the one that was current when it was compared.

    ``seen`` is what ownmetal.codex.tree observed (releases). The job of an earlier run may end after that look, and have gone back.
    """
    jobs = []
    for one in instances:
        name, home = one["name"], home_path(one["name"], layout)
        release = numbers.get(name) or (seen or {}).get(home, {}).get("current")
        jobs.append({"name": name, "home": home, "release": release, "server": layout["server"]})
    return jobs


def _proof(instance: Mapping[str, Any], server: str) -> Optional[dict[str, Any]]:
    """Return what a release is asked to prove itself; None for one that cannot call tools."""
    if not instance["enable_auto_tool_choice"]:
        return None
    return {
        "base_url": f"{local_url(instance)}/v1",
        "model": instance["served_model_name"][0],
        "instance": instance["name"],
        "server": server,
        "expect_reasoning": instance["reasoning_parser"] is not None,
    }


def unit_paths(instances: Sequence[Mapping[str, Any]], layout: Layout) -> dict[str, list[str]]:
    """Return unit -> the paths whose change it has to be restarted for."""
    return {unit_name(one["name"]): [f"{home_path(one['name'], layout)}/{CURRENT}", *layout["shared"]] for one in instances}
