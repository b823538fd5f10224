#!/usr/bin/python
# Copyright: (c) 2026, the ownmetal.codex authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Tell what NVIDIA GPUs a host has, how they are linked, and what is wrong with them
description:
  - Reads, and changes nothing. A host without a GPU or without a driver is an answer, not an error.
  - Asks NVML through C(nvidia-ml-py) where the Python that runs the module has it, else C(nvidia-smi). Both give the same shape.
  - What a GPU or the host does not tell is null, and RV(missing) says why. Nothing is guessed.
  - Become root, or the kernel's log and the PCI bridges cannot be read to their end.
version_added: "0.1.0"
author:
  - The ownmetal.codex authors (@ownmetal)
options:
  timeout:
    description: How long, in seconds, each program may take. One that takes longer is a fault of kind V(hung).
    type: int
    default: 30
attributes:
  check_mode:
    support: full
    description: Can run in check mode.
"""

EXAMPLES = r"""
- name: See what GPUs there are
  ownmetal.codex.gpu_info:
  register: __gpus

- name: Stop where a GPU needs a reset
  ansible.builtin.assert:
    that: __gpus.faults | selectattr('reset') | length == 0
"""

RETURN = r"""
source:
  description: V(nvml) or V(nvidia-smi). Null where neither told of GPUs.
  type: str
  returned: success
driver:
  description: The driver's version, such as V(580.95.05).
  type: str
  returned: success
cuda:
  description: The newest CUDA that the driver serves.
  type: str
  returned: success
gpus:
  description:
    - Each GPU, in the order of its C(index), with C(uuid), C(serial), C(name), C(bus_id), C(compute_capability), C(numa_node) and
      C(persistence).
    - C(memory_total), C(memory_used) and C(memory_free) are in MiB, C(power_draw) and C(power_limit) in watts, C(temperature) in
      degrees Celsius.
    - C(ecc) has C(enabled) and the counters, C(volatile_) since the driver was loaded and C(aggregate_) over the card's life.
    - C(remapped_rows) and C(retired_pages) have counts, C(pending) (a reset makes it so) and C(failure).
    - C(mig) has C(enabled) and C(devices). C(processes) has C(pid), C(name) and C(memory) in MiB.
  type: list
  elements: dict
  returned: success
links:
  description: Each pair of C(gpus), its C(link) as V(NV18), V(PIX) or V(SYS), and C(p2p), V(OK) where each may read the other.
  type: list
  elements: dict
  returned: success
pci:
  description:
    - The GPUs that the kernel sees, with or without a driver.
    - C(iommu_type) V(DMA) or V(DMA-FQ) translates, V(identity) does not. C(acs_redirects) lists the bridges that turn peer traffic aside.
  type: list
  elements: dict
  returned: success
nvswitches:
  description: How many NVSwitches the kernel sees.
  type: int
  returned: success
iommu:
  description: Whether an IOMMU is at work.
  type: bool
  returned: success
xids:
  description: What the driver wrote to the kernel's log since boot, with C(meaning) and C(reset), null where they are not known.
  type: list
  elements: dict
  returned: success
faults:
  description: What is wrong, as C(gpu) (null for the host), C(kind) (driver, hung, xid, ecc, remap or retired), C(text) and C(reset).
  type: list
  elements: dict
  returned: success
missing:
  description: What could not be read, and why.
  type: dict
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.ownmetal.codex.plugins.module_utils.gpu_info import SECONDS, collect


def nvml() -> Any:
    """Return the package nvidia-ml-py, None where it is not installed."""
    try:
        import pynvml  # noqa: PLC0415 - few hosts have it
    except ImportError:
        return None
    return pynvml


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"timeout": {"type": "int", "default": SECONDS}}, supports_check_mode=True)
    module.exit_json(changed=False, **collect(nvml=nvml(), seconds=module.params["timeout"]))


if __name__ == "__main__":
    main()
