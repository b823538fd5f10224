#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: openai_endpoint_check
short_description: Prove an OpenAI-compatible endpoint with real requests
version_added: 0.1.0
description:
  - Asks the server what Codex will ask it, and judges the answers. It lists the models, is turned away without the key,
    gets a text, a stream, a tool call, and an answer to that tool's result, on chat completions and on the Responses
    API.
  - Needs no particular model, only one that can call tools. It costs a few short answers.
  - A check ends as ok, failed (with the evidence, the cause and the next command), or not applicable (with the reason).
    Where a check fails, those that build on it are not run.
  - Connects directly, never through a proxy that the environment names.
extends_documentation_fragment:
  - ownmetal.codex.attributes
  - ownmetal.codex.attributes.endpoint
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
options:
  base_url:
    description:
      - The URL that Codex is given. It starts with V(http://) or V(https://) and ends in V(/v1).
    type: str
    required: true
  model:
    description:
      - The served name to ask for.
    type: str
    required: true
  api_key:
    description:
      - The key. Without one the check RV(checks[].id=key_enforced) does not apply.
    type: str
  apis:
    description:
      - The APIs to prove. V(chat) is chat completions, V(responses) the Responses API, the only one that Codex 0.95 and
        newer speak.
    type: list
    elements: str
    choices: [chat, responses]
    default: [chat, responses]
  expect_reasoning:
    description:
      - Whether the instance has a reasoning parser, so that reasoning must arrive apart from the text.
    type: bool
    default: false
  instance:
    description:
      - The name of the entry in the inventory's C(vllm_instances), for the causes and commands of failed checks.
      - Defaults to the value of O(model).
    type: str
  server:
    description:
      - The inventory name of the server, for the same purpose.
      - Defaults to the host in O(base_url).
    type: str
  ca_file:
    description:
      - A PEM file on the host that runs the module. Only the authorities in it are trusted then.
      - Without it, the host's own are.
    type: path
  timeout:
    description:
      - The longest that one request may take, in seconds.
    type: int
    default: 120
seealso:
  - module: ownmetal.codex.codex_exec_check
author:
  - the ownmetal.codex authors (@ownmetal)
"""

EXAMPLES = r"""
- name: Prove the endpoint of one instance
  ownmetal.codex.openai_endpoint_check:
    base_url: http://server1:8001/v1
    api_key: "{{ lookup('ansible.builtin.file', '/etc/vllm/micro.key') }}"
    model: micro
    expect_reasoning: true

- name: Prove a gateway with a private authority, for new Codex versions only
  ownmetal.codex.openai_endpoint_check:
    base_url: https://llm.example.com/v1
    api_key: "{{ team_key }}"
    model: qwen3-coder
    instance: coder
    server: gpu3
    apis: [responses]
    ca_file: /etc/ssl/certs/example-ca.pem

- name: Collect the verdicts of a server that may be down, and go on
  ownmetal.codex.openai_endpoint_check:
    base_url: http://server1:8001/v1
    model: micro
  register: __endpoint
  failed_when: false # the verdicts are looked at afterwards
"""

RETURN = r"""
checks:
  description:
    - The verdicts, always the same ones in the same order.
    - Their ids are V(health), V(models), V(key_enforced), and for each of V(chat) and V(responses) that name itself and,
      appended to it, V(_stream), V(_tool_call), V(_tool_result) and V(_reasoning).
  returned: when the options are valid
  type: list
  elements: dict
  contains:
    id:
      description: The check.
      type: str
      sample: responses_tool_call
    ok:
      description: V(true), V(false), or null where the check does not apply.
      type: bool
      sample: false
    evidence:
      description: What was seen, or why the check does not apply.
      type: str
      sample: the text "<tool_call> {"name"
    took_ms:
      description: How long it took, in milliseconds.
      type: int
      sample: 64
    cause:
      description: Why it failed. Null where it did not.
      type: str
      sample: "the tool call came as plain text: it looks like the format of the parser hermes"
    next:
      description: The command to run, or the words to write, next. Null where it did not fail.
      type: str
      sample: "set tool_call_parser and enable_auto_tool_choice: true of micro, then run ansible-playbook site.yml"
report:
  description: The verdicts as lines to read.
  returned: when the options are valid
  type: list
  elements: str
max_model_len:
  description: The context length that the server states for O(model), in tokens. Null where it states none.
  returned: when the options are valid
  type: int
  sample: 32768
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.client import BaseUrl, Client
from ansible_collections.ownmetal.codex.plugins.module_utils.endpoint_checks import APIS, check_endpoint
from ansible_collections.ownmetal.codex.plugins.module_utils.errors import Refused


def main() -> None:
    """Parse, check, report."""
    module = AnsibleModule(
        argument_spec={
            "base_url": {"type": "str", "required": True},
            "model": {"type": "str", "required": True},
            "api_key": {"type": "str", "no_log": True},
            "apis": {"type": "list", "elements": "str", "choices": list(APIS), "default": list(APIS)},
            "expect_reasoning": {"type": "bool", "default": False},
            "instance": {"type": "str"},
            "server": {"type": "str"},
            "ca_file": {"type": "path"},
            "timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    options = module.params
    try:
        if options["timeout"] < 1:
            raise Refused("timeout", f"{options['timeout']} leaves no time to answer.", "Write seconds, 1 or more.")
        base_url = BaseUrl.parse(options["base_url"])
        client = Client(base_url, options["api_key"], options["ca_file"], options["timeout"])
    except Refused as refused:
        module.fail_json(msg=str(refused))
    report = check_endpoint(
        client,
        options["model"],
        options["instance"] or options["model"],
        options["server"] or base_url.host,
        options["apis"],
        options["expect_reasoning"],
    )
    result = {
        "changed": False,
        "checks": [check.as_dict() for check in report.checks],
        "report": [f"{options['model']} at {base_url}", *(check.line() for check in report.checks)],
        "max_model_len": report.max_model_len,
    }
    if report.failed:
        lines = [f"{check.id}: {check.evidence}. Cause: {check.cause}. Next: {check.next}." for check in report.failed]
        msg = f"{len(lines)} of {len(report.checks)} checks of {base_url} failed.\n" + "\n".join(lines)
        module.fail_json(msg=msg, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
