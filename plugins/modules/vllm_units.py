#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_units
short_description: Start and restart a server's vLLM units, and say why one did not come up
description:
  - Reloads systemd, enables the units, restarts those that are named and starts those that do not run, side by side.
  - Returns when each has given its first token. When one does not, the journal's last lines are judged, and the error names the
    cause and what to change in the inventory.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  units:
    description: All units that have to run.
    type: list
    elements: str
    default: []
  restart:
    description: Those among them whose files have changed.
    type: list
    elements: str
    default: []
  absent:
    description: Units, or patterns of their names, that are stopped and disabled.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: Restart the instance that changed, start what is down
  ownmetal.codex.vllm_units:
    units: [vllm@micro.service, vllm@large.service]
    restart: [vllm@large.service]

- name: Stop all instances
  ownmetal.codex.vllm_units:
    absent: ["vllm@*.service"]
"""

RETURN = r"""
done:
  description: Unit, and what was done to it (V(start), V(restart), V(enable) or V(stop)).
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.units import bring_up, known, states, take_down, work


def main() -> None:
    """Run the module."""
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(argument_spec={"units": names, "restart": names, "absent": names}, supports_check_mode=True)
    units = module.params["units"]
    verbs = work(units, module.params["restart"], states(units))
    doomed = known(module.params["absent"])
    if not module.check_mode:
        try:
            if doomed:
                take_down(doomed)
            if verbs:
                bring_up(verbs)
        except Refused as refused:
            module.fail_json(msg=str(refused))
    module.exit_json(changed=bool(verbs or doomed), done={**verbs, **dict.fromkeys(doomed, "stop")})


if __name__ == "__main__":
    main()
