#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_plan
short_description: Judge whether a server can run what the inventory gives it
description:
  - Compares the inventory of one server, what the server is, and what its models are with the collection's compatibility data,
    and plans memory and GPUs. Nothing is downloaded or changed.
  - Runs on the controller and makes no connection. What the host is comes from M(ownmetal.codex.tree).
  - Fails for nothing that it finds; RV(ok) says whether the server can run it.
version_added: "0.2.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  spec:
    description: What the inventory wants of the server.
    type: dict
    required: true
    suboptions:
      server:
        description: The server's inventory name.
        type: str
        required: true
      track:
        description: The C(vllm_track). With V(auto) it is chosen by O(observed); without that, refused is what every choice would refuse.
        type: str
        required: true
      tracks:
        description: C(vllm_tracks), the team's own tracks.
        type: list
        elements: dict
      python:
        description: The C(python_version). Without it, the track's.
        type: str
      python_source:
        description: Where Pythons come from. Without it, the distribution's packages.
        type: dict
        suboptions:
          source:
            description: C(python_source).
            type: str
          directory:
            description: C(python_directory).
            type: str
          archive:
            description: C(python_archive), which is read on the controller.
            type: str
          sha256:
            description: C(python_archive_sha256).
            type: str
      instances:
        description: C(vllm_instances). This and the next two are merged by C(name).
        type: list
        elements: dict
      instances_group:
        description: C(vllm_instances_group).
        type: list
        elements: dict
      instances_host:
        description: C(vllm_instances_host).
        type: list
        elements: dict
      firewall:
        description: The C(vllm_firewall). Without it, nobody asks who reaches the instances.
        type: str
      gpus_left_out:
        description: The C(vllm_gpus_left_out), by number.
        type: list
        elements: raw
      allowed_sources:
        description: The C(vllm_allowed_sources).
        type: list
        elements: str
      codex:
        description: The developer machines that use the server.
        type: list
        elements: dict
        suboptions:
          host:
            description: Its inventory name.
            type: str
            required: true
          version:
            description: The version of Codex.
            type: str
            required: true
          extra:
            description: C(codex_extra_config).
            type: dict
  observed:
    description:
      - What M(ownmetal.codex.tree) saw of the host; with C(gpus=[nvidia]), and C(models) with the folder of each instance.
      - Without it the inventory alone is judged, and the models that the controller has.
    type: dict
  layout:
    description: Where the role C(ownmetal.codex.vllm) puts things. With it, taken ports and missing files and space are found too.
    type: dict
  hub:
    description: What M(ownmetal.codex.vllm_model) said, with C(state=seen), of models that are still to be fetched.
    type: dict
  free_space_gib:
    description: How many GiB a new environment needs, with O(layout).
    type: float
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: Look at the server
  ownmetal.codex.tree:
    observe:
      gpus: [nvidia]
      models: [/srv/models/llama-3.1-70b-instruct]
  register: look

- name: See whether this model fits four of its GPUs
  ownmetal.codex.vllm_plan:
    spec:
      server: "{{ inventory_hostname }}"
      track: cu13-py312
      instances:
        - name: coder
          model: /srv/models/llama-3.1-70b-instruct
          tool_call_parser: llama3_json
          tensor_parallel_size: 4
    observed: "{{ look.observed }}"
  register: planned

- name: Show it
  ansible.builtin.debug:
    msg: "{{ planned.report }}"
"""

RETURN = r"""
ok:
  description: Whether nothing is refused.
  type: bool
  returned: always
plan:
  description:
    - The plan, for machines. C(track) is the server's (null while V(auto) is not chosen), C(tracks) are those of its instances.
    - C(instances) has GPUs, context and C(memory) (bytes of one GPU) of each; C(refusals) and C(warnings)
      have C(where), C(why) and C(instead); C(proposal) has the nearest working set as inventory variables.
  type: dict
  returned: always
report:
  description: The same for people, several lines of text.
  type: str
  returned: always
refused:
  description: What is refused, a line each, and the inventory that would be accepted.
  type: str
  returned: always
"""
