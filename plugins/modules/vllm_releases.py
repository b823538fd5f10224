#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_releases
short_description: List the releases of a server's vLLM instances, and choose one to go back to
description:
  - Reads and changes nothing.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  homes:
    description: The directories of the instances.
    type: list
    elements: path
    required: true
  instance:
    description: The instance that a release is chosen of.
    type: str
  release:
    description:
      - The release that is asked for. Without it the one before the current one is chosen, and the current one where the instance has
        gone back already.
    type: int
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: Find the release before the current one
  ownmetal.codex.vllm_releases:
    homes: [/var/lib/vllm/micro]
    instance: micro
"""

RETURN = r"""
releases:
  description: Instance, and its releases, oldest first.
  type: dict
  returned: success
report:
  description: The same as lines to read.
  type: list
  elements: str
  returned: success
release:
  description: The number that is chosen.
  type: int
  returned: when O(instance) is given, and is one of this server's
gone_back:
  description: Whether no release was asked for, and the instance has gone back already; RV(release) is then the current one.
  type: bool
  returned: when O(instance) is given, and is one of this server's
gate:
  description: That release as M(ownmetal.codex.gpu_gate) takes instances; none where it uses no GPU.
  type: list
  elements: dict
  returned: when O(instance) is given, and is one of this server's
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.release_gate import row
from ansible_collections.ownmetal.codex.plugins.module_utils.releases import choose, gone_back, history, report


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "homes": {"type": "list", "elements": "path", "required": True},
            "instance": {"type": "str"},
            "release": {"type": "int"},
        },
        supports_check_mode=True,
    )
    homes, instance = module.params["homes"], module.params["instance"]
    result = {"changed": False, "releases": {os.path.basename(home): history(home) for home in homes}, "report": report(homes)}
    try:
        if instance in result["releases"]:
            home = next(one for one in homes if os.path.basename(one) == instance)
            result["release"] = choose(home, instance, module.params["release"])
            result["gone_back"] = module.params["release"] is None and gone_back(home)
            gate = row(home, instance, result["release"])
            result["gate"] = [gate] if gate else []
    except Refused as refused:
        module.fail_json(msg=str(refused), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
