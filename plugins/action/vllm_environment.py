# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Run ownmetal.codex.vllm_environment as a job of the host, and show how far it is."""

from __future__ import annotations

import secrets
from typing import Any

from ansible_collections.ownmetal.codex.plugins.plugin_utils.watched import WatchedAction


class ActionModule(WatchedAction):
    """See the module of that name for its documentation."""

    module = "ownmetal.codex.vllm_environment"

    def run(self, tmp: Any = None, task_vars: Any = None) -> dict[str, Any]:
        """Return the module's result; what holds a token is registered and not shown, while an error is."""
        if not self._task.args.get("share"):
            return super().run(tmp, task_vars)
        token = secrets.token_urlsafe(32)
        self._task.args = {**self._task.args, "token": token}
        result = super().run(tmp, task_vars)
        if "source" not in result:
            return result
        return {**result, "source": {**result["source"], "token": token}, "_ansible_no_log": True}
