# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's side of a module that takes long: it runs on as a job of the host, and the play shows its lines meanwhile."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

JOBS = "/run/ownmetal"
DAY = 86400  # a job may take as long; Ansible's wrapper would end one that takes longer
LOST = 10  # answers in a row that may be missing, two minutes in all: the job goes on when a connection does not
FOREIGN = frozenset({"invocation", "deprecations", "warnings", "ansible_job_id", "started", "finished"})


class WatchedAction(ActionBase):
    """Run ``module`` with the task's arguments; in check mode, where it does not take long, directly."""

    module = ""
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Return the module's result."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if self._task.check_mode:
            return self._direct(self.module, arguments, task_vars)
        progress_file = f"{JOBS}/{secrets.token_hex(8)}"
        results_file = self._begin({**arguments, "progress_file": progress_file}, task_vars)
        return self._wait(progress_file, results_file, task_vars)

    def _direct(self, module: str, arguments: Mapping[str, Any], task_vars: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._execute_module(module_name=module, module_args=dict(arguments), task_vars=task_vars)
            return answer
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)

    def _begin(self, arguments: Mapping[str, Any], task_vars: Any) -> str:
        self._task.async_val = DAY
        try:
            begun = self._execute_module(module_name=self.module, module_args=dict(arguments), task_vars=task_vars, wrap_async=True)
        finally:
            self._task.async_val = 0
        if "results_file" not in begun:
            raise AnsibleActionFail(str(begun.get("msg") or begun.get("module_stderr") or "the job did not start"))
        return str(begun["results_file"])

    def _wait(self, progress_file: str, results_file: str, task_vars: Any) -> dict[str, Any]:
        display, host = Display(), task_vars["inventory_hostname"]
        seen = lost = 0
        while True:
            try:
                answer = self._direct(
                    "ownmetal.codex.watch_job",
                    {"results_file": results_file, "progress_file": progress_file, "seen": seen},
                    task_vars,
                )
            except AnsibleConnectionFailure:
                lost += 1
                if lost > LOST:
                    raise
                display.display(f"  {host} | the connection is lost, the job goes on: trying again")
                time.sleep(2 * lost)
                self._connection.reset()
                continue
            if answer.get("failed"):
                raise AnsibleActionFail(str(answer.get("msg")))
            lost = 0
            for line in answer["lines"]:
                display.display(f"  {host} | {line}")
            seen += len(answer["lines"])
            if answer["result"] is not None:
                return {key: value for key, value in answer["result"].items() if key not in FOREIGN}
