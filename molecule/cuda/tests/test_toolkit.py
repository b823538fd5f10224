"""The distribution's own driver and toolkit: what its sources have to have, and a real nvcc that compiles a kernel.

The second downloads 1.9 GB, so it is run when it is asked for.
"""

from __future__ import annotations

import os

import pytest
from conftest import installed, loaded, state

KERNEL = "__global__ void add(float *x, float y) { x[blockIdx.x * blockDim.x + threadIdx.x] += y; }"
DISTRIBUTION = {"cuda_driver_source": "distribution", "cuda_toolkit": "compiler"}
# the distribution's own wants /dev/nvidia0, and no stand-in has a device
NO_GPU = "/etc/systemd/system/nvidia-persistenced.service.d/no-gpu.conf"
asked = pytest.mark.skipif("OWNMETAL_DISTRIBUTION_TOOLKIT" not in os.environ, reason="1.9 GB: set OWNMETAL_DISTRIBUTION_TOOLKIT")


@pytest.fixture
def components(blank):
    """A function: Debian 13 has these components beside main, until the test ends; it returns the server."""
    server = blank["server2"]

    def have(names):
        change = f"s/ main( .*)?$/ main {names}/; s/^Components: .*/Components: main {names}/"
        server.check_output(f"find /etc/apt/sources.list* -type f -exec sed -i -E '/mirror1/! {{ {change} }}' {{}} +")
        return server

    yield have
    theirs = "nvidia-cuda-toolkit nvidia-smi nvidia-open-kernel-dkms nvidia-persistenced libcuda1"
    server.check_output(f"apt-mark unhold {theirs} && apt-get purge -qqy --autoremove {theirs} && rm -rf {os.path.dirname(NO_GPU)}")
    have("")
    server.check_output("apt-get update -qq")


def test_what_the_distributions_sources_lack_is_named(components, play):
    server = components("contrib non-free")
    server.check_output("apt-get update -qq")
    before = state(server)
    code, said = play("--limit", "server2", **DISTRIBUTION)
    assert code != 0, said
    assert "Depends: firmware-nvidia-gsp" in said
    assert "contrib, non-free and non-free-firmware belong into its sources" in said
    changed = {line for line in set(before.splitlines()) ^ set(state(server).splitlines()) if "ownmetal" not in line}
    assert {line.split()[0] for line in changed} <= {"/etc/apt/apt.conf.d", "/etc/modprobe.d"}  # the role's own small files come first


@asked
def test_nvcc_compiles_a_kernel(components, play):
    server = components("contrib non-free non-free-firmware")
    server.check_output(
        f"mkdir {os.path.dirname(NO_GPU)} && printf '[Service]\nType=simple\nExecStart=\nExecStart=sleep infinity\n' >{NO_GPU}"
    )
    code, said = play("--limit", "server2", **DISTRIBUTION)
    assert code == 0, said
    assert "release 12.4" in server.check_output("runuser -u nobody -- env -i PATH=/usr/local/bin:/usr/bin:/bin nvcc --version")
    server.check_output(f"echo '{KERNEL}' >/tmp/add.cu")
    said = server.check_output("cd /tmp && nvcc -arch=sm_89 -ptx -o - add.cu && nvcc -arch=sm_89 -cubin -o add.o add.cu && head -c 4 add.o")
    assert ".target sm_89" in said
    assert said.endswith("ELF")
    assert installed(server, "nvidia-smi") == installed(server, "libcuda1") == loaded(server) == "550.163.01"
    code, said = play("--limit", "server2", **DISTRIBUTION)
    assert (code, said.count("changed=0")) == (0, 1), said
