#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_gate
short_description: Say whether the GPUs of vLLM instances can work, alone and together
description:
  - Looks at the server's GPUs as M(ownmetal.codex.gpu_info) does, judges those of each instance, and lets those that work together
    add up what is known (an all-reduce), with the environment's own Python and as the instance's user.
  - Changes nothing, and does not fail for what it finds. GPUs that somebody uses are not disturbed.
  - An all-reduce whose sums were right is remembered until the next boot.
  - It is a job of the host. The play shows how far it is.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  server:
    description: The name of the server, for sentences.
    type: str
    required: true
  instances:
    description: The instances of the server.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The instance.
        type: str
        required: true
      starts:
        description: Whether it will be started. What is wrong with one that runs on is a warning.
        type: bool
        default: true
      device:
        description: What adds up. With V(cpu), processes by Gloo, as many as O(instances[].gpus) has numbers; nothing is judged then.
        type: str
        choices: [cuda, cpu]
        default: cuda
      gpus:
        description: Its GPUs by number.
        type: list
        elements: int
        required: true
      group:
        description: How many of them work as one. V(0) is all.
        type: int
        default: 0
      share:
        description: Which share of each GPU's memory vLLM will ask for.
        type: float
        default: 0
      environment:
        description: Its environment variables that NCCL and CUDA read.
        type: dict
        default: {}
      args:
        description: Its flags that have to do with how GPUs reach one another.
        type: dict
        default: {}
      python:
        description: The Python of its environment. Where there is none yet, nothing is run.
        type: path
        required: true
  left_out:
    description: GPUs that no instance gets, by number, serial number or UUID.
    type: list
    elements: raw
    default: []
  stopped:
    description: Units that are stopped before an instance starts. What they hold counts as free, as what instances hold does.
    type: list
    elements: str
    default: []
  user:
    description: As which user an all-reduce runs.
    type: str
  timeout:
    description: How long, in seconds, an all-reduce may take, with the start of its processes. V(0) lets none run.
    type: int
    default: 180
  progress_file:
    description: Where the action reads how far it is.
    type: path
attributes:
  check_mode:
    support: full
    description: Can run in check mode. No all-reduce runs then.
"""

EXAMPLES = r"""
- name: Look at the GPUs of an instance
  ownmetal.codex.gpu_gate:
    server: gpu1
    user: vllm
    instances:
      - name: big
        gpus: [0, 1, 2, 3]
        share: 0.92
        python: /var/lib/vllm/big/current/environment/bin/python
  register: gate

- name: Refuse what cannot work
  ansible.builtin.assert:
    that: gate.refused | length == 0
    fail_msg: "{{ gate.refused | join('\n') }}"
"""

RETURN = r"""
lines:
  description: A line for each instance whose GPUs are fit.
  type: list
  elements: str
  returned: success
  sample: ["big: 4 x H100 80GB HBM3, all pairs by NVLink, all-reduce 231 GB/s"]
refused:
  description: A sentence for each reason against an instance that would be started.
  type: list
  elements: str
  returned: success
warnings_said:
  description: A sentence for each thing that is slow, not known, or wrong with an instance that runs on.
  type: list
  elements: str
  returned: success
left_out:
  description: The numbers of the GPUs that O(left_out) names.
  type: list
  elements: int
  returned: success
measured:
  description:
    - What came of the all-reduces, by instance. C(kind) is V(ok), V(wrong), V(silent) or V(failed), C(members) are the GPUs that it is
      about, C(algbw) and C(busbw) are in GB/s (10**9 bytes) as nccl-tests define them.
  type: dict
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.all_reduce import SECONDS
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_gate import Gate, gate
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_info import collect
from ansible_collections.ownmetal.codex.plugins.module_utils.progress import Progress, alone


def main() -> None:
    """Run the module."""
    instance = {
        "name": {"type": "str", "required": True},
        "starts": {"type": "bool", "default": True},
        "device": {"type": "str", "choices": ["cuda", "cpu"], "default": "cuda"},
        "gpus": {"type": "list", "elements": "int", "required": True},
        "group": {"type": "int", "default": 0},
        "share": {"type": "float", "default": 0},
        "environment": {"type": "dict", "default": {}},
        "args": {"type": "dict", "default": {}},
        "python": {"type": "path", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "server": {"type": "str", "required": True},
            "instances": {"type": "list", "elements": "dict", "default": [], "options": instance},
            "left_out": {"type": "list", "elements": "raw", "default": []},
            "stopped": {"type": "list", "elements": "str", "default": []},
            "user": {"type": "str"},
            "timeout": {"type": "int", "default": SECONDS},
            "progress_file": {"type": "path"},
        },
        supports_check_mode=True,
    )
    options = module.params
    progress = Progress(options["progress_file"])
    asked = Gate(
        options["server"],
        options["instances"],
        options["left_out"],
        options["user"],
        options["timeout"],
        module.check_mode,
        options["stopped"],
        say=progress.say,
    )
    with alone("gpu-gate", progress):
        found = gate(asked, collect())
    # Ansible has a use of its own for "warnings"
    module.exit_json(changed=False, warnings_said=found.pop("warnings"), **found)


if __name__ == "__main__":
    main()
