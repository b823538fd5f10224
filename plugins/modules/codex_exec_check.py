#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: codex_exec_check
short_description: Let the real Codex CLI create a file through a tool call
version_added: 0.1.0
description:
  - Runs the Codex that a developer has, as that developer and with their own configuration and login environment, in a scratch
    directory. It passes when Codex has ended its turn, the model has called the shell, and the file is there.
  - Nothing is left behind. Codex gets a scratch home for its state, with a copy of the developer's configuration, and links to what else
    is in their own.
  - Releases from 0.63 on are understood. Those before 0.131 have no validator, so their configuration is only read, and before 0.80 they
    do not tell their settings, so model and provider are those of the developer's file.
  - Codex does not retry, so that a broken chain is seen at once, and the cause is looked for where Codex does not name it.
  - A check ends as ok, failed (with the evidence, the cause and the next command), or not applicable (with the reason).
  - Codex is not run where its prompts would go to its vendor.
extends_documentation_fragment:
  - ownmetal.codex.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  user:
    description:
      - The developer. Needs root, unless it is the user that Ansible connects as.
    type: str
    required: true
  codex:
    description:
      - The program, looked up in the PATH that the developer has after logging in, or an absolute path.
    type: str
    default: codex
  version:
    description:
      - The version that it must be, such as V(0.169.0). Without it any will do.
    type: str
  provider:
    description:
      - The model provider that must be in use. Without it any will do but V(openai), the vendor's own.
    type: str
  prompt:
    description:
      - What Codex is asked to do.
    type: str
    default: Run one shell command that creates the file hello.txt here with the content hi. Do nothing else.
  expect_file:
    description:
      - The file that must be in the scratch directory afterwards.
    type: str
    default: hello.txt
  expect_content:
    description:
      - What must be in it. Blanks at either end do not count.
    type: str
    default: hi
  sandbox:
    description:
      - The sandbox for the model's commands. Without it, the one of the developer's configuration.
    type: str
    choices: [read-only, workspace-write, danger-full-access]
  api_key:
    description:
      - The key, for a configuration that takes it from the environment. Without it, the developer's environment has to have it.
    type: str
  env_key:
    description:
      - The variable that O(api_key) is put into.
    type: str
    default: VLLM_API_KEY
  instance:
    description:
      - The name of the entry in the inventory's C(vllm_instances), for the causes and commands of failed checks.
      - Defaults to the model in the configuration.
    type: str
  server:
    description:
      - The inventory name of the server, for the same purpose.
      - Defaults to the host in the configured URL.
    type: str
  timeout:
    description:
      - The longest that the turn may take, in seconds.
    type: int
    default: 300
seealso:
  - module: ownmetal.codex.openai_endpoint_check
author:
  - the ownmetal.codex authors (@ownmetal)
"""

EXAMPLES = r"""
- name: Prove that a developer's Codex works
  ownmetal.codex.codex_exec_check:
    user: dev

- name: Prove it where the key comes from the environment
  ownmetal.codex.codex_exec_check:
    user: dev
    version: 0.169.0
    provider: vllm
    env_key: VLLM_API_KEY
    api_key: "{{ team_key }}"
    instance: coder
    server: gpu3
"""

RETURN = r"""
checks:
  description:
    - The verdicts, always the same ones in the same order.
    - Their ids are V(codex_version), V(codex_config), V(codex_turn), V(codex_tool_call) and V(codex_effect).
  returned: when the user exists
  type: list
  elements: dict
  contains:
    id:
      description: The check.
      type: str
      sample: codex_turn
    ok:
      description: V(true), V(false), or null where the check does not apply.
      type: bool
      sample: false
    evidence:
      description: What was seen, or why the check does not apply.
      type: str
      sample: "unexpected status 401 Unauthorized: {\"error\":\"Unauthorized\"}, url: http://server1:8001/v1/responses"
    took_ms:
      description: How long it took, in milliseconds.
      type: int
      sample: 870
    cause:
      description: Why it failed. Null where it did not.
      type: str
      sample: the server does not accept this key
    next:
      description: The command to run, or the words to write, next. Null where it did not fail.
      type: str
      sample: ansible-playbook playbooks/developers.yml writes the key file again
report:
  description: The verdicts as lines to read.
  returned: when the user exists
  type: list
  elements: str
events:
  description: The last events that Codex printed, shortened, without the key.
  returned: when the user exists
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.codex_exec import PROMPT, Options, check_codex
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused


def main() -> None:
    """Parse, check, report."""
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "codex": {"type": "str", "default": "codex"},
            "version": {"type": "str"},
            "provider": {"type": "str"},
            "prompt": {"type": "str", "default": PROMPT},
            "expect_file": {"type": "str", "default": "hello.txt"},
            "expect_content": {"type": "str", "default": "hi"},
            "sandbox": {"type": "str", "choices": ["read-only", "workspace-write", "danger-full-access"]},
            "api_key": {"type": "str", "no_log": True},
            "env_key": {"type": "str", "default": "VLLM_API_KEY", "no_log": False},
            "instance": {"type": "str"},
            "server": {"type": "str"},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    options = Options(**module.params)
    try:
        if options.timeout < 1:
            raise Refused("timeout", f"{options.timeout} leaves no time to answer.", "Write seconds, 1 or more.")
        report = check_codex(options)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    result = {
        "changed": False,
        "checks": [check.as_dict() for check in report.checks],
        "report": [f"Codex of {options.user}", *(check.line() for check in report.checks)],
        "events": report.events,
    }
    if report.failed:
        lines = [f"{check.id}: {check.evidence}. Cause: {check.cause}. Next: {check.next}." for check in report.failed]
        msg = f"{len(lines)} of {len(report.checks)} checks of {options.user}'s Codex failed.\n" + "\n".join(lines)
        module.fail_json(msg=msg, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
