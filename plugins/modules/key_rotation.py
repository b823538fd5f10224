#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: key_rotation
short_description: Put new keys into files of the controller, and remember the old ones for as long as they are good
description:
  - Runs on the controller, where keys are kept. The gateway learns of new and old keys from the role C(gateway).
  - A file that is not there yet stays so. The role makes it.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  files:
    description: The files of keys.
    type: list
    elements: path
    required: true
  kind:
    description:
      - Whose keys they are. Those of C(people) change at once, and the old ones are good for O(overlap) seconds more.
      - With those of C(servers) the old one is kept beside the file until O(state=finished).
    type: str
    choices: [people, servers]
    default: people
  rotation:
    description: A name for the rotation. What was done under that name is not done again. Wanted with O(kind=people).
    type: str
  overlap:
    description: How many seconds an old key is good for. 0 ends it with the next run of the role.
    type: int
    default: 0
  state:
    description: C(finished) forgets the servers' old key, when all of them have the new one.
    type: str
    choices: [rotated, finished]
    default: rotated
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: A new key for anna, who may use the old one for a day
  ownmetal.codex.key_rotation:
    files: ["{{ inventory_dir }}/.secrets/gateway/keys/red/anna.key"]
    rotation: "2026-11"
    overlap: 86400
  delegate_to: localhost
"""

RETURN = r"""
rotated:
  description: The files that hold another key now.
  type: list
  elements: str
  returned: always
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils import gateway_rotation as core
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused


def main() -> None:
    """The face of module_utils/gateway_rotation.py."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "path", "required": True},
            "kind": {"type": "str", "choices": ["people", "servers"], "default": "people"},
            "rotation": {"type": "str"},
            "overlap": {"type": "int", "default": 0},
            "state": {"type": "str", "choices": ["rotated", "finished"], "default": "rotated"},
        },
        required_if=[("kind", "people", ("rotation",))],
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        if wanted["kind"] == "people":
            done = core.rotate(wanted["files"], wanted["rotation"], int(time.time()), wanted["overlap"], not module.check_mode)
        elif wanted["state"] == "rotated":
            done = core.rotate_servers(wanted["files"], not module.check_mode)
        else:
            done = core.finish_servers(wanted["files"], not module.check_mode)
    except (Refused, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(done), rotated=[os.path.basename(file) for file in done])


if __name__ == "__main__":
    main()
