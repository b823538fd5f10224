#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: tree
short_description: Render, compare, validate and write a role's files in one round trip
description:
  - Renders all of a role's files on the controller and, in one connection, compares them with what a host has.
  - Only when something differs does a second connection write. All files are staged and validated
    before the first one is replaced, so a refused file leaves every one as it was.
  - Where nothing changes a role costs one connection, however many files it has.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  files:
    description: The paths and what they should be, in the order in which they are made.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description:
          - Where, on the host. A path that starts with V(~user/) lies in that user's home and is read and
            written with that user's rights, so that a symbolic link there cannot lead root anywhere.
        type: path
        required: true
      state:
        description: What the path should be.
        type: str
        choices: [file, directory, link, absent]
        default: file
      template:
        description: A template of the role, below its C(templates/) folder. Excludes O(files[].content).
        type: path
      content:
        description: The text itself. Excludes O(files[].template).
        type: str
      vars:
        description: Further variables for O(files[].template).
        type: dict
      target:
        description: Where a link points to. Required with O(files[].state=link).
        type: path
      owner:
        description: Name of the owner. Without it, V(root), or the user of a home.
        type: str
      group:
        description: Name of the group. Without it, V(root), or the primary group of a home's user.
        type: str
      mode:
        description: Permission bits as a string of octal digits. Without it V("0644"), or V("0755") for a directory.
        type: str
      validate:
        description:
          - A command, as a string or a list of words, run on the host without a shell on the staged file. C(%s) is its path; it has
            the destination's own name. Skipped in check mode.
          - Outside of homes its environment has E(OWNMETAL_STAGED), with a line for each staged file of this task. The line has the
            file's place, a tab, and where it is staged. So files that belong together can be judged together.
        type: raw
      secret:
        description: Never show this file's content in a diff.
        type: bool
        default: false
      merge:
        description:
          - Read what the host has and merge the text into it, on the controller; V(toml) is the one kind so far.
            With O(files[].state=absent) what was merged in is taken out again.
        type: str
        choices: [toml]
      original:
        description: Where a copy of an existing file goes before its first change. Only with O(files[].merge).
        type: path
      notes:
        description:
          - Where that is which was merged last, and the file as it was before. What was merged then and is not in the text any more
            is taken out. Only with O(files[].merge).
          - With O(files[].state=absent) and no text, that which was merged last is taken out. Without such a note nothing is done.
        type: list
        elements: path
  observe:
    description: What else to look at in the same connection; see RV(observed).
    type: dict
    default: {}
    suboptions:
      paths:
        description: Paths. For one with C(*) in its last part, the names of what matches are returned.
        type: list
        elements: path
      users:
        description: User names.
        type: list
        elements: str
      packages:
        description: Names of distribution packages.
        type: list
        elements: str
      units:
        description: Names of systemd units.
        type: list
        elements: str
      ports:
        description: Numbers of TCP ports.
        type: list
        elements: int
      free_space:
        description: Paths whose file system's free space is wanted.
        type: list
        elements: path
      models:
        description: Folders of models, of which config.json, the chat template and the weights' sizes are read.
        type: list
        elements: path
      releases:
        description: Directories of instances, whose releases are listed. A name with C(*) stands for all that are there.
        type: list
        elements: path
      environments:
        description: Directories of environments, whether each is there and whole. One that all instances of O(observe.releases) that link
          to it run in is taken for whole.
        type: list
        elements: path
      gpus:
        description: Makers of GPUs; V(nvidia) is the one that is known.
        type: list
        elements: str
      driver:
        description: Makers of GPUs whose driver, packages and devices are looked at, before anything of theirs may run; V(nvidia) is known.
        type: list
        elements: str
      certificates:
        description: Files that are to hold certificates as PEM text and no private key, readable by everyone. It is told why one is not.
        type: list
        elements: path
      tables:
        description: Tables of nftables with their family, such as V(inet filter).
        type: list
        elements: str
attributes:
  check_mode:
    support: full
    description: Can run in check mode, and then makes one connection only. A role uses that as its look around.
  diff_mode:
    support: full
    description: Shows what changes, never the content of a secret file.
"""

EXAMPLES = r"""
- name: Write the unit and its configuration, and look at the unit
  ownmetal.codex.tree:
    files:
      - dest: /etc/vllm
        state: directory
      - dest: /etc/systemd/system/vllm@.service
        template: etc/systemd/system/vllm@.service.j2
        validate: systemd-analyze verify %s
    observe:
      units: [vllm@micro.service]
"""

RETURN = r"""
changed_paths:
  description: The paths that were, or in check mode would be, changed.
  type: list
  elements: str
  returned: always
observed:
  description: What was asked for with O(observe), by kind, then by the thing asked for.
  type: dict
  returned: always
"""

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused
from ansible_collections.ownmetal.codex.plugins.module_utils.observe import observe
from ansible_collections.ownmetal.codex.plugins.module_utils.tree import Entry, apply, inspect


def main() -> None:
    """Answer the action plugin of the same name; the text of every file travels in one hidden parameter."""
    module = AnsibleModule(argument_spec={"payload": {"type": "str", "required": True, "no_log": True}}, supports_check_mode=True)
    payload = json.loads(module.params["payload"])
    entries = [Entry(**entry) for entry in payload["entries"]]
    try:
        if payload["phase"] == "inspect":
            module.exit_json(found=inspect(entries), observed=observe(payload["observe"]))
        apply(entries)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
