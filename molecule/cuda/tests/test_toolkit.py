"""The distribution's own toolkit: a real nvcc compiles a kernel. It downloads 1.9 GB, so it is run when it is asked for."""

from __future__ import annotations

import os

import pytest

KERNEL = "__global__ void add(float *x, float y) { x[blockIdx.x * blockDim.x + threadIdx.x] += y; }"
asked = pytest.mark.skipif("OWNMETAL_DISTRIBUTION_TOOLKIT" not in os.environ, reason="1.9 GB: set OWNMETAL_DISTRIBUTION_TOOLKIT")


@asked
def test_nvcc_compiles_a_kernel(blank, play):
    server = blank["server2"]
    with_more = "s/ main$/ main contrib non-free/; s/^Components: main$/Components: main contrib non-free/"
    server.check_output(f"find /etc/apt/sources.list* -type f -exec sed -i '{with_more}' {{}} +")
    code, said = play("--limit", "server2", cuda_driver_source="distribution", cuda_toolkit="compiler")
    assert code == 0, said
    assert "release 12.4" in server.check_output("runuser -u nobody -- env -i PATH=/usr/local/bin:/usr/bin:/bin nvcc --version")
    server.check_output(f"echo '{KERNEL}' >/tmp/add.cu")
    said = server.check_output("cd /tmp && nvcc -arch=sm_89 -ptx -o - add.cu && nvcc -arch=sm_89 -cubin -o add.o add.cu && head -c 4 add.o")
    assert ".target sm_89" in said
    assert said.endswith("ELF")
