#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: codex_facts
short_description: The version of the Codex that is on a machine, and the models that its servers have
description:
  - Asks a Codex for its version, and servers for their list of models, as the machine itself reaches them.
  - Changes nothing. What cannot be asked is no failure; it is said.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  program:
    description: A name or a path of Codex. Without it, no version is asked for.
    type: path
  urls:
    description: Base URLs of servers, with the V(/v1) at their ends.
    type: list
    elements: str
    default: []
  api_key:
    description: The key for them.
    type: str
  ca_file:
    description: Certificates to trust instead of those of the system.
    type: path
  timeout:
    description: Seconds that a server has for its answer.
    type: int
    default: 10
  catalogue:
    description: The catalogue of models that was written last, whose models are remembered.
    type: path
attributes:
  check_mode:
    support: full
    description: Changes nothing in either mode.
  diff_mode:
    support: none
    description: Has nothing to show.
"""

EXAMPLES = r"""
- name: See what the gateway has
  ownmetal.codex.codex_facts:
    urls: [https://llm.example.com/v1]
    api_key: "{{ my_key }}"
  register: found
"""

RETURN = r"""
version:
  description: The version of Codex; null where there is none that runs.
  type: str
  returned: always
live:
  description: By the URLs that answered, the context length of each model that has one.
  type: dict
  returned: always
silent:
  description: By the URLs that did not, why.
  type: dict
  returned: always
remembered:
  description: The context length of each model of the catalogue that was written last.
  type: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_look import ask_version, live_models, remembered_models


def main() -> None:
    """Ask."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path"},
            "urls": {"type": "list", "elements": "str", "default": []},
            "api_key": {"type": "str", "no_log": True},
            "ca_file": {"type": "path"},
            "timeout": {"type": "int", "default": 10},
            "catalogue": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    live, silent = {}, {}
    for url in params["urls"]:
        models, why = live_models(url, params["api_key"], params["ca_file"], params["timeout"])
        if why:
            silent[url] = why
        else:
            live[url] = models
    module.exit_json(
        changed=False,
        version=ask_version(params["program"]) if params["program"] else None,
        live=live,
        silent=silent,
        remembered=remembered_models(params["catalogue"]) if params["catalogue"] else {},
    )


if __name__ == "__main__":
    main()
