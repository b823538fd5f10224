#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_bundle
short_description: Pack a pool into one archive, or fill a pool from one
description:
  - Carries finished environments, models and the installer into a network without a way out.
  - Unpacking proves every file by its digest before any is put in its place.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  path:
    description: The archive, on this host.
    type: path
    required: true
  state:
    description: V(packed) makes the archive, V(unpacked) fills the pool from it.
    type: str
    choices: [packed, unpacked]
    required: true
  environments:
    description: The names of the environments to pack.
    type: list
    elements: str
    default: []
  pool:
    description: The pool's directory.
    type: path
    required: true
  models:
    description: The directory of models.
    type: path
    required: true
  installer:
    description: The directory of the installer's releases.
    type: path
    required: true
  progress_file:
    description: Where the action reads how far it is.
    type: path
attributes:
  check_mode:
    support: full
    description:
      - Can run in check mode. What a bundle would put into the pool is known by its list and the sizes of its files then; their digests are
        proved when it is unpacked.
"""

EXAMPLES = r"""
- name: Fill a pool
  ownmetal.codex.vllm_bundle:
    state: unpacked
    path: /root/bundle.tar
    pool: /var/cache/vllm-pool
    models: /var/lib/vllm-models
    installer: /opt/vllm/uv
"""

RETURN = r"""
contents:
  description: What was packed, or what was new in the pool.
  type: list
  elements: str
  returned: success, and for V(packed) not in check mode
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils import bundle
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress, alone


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["packed", "unpacked"], "required": True},
            "environments": {"type": "list", "elements": "str", "default": []},
            "pool": {"type": "path", "required": True},
            "models": {"type": "path", "required": True},
            "installer": {"type": "path", "required": True},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    progress = Progress(options["progress_file"])
    roots = {"environments": f"{options['pool']}/environments", "models": options["models"], "uv": options["installer"]}
    try:
        if module.check_mode and options["state"] == "unpacked":
            found = bundle.look(options["path"], roots)
            module.exit_json(changed=bool(found), contents=found)
        if module.check_mode:  # it is written anew each time
            module.exit_json(changed=True)
        with alone("vllm-environments", progress):
            if options["state"] == "packed":
                found = bundle.write(options["path"], roots, options["environments"], progress)
            else:
                found = bundle.read(options["path"], roots, progress)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    except OSError as error:
        module.fail_json(msg=f"bundle_file: {error}.")
    module.exit_json(changed=options["state"] == "packed" or bool(found), contents=found)


if __name__ == "__main__":
    main()
