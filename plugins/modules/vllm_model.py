#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_model
short_description: Bring models to a server, verified and whole
description:
  - Fetches models at a pinned revision from a hub, a mirror of one or a pool, or unpacks one from an archive. A model has its name
    when every byte is there and verified, and is read-only from then on.
  - An interrupted run leaves what came; the next one goes on with it. The play shows how far it is.
version_added: "0.3.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  directory:
    description: Where the models' folders are.
    type: path
    default: /var/lib/vllm-models
  models:
    description: The models of the hub.
    type: list
    elements: dict
    default: []
    suboptions:
      id:
        description: The name of its folder.
        type: str
        required: true
      instance:
        description: The instance that wants it, for messages.
        type: str
        required: true
      repository:
        description: C(organisation/name).
        type: str
        required: true
      revision:
        description: The commit.
        type: str
        required: true
      files:
        description: Patterns of the files that are wanted; with C(!) in front, of those that are not. Without it, what vLLM reads.
        type: list
        elements: str
        default: []
      manifest:
        description: A manifest that pins the files, as text. Without it the hub is asked.
        type: str
  archive:
    description: A model that is packed in a file on this host, which is removed when it is unpacked.
    type: dict
    suboptions:
      id:
        description: The name of its folder.
        type: str
        required: true
      path:
        description: The file.
        type: path
        required: true
      kind:
        description: The ending of its name, such as V(.tar.gz).
        type: str
        required: true
      sha256:
        description: Its digest.
        type: str
        required: true
  state:
    description:
      - V(present) fetches the models.
      - V(seen) fetches their small files only, aside, and returns what they say; nothing is kept.
      - V(locked) returns the manifest of the first one, whose revision may be a branch here.
    type: str
    choices: [present, seen, locked]
    default: present
  hub_url:
    description: The hub's address, or its mirror's.
    type: str
    default: https://huggingface.co
  token_from:
    description:
      - The name of the variable that holds the hub's token.
      - The action hands the token over by a pipe when the job runs, so it is never an argument, and in no file.
    type: str
  pool:
    description: A neighbour that has the models already.
    type: dict
    suboptions:
      url:
        description: The address, below which each model has a folder.
        type: str
        required: true
      fingerprint:
        description: SHA-256 of its certificate.
        type: str
        default: ""
  pool_token_from:
    description: As O(token_from), the name of the variable that holds the pool's token.
    type: str
  share:
    description: On the pool host, to open the models to one more server when they are there; the port, and the pool's directory.
    type: dict
    suboptions:
      port:
        description: The TCP port.
        type: int
        required: true
      pool:
        description: The pool's directory.
        type: path
        required: true
  stall_seconds:
    description: After how many seconds without bytes a download is tried again.
    type: float
    default: 60
  environment:
    description:
      - Environment variables for downloads from the hub, such as C(HTTPS_PROXY), as a JSON object in one string.
      - Not Ansible's keyword C(environment), which writes them on a command line that every user of the host can read.
    type: str
    default: "{}"
  secrets_pipe:
    description: Where the job reads the tokens. The action sets it.
    type: path
  progress_file:
    description: Where the action reads how far it is.
    type: path
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: Bring a model
  ownmetal.codex.vllm_model:
    models:
      - id: qwen3-8b
        instance: coder
        repository: Qwen/Qwen3-8B
        revision: b968826d9c46dd6066d109eabc6255188de91218
    token_from: vllm_hub_token
"""

RETURN = r"""
fetched:
  description: The models that were not there.
  type: list
  elements: str
  returned: success
source:
  description: Where the models can be taken from, C(port) and C(fingerprint); the action adds the C(token) and hides it all.
  type: dict
  returned: with O(share)
seen:
  description: By model, what its small files say, as M(ownmetal.codex.tree) tells of C(models), and C(download_bytes).
  type: dict
  returned: with O(state=seen)
refused:
  description: Models that cannot be had; C(where), C(why) and C(instead) of each.
  type: list
  elements: dict
  returned: with O(state=seen)
commit:
  description: The commit that the revision names.
  type: str
  returned: with O(state=locked)
manifest:
  description: The manifest, as text.
  type: str
  returned: with O(state=locked)
