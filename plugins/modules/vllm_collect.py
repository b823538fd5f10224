#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_collect
short_description: Find, and remove, models and environments that no release links to
description:
  - Lists what lies in the role's own directories and is not linked by a release of any instance, and what runs that were ended left.
  - Models of the operator's own directories are never looked at.
version_added: "0.3.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  instances_directory:
    description: The directory with a folder for each instance.
    type: path
    default: /var/lib/vllm
  models_directory:
    description: The role's own models.
    type: path
    default: /var/lib/vllm-models
  environments_directory:
    description: The environments.
    type: path
    default: /opt/vllm/environments
  pool_directory:
    description: The pool, where this host has one.
    type: path
  keep:
    description: Paths that the inventory wants, linked or not.
    type: list
    elements: path
    default: []
  remove:
    description: Remove what is found.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: See what is left over
  ownmetal.codex.vllm_collect:
"""

RETURN = r"""
found:
  description: C(path), C(kind) and C(bytes) of what nothing uses.
  type: list
  elements: dict
  returned: success
bytes:
  description: How much removing it frees.
  type: int
  returned: success
report:
  description: The same as lines to read.
  type: list
  elements: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.collect import find, remove, report


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "instances_directory": {"type": "path", "default": "/var/lib/vllm"},
            "models_directory": {"type": "path", "default": "/var/lib/vllm-models"},
            "environments_directory": {"type": "path", "default": "/opt/vllm/environments"},
            "pool_directory": {"type": "path"},
            "keep": {"type": "list", "elements": "path", "default": []},
            "remove": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    options = module.params
    places = [options["instances_directory"], options["models_directory"], options["environments_directory"]]
    found = find(*places, options["pool_directory"] or "", options["keep"])
    removed = options["remove"] and not module.check_mode
    if removed:
        try:
            remove(row["path"] for row in found)
        except OSError as error:
            module.fail_json(msg=f"{error.filename} cannot be removed: {error.strerror}. Run it again when that is mended.")
    size = sum(row["bytes"] for row in found)
    module.exit_json(changed=options["remove"] and bool(found), found=found, bytes=size, report=report(found, removed))


if __name__ == "__main__":
    main()
