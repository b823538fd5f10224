# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's side of ownmetal.codex.vllm_model: watches the job, and hands the tokens to it."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ownmetal.codex.plugins.plugin_utils.watched import JOBS, WatchedAction

NAMES = {"token_from": "token", "pool_token_from": "pool_token"}


class ActionModule(WatchedAction):
    """See the module of that name for its documentation."""

    module = "ownmetal.codex.vllm_model"

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Return the module's result."""
        # what only looks is a job too, in check mode as well: a token is handed to running jobs alone
        if self._task.args.get("state", "present") != "present":
            self._task.check_mode = False
        # made here and handed over, so that no answer of the host, which -vvv prints, holds it
        self._share_token = secrets.token_urlsafe(32) if self._task.args.get("share") else ""
        result = super().run(tmp, task_vars)
        if "source" in result:  # kept for the next task, and not printed
            result["source"]["token"] = self._share_token
            result["_ansible_no_log"] = True
        return result

    def _begin(self, arguments: Mapping[str, Any], task_vars: Any) -> str:
        tokens = self._tokens(task_vars)
        if not tokens:
            return super()._begin(arguments, task_vars)
        pipe = f"{JOBS}/{secrets.token_hex(8)}.pipe"
        self._shell(f"mkdir -p -m 0700 {JOBS} && mkfifo -m 0600 {pipe}")
        begun = super()._begin({**arguments, "secrets_pipe": pipe}, task_vars)
        # cat gets it as its input: no command line, no file
        self._shell(f"timeout 60 sh -c {shlex.quote(f'cat > {pipe}')}", json.dumps(tokens) + "\n")
        return begun

    def _tokens(self, task_vars: Any) -> dict[str, str]:
        found = {"share_token": self._share_token} if self._share_token else {}
        for option, name in NAMES.items():
            variable = self._task.args.get(option)
            value = self._templar.template(task_vars.get(variable)) if variable else None
            if value:
                found[name] = str(value)
        return found

    def _shell(self, command: str, text: str = "") -> None:
        done = self._low_level_execute_command(command, in_data=text.encode() if text else None)
        if done["rc"]:
            raise AnsibleActionFail(f"the token was not handed over: {done['stderr'].strip() or done['rc']}")