"""

import json
import os
from collections.abc import Mapping
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.children import hidden
from ansible_collections.ownmetal.codex.plugins.module_utils.download import TRIES
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.handed import receive
from ansible_collections.ownmetal.codex.plugins.module_utils.hub import HUB, Hub
from ansible_collections.ownmetal.codex.plugins.module_utils.model_archive import unpack
from ansible_collections.ownmetal.codex.plugins.module_utils.model_manifest import parse
from ansible_collections.ownmetal.codex.plugins.module_utils.model_store import Pool, Wanted, fetch, look
from ansible_collections.ownmetal.codex.plugins.module_utils.pool import share
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress

FEW_TRIES = 3


def wanted(row: Mapping[str, Any]) -> Wanted:
    """Return a model as the core knows it."""
    where = f"vllm_instances {row['instance']}: model_manifest"
    lock = parse(row["manifest"], where) if row["manifest"] else None
    if lock and (lock.repository, lock.revision) != (row["repository"], row["revision"]):
        why = f"pins {lock.repository} at {lock.revision}, which is not what the instance names."
        raise Refused(where, why, "Write the manifest anew with playbooks/lock_model.yml.")
    return Wanted(row["id"], row["instance"], row["repository"], row["revision"], row["files"], lock)


def seen(models: list[Wanted], hub: Hub, directory: str, progress: Progress) -> dict[str, Any]:
    """Return what the small files of models say, and what is refused."""
    found: dict[str, Any] = {}
    refused: list[dict[str, str]] = []
    for model in models:
        if os.path.isdir(f"{directory}/{model.id}"):
            continue
        try:
            found[model.id] = look(model, hub, directory, progress)
        except Refused as problem:
            refused.append({"where": problem.where, "why": problem.why, "instead": problem.instead})
    return {"changed": False, "seen": found, "refused": refused}


def locked(row: Mapping[str, Any], hub: Hub, progress: Progress) -> dict[str, Any]:
    """Return the commit and the manifest of a revision, which may be a branch."""
    where = f"-e repository={row['repository']}"
    commit = hub.commit(row["repository"], row["revision"], where, progress)
    return {"changed": False, "commit": commit, "manifest": hub.manifest(row["repository"], commit, where, progress).text()}


def present(options: Mapping[str, Any], models: list[Wanted], hub: Hub, secrets: Mapping[str, str], progress: Progress) -> list[str]:
    """Bring what is missing, and return it."""
    directory, pool, archive = options["directory"], options["pool"], options["archive"]
    from_pool: Optional[Pool] = None
    if pool:
        headers = {"Authorization": f"Bearer {secrets['pool_token']}"} if secrets.get("pool_token") else {}
        from_pool = Pool(pool["url"], pool["fingerprint"], headers, options["stall_seconds"])
    fetched = [model.id for model in models if fetch(model, directory, hub, from_pool, progress)]
    if archive:
        details = (archive["path"], archive["kind"], archive["sha256"], directory, archive["id"], "model_source")
        fetched += [archive["id"]] if unpack(*details, progress) else []
    return fetched


def opened_to_one_more(how: Mapping[str, Any], directory: str, models: list[Wanted], token: str) -> dict[str, Any]:
    """Let the pool's server give these models, and nothing else, to who shows the token."""
    roots = {"environments": f"{how['pool']}/environments", "models": directory}
    return share(roots, how["port"], [f"models/{model.id}/" for model in models], token)


def main() -> None:
    """Run the module."""
    text = {"type": "str", "required": True}
    model = {
        "id": text,
        "instance": text,
        "repository": text,
        "revision": text,
        "files": {"type": "list", "elements": "str", "default": []},
        "manifest": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/var/lib/vllm-models"},
            "models": {"type": "list", "elements": "dict", "default": [], "options": model},
            "archive": {"type": "dict", "options": {"id": text, "path": {"type": "path", "required": True}, "kind": text, "sha256": text}},
            "state": {"type": "str", "choices": ["present", "seen", "locked"], "default": "present"},
            "hub_url": {"type": "str", "default": HUB},
            "token_from": {"type": "str", "no_log": False},
            "pool": {"type": "dict", "options": {"url": text, "fingerprint": {"type": "str", "default": ""}}},
            "pool_token_from": {"type": "str", "no_log": False},
            "share": {"type": "dict", "options": {"port": {"type": "int", "required": True}, "pool": {"type": "path", "required": True}}},
            "stall_seconds": {"type": "float", "default": 60.0},
            "environment": {"type": "str", "default": "{}", "no_log": True},
            "secrets_pipe": {"type": "path", "no_log": False},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    progress = Progress(options["progress_file"])
    opened: dict[str, Any] = {}
    try:
        secrets = receive(options["secrets_pipe"]) if options["secrets_pipe"] else {}
        module.no_log_values.update(value for value in secrets.values() if value)
        os.environ.update((name, str(value)) for name, value in json.loads(options["environment"]).items())
        tries = TRIES if options["state"] == "present" else FEW_TRIES  # who only looks is not kept waiting
        hub = Hub(options["hub_url"], secrets.get("token", ""), options["stall_seconds"], tries)
        models = [wanted(row) for row in options["models"]]
        if options["state"] == "locked":
            module.exit_json(**locked(options["models"][0], hub, progress))
        if options["state"] == "seen":
            module.exit_json(**seen(models, hub, options["directory"], progress))
        if module.check_mode:
            names = [one.id for one in models] + ([options["archive"]["id"]] if options["archive"] else [])
            fetched = [name for name in names if not os.path.isdir(f"{options['directory']}/{name}")]
        else:
            fetched = present(options, models, hub, secrets, progress)
            if options["share"]:
                opened.update(source=opened_to_one_more(options["share"], options["directory"], models, secrets["share_token"]))
    except Refused as refused:
        module.fail_json(msg=hidden(str(refused), json.loads(options["environment"])))
    module.exit_json(changed=bool(fetched), fetched=fetched, **opened)


if __name__ == "__main__":
    main()
