# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A gateway's secrets, from files of the controller: its certificate, and what its program knows of keys."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gateway_secrets
short_description: Read a gateway's certificate and keys on the controller, making what is not there
description:
  - Returns a gateway's certificate with its private key, and the text of the file that its program reads, with a digest for each key.
  - Keys of people and a private CA that are not there yet are made, readable by their owner only.
  - In check mode nothing is made, and placeholders are returned.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  _terms:
    description: One mapping, the variables of the role without their prefix, with C(host) and C(instances).
    required: true
"""

EXAMPLES = r"""
- name: Show the day on which the certificate ends
  ansible.builtin.debug:
    msg: "{{ lookup('ownmetal.codex.gateway_secrets', __gateway_settings).certificate }}"
"""

RETURN = r"""
_raw:
  description: Mappings with C(certificate), C(key), C(ca) (empty where it is not ours) and C(state), all text.
  type: list
  elements: dict
"""

import os
from typing import Any, Optional

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible_collections.ownmetal.codex.plugins.module_utils import gateway_state, gateway_tls
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused


class LookupModule(LookupBase):
    """The face of module_utils/gateway_state.py and gateway_tls.py."""

    def run(self, terms: list[Any], variables: Optional[dict[str, Any]] = None, **kwargs: Any) -> list[dict[str, str]]:
        """Return the secrets of each gateway."""
        known = variables or {}
        make = not known.get("ansible_check_mode", False)
        try:
            return [_secrets(term, known.get("hostvars", {}), make) for term in terms]
        except Refused as refused:
            raise AnsibleLookupError(str(refused)) from refused


def _secrets(settings: dict[str, Any], hostvars: Any, make: bool) -> dict[str, str]:
    directory = os.path.expanduser(str(settings["secrets"]))
    if settings["tls"] == "acme":
        pair = gateway_tls.Pair("", "")  # made on the gateway
    elif settings["tls"] == "files":
        pair = gateway_tls.given(str(settings["tls_certificate"]), str(settings["tls_key"]), settings["names"])
    else:
        pair = gateway_tls.made(directory, str(settings["host"]), settings["names"], make)
    servers = {row["server"]: hostvars[row["server"]] for row in settings["instances"]}
    keys = {server: (gateway_state.server_key(known, make), gateway_state.key_before(known)) for server, known in servers.items()}
    state = gateway_state.text(settings, settings["instances"], keys, pair.certificate, make)
    return {"certificate": pair.certificate, "key": pair.key, "ca": pair.ca, "state": state}
