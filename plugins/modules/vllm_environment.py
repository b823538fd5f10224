#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_environment
short_description: Build an environment from its lock, take it from a pool, or share it with other servers
description:
  - Builds the environment aside, proves it, compiles its bytecode, makes it read-only and moves it into its place. A directory under
    an environment's name is always whole, however the run before this one ended.
  - With O(source) it takes the finished environment from the pool host. With O(share) it makes sure that this host, the pool host,
    has it packed, and serves it to one more server.
  - It is a job of the host. The play shows how far it is, and the job goes on when the play is ended.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  environment:
    description: Its record, with id, track, vllm, python, device, machine, interpreter and lock (the requirements with their hashes).
    type: dict
    required: true
  directory:
    description: The directory that holds environments and the installer.
    type: path
    required: true
  cache:
    description: Where wheels that were fetched are kept.
    type: path
    required: true
  installer_lock:
    description: The requirements of the installer, uv, with their hashes.
    type: str
    required: true
  installer_version:
    description: The release of the installer.
    type: str
    required: true
  installer_environment:
    description: Environment variables of the installers, as JSON text. They may hold passwords.
    type: str
    default: "{}"
  space_gib:
    description: How many GiB have to be free before a build; V(0) is what the environment's device needs.
    type: float
    default: 0
  pool:
    description: The pool's directory, where there is one.
    type: path
    required: true
  share:
    description: On the pool host, to share the environment instead of installing it; names of directories to serve, and the port.
    type: dict
    suboptions:
      port:
        description: Where the server listens.
        type: int
        required: true
      models:
        description: The directory of models, which the same server serves.
        type: path
        required: true
  token:
    description: With O(share), what the taker will show. The action makes it, so that no answer of the host holds it.
    type: str
  pack:
    description: On the pool host, to have the environment packed and nothing else.
    type: bool
    default: false
  source:
    description: Where to take the environment from, as JSON text; RV(source) of the pool host, with address added. It holds a token.
    type: str
  progress_file:
    description: Where the action reads how far it is.
    type: path
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: Build
  ownmetal.codex.vllm_environment:
    environment: "{{ record }}"
    directory: /opt/vllm
    cache: /var/cache/vllm-uv
    pool: /var/cache/vllm-pool
    installer_lock: "{{ lookup('ansible.builtin.file', 'uv.txt', rstrip=false) }}"
    installer_version: 0.13.9
"""

RETURN = r"""
source:
  description: Where one other server gets the environment. Empty in check mode.
  type: dict
  returned: with O(share)
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils import pool
from ansible_collections.ownmetal.codex.plugins.module_utils.children import hidden
from ansible_collections.ownmetal.codex.plugins.module_utils.environment_build import Site
from ansible_collections.ownmetal.codex.plugins.module_utils.environment_manifest import damage
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress, alone


def main() -> None:
    """Run the module."""
    share = {"port": {"type": "int", "required": True}, "models": {"type": "path", "required": True}}
    module = AnsibleModule(
        argument_spec={
            "environment": {"type": "dict", "required": True},
            "directory": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "installer_lock": {"type": "str", "required": True},
            "installer_version": {"type": "str", "required": True},
            # text, and not a dict: Ansible hides each value of a secret dict, and then each "1" in every sentence
            "installer_environment": {"type": "str", "default": "{}", "no_log": True},
            "space_gib": {"type": "float", "default": 0.0},
            "pool": {"type": "path", "required": True},
            "share": {"type": "dict", "options": share},
            "token": {"type": "str", "no_log": True},
            "pack": {"type": "bool", "default": False},
            "source": {"type": "str", "no_log": True},
            "progress_file": {"type": "path"},
        },
        mutually_exclusive=[("share", "source", "pack")],
        supports_check_mode=True,
    )
    options = module.params
    settings = {name: str(value) for name, value in json.loads(options["installer_environment"] or "{}").items()}
    site = Site(
        options["directory"],
        options["cache"],
        options["installer_lock"],
        options["installer_version"],
        settings,
        options["space_gib"],
    )
    source = json.loads(options["source"]) if options["source"] else None
    progress, record = Progress(options["progress_file"]), options["environment"]
    result = {}
    try:
        if module.check_mode:
            there = (
                pool.packed(options["pool"], record["id"]) if options["share"] or options["pack"] else not damage(site.final(record["id"]))
            )
            module.exit_json(changed=not there, source={})
        with alone("vllm-environments", progress):
            if options["share"] or options["pack"]:
                changed = not pool.packed(options["pool"], record["id"])
                found = pool.provide(record, site, options["pool"], progress)
            if options["share"]:
                path = f"environments/{found['file']}"
                roots = {"environments": f"{options['pool']}/environments", "models": options["share"]["models"]}
                opened = pool.share(roots, options["share"]["port"], [path], options["token"])
                result = {"source": {**found, **opened, "path": path}}
            elif not options["pack"]:
                changed = bool(damage(site.final(record["id"])))
                if changed:
                    pool.ensure(record, site, options["pool"], source, progress)
    except Refused as refused:
        module.fail_json(msg=hidden(str(refused), settings))
    module.exit_json(changed=changed, **result)


if __name__ == "__main__":
    main()
