"""Every CUDA kernel compiles for A100 and H100 without a GPU, spills nothing, and uses doubles only where meant."""

import os

import pytest

from kernels.machine_code import CAPABILITIES, compile_kernel
from kernels.table import OPS

KERNELS = {(kernel.kernel.__name__, kernel.signature): kernel for op in OPS for kernel in op.cuda}


@pytest.fixture(scope="module", autouse=True)
def compiler():
    if "CI" not in os.environ:  # there a missing compiler is a failure
        pytest.importorskip("cuda.core", reason="numba-cuda with NVVM and nvJitLink is not installed: extra 'test'")


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=[name for name, _ in KERNELS])
def test_compiles(kernel, capability):
    code = compile_kernel(kernel, capability)
    assert code.cubin[:4] == b"\x7fELF" and 0 < code.registers <= 255
    assert code.spill_bytes == 0
    assert code.uses_float64 == kernel.float64, "double precision"
    assert code.uses_tensor_cores == kernel.tensor_cores, "tensor cores"
