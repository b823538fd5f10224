# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A key in a file on the controller that only its owner can read, made when it is not there yet."""

from __future__ import annotations

DOCUMENTATION = r"""
name: api_key
short_description: Read an API key from a file on the controller, making it when it is not there
description:
  - Returns the key that a file on the controller holds.
  - A file that is not there is made with a random key, readable by its owner only.
  - In check mode nothing is made, and a placeholder is returned.
  - A file that others can read is refused, as is one that holds anything but one word.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  _terms:
    description: Path of the file.
    required: true
"""

EXAMPLES = r"""
- name: Use the key of this inventory
  ansible.builtin.set_fact:
    vllm_api_key: "{{ lookup('ownmetal.codex.api_key', inventory_dir ~ '/.secrets/vllm_api_key') }}"
"""

RETURN = r"""
_raw:
  description: The key.
  type: list
  elements: str
"""

from typing import Any, Optional

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.ownmetal.codex.plugins.module_utils.api_key import read_or_make
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused


class LookupModule(LookupBase):
    """The face of module_utils/api_key.py."""

    def run(self, terms: list[str], variables: Optional[dict[str, Any]] = None, **kwargs: Any) -> list[str]:
        """Return the key of each file."""
        make = not (variables or {}).get("ansible_check_mode", False)
        try:
            return [read_or_make(term, make) for term in terms]
        except Refused as refused:
            raise AnsibleLookupError(str(refused)) from refused
