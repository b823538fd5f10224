#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: python_archive
short_description: Unpack a Python from an archive, and prove that it works
description:
  - Unpacks an archive that lies on the host beside its final place, makes everything root's, proves that its Python works from
    there (version, OpenSSL, a virtual environment with pip), and renames it when it is whole. The archive is removed, whatever came of it.
  - Does nothing where the final place exists. Leaves nothing behind where the archive is refused.
version_added: "0.3.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  archive:
    description: The C(.tar.gz) file on the host, with C(bin/) and C(lib/) at the top or in one folder.
    type: path
    required: true
  sha256:
    description: Its sha256, in hexadecimal.
    type: str
    required: true
  version:
    description: The Python that it holds, as "MAJOR.MINOR".
    type: str
    required: true
  path:
    description: The folder that it is unpacked to. What is above it has to be there.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Can run in check mode. The archive need not be there then.
"""

EXAMPLES = r"""
- name: Python 3.10, which this distribution does not have
  ownmetal.codex.python_archive:
    archive: /opt/python/3.10.tar.gz
    sha256: 9a271f2a916b0b6ee6cecb2426f0b3206ef074578be55d9bc94f6f3fe3ab86aa
    version: "3.10"
    path: /opt/python/3.10-9a271f2a916b
"""

RETURN = r"""
interpreter:
  description: The path of its interpreter.
  type: str
  returned: success
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.python_archive import install


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    archive, path, version = (module.params[key] for key in ("archive", "path", "version"))
    changed = not os.path.exists(path)
    if changed and not module.check_mode:
        try:
            install(archive, module.params["sha256"], version, path)
        except Refused as refused:
            module.fail_json(msg=str(refused))
        finally:
            os.unlink(archive)
    module.exit_json(changed=changed, interpreter=f"{path}/bin/python{version}")


if __name__ == "__main__":
    main()
