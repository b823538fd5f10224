#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: codex_release
short_description: Put a release of Codex into its place, or take a user's releases away
description:
  - Unpacks an archive that lies on the host, or copies what npm fetched, proves the program by C(--version), and renames the whole.
  - What goes into a home is made with its user's rights.
  - Does nothing where the release exists. Leaves no half release where the archive is refused.
version_added: "0.3.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  source:
    description: The archive (C(.tar.gz)) on the host, or the folder of npm's package for the platform. Required with O(state=present).
    type: path
  sha256:
    description: The archive's sha256, in hexadecimal.
    type: str
  version:
    description: The version that it must say that it has. Required with O(state=present).
    type: str
  directory:
    description: Where releases go. In a home, C(~user/...).
    type: str
    required: true
  command:
    description: Where the command will be, whose folder is made. With O(state=absent), it goes if it leads to one of the releases.
    type: str
    required: true
  user:
    description: Whose home that is. Without it, the releases are the machine's.
    type: str
    default: ""
  state:
    description: V(absent) takes away all releases of a user, and nothing else that is there.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Can run in check mode. The source need not be there then.
  diff_mode:
    support: none
    description: Has nothing to show.
"""

EXAMPLES = r"""
- name: Codex for one user, from an archive
  ownmetal.codex.codex_release:
    source: /root/codex.tar.gz
    sha256: 9a271f2a916b0b6ee6cecb2426f0b3206ef074578be55d9bc94f6f3fe3ab86aa
    version: 0.169.0
    directory: ~dev/.local/share/codex
    command: ~dev/.local/bin/codex
    user: dev
"""

RETURN = r"""
removed:
  description: The paths that were taken away.
  type: list
  elements: str
  returned: O(state=absent)
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_release import install, remove
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.tree import expand


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path"},
            "sha256": {"type": "str"},
            "version": {"type": "str"},
            "directory": {"type": "str", "required": True},
            "command": {"type": "str", "required": True},
            "user": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("source", "version")), ("state", "absent", ("user",))],
        supports_check_mode=True,
    )
    params = module.params
    directory, command, user = (params[key] for key in ("directory", "command", "user"))
    try:
        if params["state"] == "absent":
            removed = remove(directory, command, user, module.check_mode)
            module.exit_json(changed=bool(removed), removed=removed)
        path = f"{directory}/{params['version']}"
        changed = not os.path.lexists(expand(path))
        if changed and not module.check_mode:
            install(params["source"], params["sha256"], params["version"], path, user or None, command)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(changed=changed)


if __name__ == "__main__":
    main()
