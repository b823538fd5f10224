# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Render a role's files on the controller, compare them with a host's in one connection, write what differs in a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.tree_plan import Plan, plan, wanted

OPTIONS = frozenset({"files", "observe"})
LOOKS = frozenset({"paths", "users", "packages", "units", "ports", "free_space", "models", "releases", "gpus", "driver", "tables"})
LOOKS |= {"environments", "certificates"}


class ActionModule(ActionBase):
    """The controller's side of ownmetal.codex.tree; see the module of that name for its documentation."""

    _supports_check_mode = True
    _supports_diff = True
    _VALID_ARGS = OPTIONS

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Return changed, changed_paths, observed and, when asked for, diff."""
        super().run(tmp, task_vars)
        try:
            return self._run(task_vars)
        except Refused as refused:
            raise AnsibleActionFail(str(refused)) from None  # the sentence says it all
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _run(self, task_vars: Mapping[str, Any]) -> dict[str, Any]:
        observe = self._task.args.get("observe") or {}
        if set(observe) - LOOKS:
            raise AnsibleActionFail(f"observe takes {', '.join(sorted(LOOKS))}, not {', '.join(sorted(set(observe) - LOOKS))}.")

        def render(template: str, extra: Mapping[str, Any]) -> str:
            # the stock lookup: the search path, ansible_managed and Jinja's settings are what template: has
            lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
            return str(lookup.run([template], variables=task_vars, template_vars=dict(extra))[0])

        files = [wanted(entry, render) for entry in self._task.args.get("files") or []]
        questions = [file.question(self._task.diff) for file in files]
        answer = self._ask({"phase": "inspect", "entries": questions, "observe": observe}, task_vars)
        todo = plan(files, answer["found"])
        if todo.entries and not self._task.check_mode:
            self._ask({"phase": "apply", "entries": todo.entries}, task_vars)
        return self._result(todo, answer)

    def _ask(self, payload: Mapping[str, Any], task_vars: Mapping[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self._execute_module(
            module_name="ownmetal.codex.tree", module_args={"payload": json.dumps(payload)}, task_vars=dict(task_vars)
        )
        if answer.get("failed"):
            # without the module's own result: it would repeat the hidden parameter's shape, and a traceback is kept
            said = " ".join(str(answer.get(key, "")).strip() for key in ("msg", "module_stderr", "exception"))
            raise AnsibleActionFail(said.strip() or "the host did not answer")
        return answer

    def _result(self, todo: Plan, answer: Mapping[str, Any]) -> dict[str, Any]:
        result = {"changed": bool(todo.entries), "changed_paths": todo.paths, "observed": answer["observed"]}
        if self._task.diff:
            result["diff"] = todo.diff
        return result
