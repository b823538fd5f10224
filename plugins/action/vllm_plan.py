# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Judge on the controller whether a server can run what the inventory gives it. Makes no connection."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.ownmetal.codex.plugins.module_utils import firewall, server_state
from ansible_collections.ownmetal.codex.plugins.module_utils.catalogue import VARIABLES
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import ManyRefused, Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.folder_digest import archive_kind
from ansible_collections.ownmetal.codex.plugins.module_utils.host_rules import Host
from ansible_collections.ownmetal.codex.plugins.module_utils.model_folder import read_folder
from ansible_collections.ownmetal.codex.plugins.module_utils.own_tracks import known as known_tracks
from ansible_collections.ownmetal.codex.plugins.module_utils.planner import plan, refused_lines, report
from ansible_collections.ownmetal.codex.plugins.module_utils.pythons import source
from ansible_collections.ownmetal.codex.plugins.module_utils.resolver import Codex, Spec, Verdict, resolve

NEEDED = frozenset({"server", "track"})
WANTED = NEEDED | {"tracks", "python", "python_source", "codex", "firewall", "allowed_sources", "gpus_left_out"}
WANTED |= {"instances", "instances_group", "instances_host"}
OPTIONS = frozenset({"spec", "observed", "layout", "free_space_gib", "hub"})


class ActionModule(ActionBase):
    """All of ownmetal.codex.vllm_plan; see the module of that name for its documentation."""

    _supports_check_mode = True
    _VALID_ARGS = OPTIONS
    _requires_connection = False

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Return ok, plan, report and refused."""
        super().run(tmp, task_vars)
        # plain data: what Ansible marks its values with is nothing to compare or to print
        args = json.loads(json.dumps(self._task.args, default=str))
        wanted = args.get("spec") or {}
        strange, missing = sorted(set(wanted) - WANTED), sorted(NEEDED - set(wanted))
        if strange or missing:
            raise AnsibleActionFail(
                f"spec takes {', '.join(sorted(WANTED))}: {', '.join(strange) or 'no ' + ' and no '.join(missing)} is wrong."
            )
        codex = [Codex(one["host"], str(one["version"]), extra_of(one)) for one in wanted.get("codex") or []]
        lists = [wanted.get(name.removeprefix("vllm_")) for name in VARIABLES]
        spec = Spec(
            str(wanted["server"]),
            str(wanted["track"]),
            str(wanted.get("python") or ""),
            lists,
            codex,
            left_out=wanted.get("gpus_left_out") or (),
        )
        try:
            own = {"known": known_tracks(wanted.get("tracks")), "source": source(wanted.get("python_source") or {})}
        except Refused as refused:
            found = plan(spec, Verdict(refused.refusals if isinstance(refused, ManyRefused) else [refused]))
        else:
            space = float(args.get("free_space_gib") or 0)
            # what ownmetal.codex.vllm_model said of models that are still to be fetched goes with what was seen of the host
            observed = args["observed"] | {"hub": args.get("hub") or {}} if args.get("observed") else None
            guard = Guard(str(wanted.get("firewall", firewall.NONE)), wanted.get("allowed_sources", []))
            found = plan_of(dataclasses.replace(spec, **own), guard, observed, args.get("layout"), space)
        return {"changed": False, "ok": found["ok"], "plan": found, "report": report(found), "refused": "\n".join(refused_lines(found))}


def extra_of(machine: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return codex_extra_config; what is no mapping the role codex refuses."""
    extra = machine.get("extra")
    return extra if isinstance(extra, Mapping) else {}


class Guard(NamedTuple):
    """vllm_firewall and vllm_allowed_sources, as the inventory has them."""

    kind: str
    sources: Any


def plan_of(
    spec: Spec, guard: Guard, observed: Optional[Mapping[str, Any]], layout: Optional[Mapping[str, Any]], space_gib: float
) -> dict[str, Any]:
    """Return the plan; without ``observed`` that of the inventory, and of the models that the controller has."""
    verdict = resolve(spec)
    if verdict.refusals:
        return plan(spec, verdict)
    entries = [subject.entry for subject in verdict.subjects]
    # what is in an archive is seen when it is unpacked
    folders = [entry for entry in entries if entry["model_source"] and not archive_kind(entry["model_source"])]
    models = {entry["name"]: read_folder(entry["model_source"]) for entry in folders}
    exposed = firewall.problems(entries, guard.sources, guard.kind)
    if observed is None:
        return plan(spec, resolve(spec, None, models), None, exposed)
    # a first look, for a track to choose by, sees no models
    models |= {entry["name"]: observed["models"].get(entry["model"]) or {} for entry in entries if entry["model"]}
    if layout:
        gone = [entry for entry in entries if not entry["model"] and entry not in folders]
        models |= {entry["name"]: server_state.fetched(entry, observed, layout) for entry in gone}
    obstacles = [Refused(row["where"], row["why"], row["instead"]) for row in observed.get("hub", {}).get("refused", [])]
    obstacles += server_state.problems(spec.server, verdict.instances, observed, layout, space_gib) if layout else []
    if layout:
        firewalld = observed["units"].get("firewalld.service") or {}
        obstacles += firewall.host_problems(spec.server, guard.kind, firewalld.get("ActiveState"))
    found = resolve(spec, Host.seen(observed), models)
    left = server_state.unnamed(spec.server, verdict.instances, observed.get("releases", {}))
    return plan(spec, dataclasses.replace(found, warnings=[*found.warnings, *left]), observed, [*exposed, *obstacles])
