# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The controller's side of ownmetal.codex.gpu_gate."""

from __future__ import annotations

from ansible_collections.ownmetal.codex.plugins.plugin_utils.watched import WatchedAction


class ActionModule(WatchedAction):
    """See the module of that name for its documentation."""

    module = "ownmetal.codex.gpu_gate"
