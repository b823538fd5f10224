# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the modules of this collection promise, worded once."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments for extends_documentation_fragment: ``ownmetal.codex.attributes`` and ``.attributes.endpoint``."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in C(check_mode) and return what it would return without it.
  diff_mode:
    description: Returns details of what has changed, or would change, in diff mode.
"""

    ENDPOINT = r"""
options: {}
attributes:
  action_group:
    description: Use C(group/ownmetal.codex.endpoint) in C(module_defaults) to set defaults for these modules.
    support: full
    membership:
      - ownmetal.codex.endpoint
"""
