#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: watch_job
short_description: Wait a little for a long job on a host, and tell how far it is
description:
  - What the actions of long-running modules of this collection ask in turns; of no use by itself.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  results_file:
    description: Where Ansible's wrapper of asynchronous jobs writes the job's result.
    type: path
    required: true
  progress_file:
    description: Where the job writes its lines. Both files are removed when the job has ended.
    type: path
    required: true
  seen:
    description: How many of the lines are known.
    type: int
    default: 0
  seconds:
    description: How long to wait for a new line or the end.
    type: float
    default: 5
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: Look how far it is
  ownmetal.codex.watch_job:
    results_file: /root/.ansible_async/j1234.56
    progress_file: /run/ownmetal/1234
"""

RETURN = r"""
lines:
  description: The lines that are new.
  type: list
  elements: str
  returned: success
result:
  description: The job's result; none while it works.
  type: dict
  returned: success
"""

import contextlib
import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import look


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "results_file": {"type": "path", "required": True},
            "progress_file": {"type": "path", "required": True},
            "seen": {"type": "int", "default": 0},
            "seconds": {"type": "float", "default": 5.0},
        },
        supports_check_mode=True,
    )
    files = [module.params["progress_file"], module.params["results_file"]]
    try:
        found = look(*files, module.params["seen"], module.params["seconds"])
    except Refused as refused:
        module.fail_json(msg=str(refused))
    if found["result"] is not None:
        for path in files:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    module.exit_json(**found)


if __name__ == "__main__":
    main()
