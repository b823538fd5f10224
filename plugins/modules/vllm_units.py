#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_units
short_description: Bring a server's vLLM instances to their releases, prove each, and go back where the proof fails
description:
  - Reloads systemd, enables the units, switches instances to new releases, restarts those that are named and starts those that do
    not run, side by side.
  - Returns when each has given its first token and answered its proof, a real tool call. A new release that does neither gives way to
    the one that it replaced, and the error names the cause and what to change in the inventory.
  - It is a job of the host. The play shows how far it is, and the job goes on when the play is ended.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  instances:
    description: All instances that have to run.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The instance.
        type: str
        required: true
      home:
        description: Its directory, which holds its releases.
        type: path
        required: true
      release:
        description: The number of the release that has to be the current one. Without it the current one stays.
        type: int
      server:
        description: The name of this host in the inventory, for the commands that an error advises. Without it the host's own name.
        type: str
  restart:
    description: Units among them whose files have changed.
    type: list
    elements: str
    default: []
  absent:
    description: Units, or patterns of their names, that are stopped and disabled.
    type: list
    elements: str
    default: []
  proof:
    description: Whether an instance has to answer a real tool call, as its release's proof.json asks it. Else its first token is enough.
    type: bool
    default: true
  key_file:
    description: The file on the server that holds the key.
    type: path
  keep:
    description: How many releases of each instance are kept.
    type: int
    default: 5
  one_by_one:
    description: One instance after the other, until one fails.
    type: bool
    default: false
  timeout:
    description: How long, in seconds, one request of the proof may take.
    type: int
    default: 120
  progress_file:
    description: Where the action reads how far it is.
    type: path
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: Switch one instance to its release 4, start what is down
  ownmetal.codex.vllm_units:
    instances:
      - {name: micro, home: /var/lib/vllm/micro}
      - {name: large, home: /var/lib/vllm/large, release: 4}

- name: Stop all instances
  ownmetal.codex.vllm_units:
    absent: ["vllm@*.service"]
"""

RETURN = r"""
done:
  description: Instance or unit, and what was done to it (V(switch), V(restart), V(start), V(prove), V(enable) or V(stop)).
  type: dict
  returned: success
"""

import functools
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.client import BaseUrl, Client
from ansible_collections.ownmetal.codex.plugins.module_utils.endpoint_checks import check_endpoint
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress, alone
from ansible_collections.ownmetal.codex.plugins.module_utils.units import deploy, known, states, take_down, work

PROOF = "a tool call, and its result sent back"


def prove(proof: Mapping[str, Any], key_file: str, timeout: int) -> str:
    """Ask an instance what Codex will ask it; raise Refused with what is wrong."""
    with open(key_file, encoding="ascii") as stream:
        client = Client(BaseUrl.parse(proof["base_url"]), stream.read().strip(), None, timeout)
    report = check_endpoint(client, proof["model"], proof["instance"], proof["server"], ["responses"], proof.get("expect_reasoning", False))
    if report.failed:
        why = "started, and failed its proof: " + "; ".join(f"{check.id}: {check.cause}" for check in report.failed)
        raise Refused(
            f"vllm_instances {proof['instance']}", f"{why}.", f"Next: {report.failed[0].next}. (vllm_proof: false asks for a token alone.)"
        )
    return PROOF


def main() -> None:
    """Run the module."""
    names = {"type": "list", "elements": "str", "default": []}
    instance = {
        "name": {"type": "str", "required": True},
        "home": {"type": "path", "required": True},
        "release": {"type": "int"},
        "server": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "list", "elements": "dict", "default": [], "options": instance},
            "proof": {"type": "bool", "default": True},
            "restart": names,
            "absent": names,
            "key_file": {"type": "path", "no_log": False},
            "keep": {"type": "int", "default": 5},
            "one_by_one": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 120},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    progress = Progress(options["progress_file"])
    with alone("vllm-units", progress):
        doomed = known(options["absent"])
        units = [f"vllm@{one['name']}.service" for one in options["instances"]]
        jobs = work(options["instances"], options["restart"], states(units))
        if not module.check_mode:
            try:
                if doomed:
                    take_down(doomed)
                if jobs:
                    asked = functools.partial(prove, key_file=options["key_file"], timeout=options["timeout"])
                    deploy(jobs, asked if options["proof"] else None, progress, options["keep"], options["one_by_one"])
            except Refused as refused:
                module.fail_json(msg=str(refused))
    done = {**{job.name: job.verb for job in jobs}, **dict.fromkeys(doomed, "stop")}
    module.exit_json(changed=any(verb != "prove" for verb in done.values()), done=done)


if __name__ == "__main__":
    main()
