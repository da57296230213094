"""CUDA kernels compiled where no GPU is: PTX to read, machine code with its use of registers."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cache

from kernels.launch import compile_ptx, link_cubin
from kernels.op import CudaKernel

CAPABILITIES = ((8, 0), (9, 0))  # A100 and H100/H200


@dataclass(frozen=True)
class MachineCode:
    """What the assembler says of a kernel.

    Attributes:
        ptx: the text.
        cubin: machine code.
        registers: per thread.
        spill_bytes: registers that did not fit and went to memory.
        stack_bytes: local memory of a thread.
    """

    ptx: str
    cubin: bytes
    registers: int
    spill_bytes: int
    stack_bytes: int

    @property
    def uses_float64(self) -> bool:
        """Whether a double-precision number appears."""
        return ".f64" in self.ptx

    @property
    def uses_tensor_cores(self) -> bool:
        """Whether a matrix instruction appears."""
        return "mma.sync" in self.ptx


@cache
def compile_kernel(kernel: CudaKernel, capability: tuple[int, int]) -> MachineCode:
    """Compiles for a compute capability, such as (9, 0); needs NVVM and nvJitLink, but no GPU.

    Raises:
        ImportError: if numba-cuda or its libraries are not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on launch sizes and occupancy, which nobody launches here
        ptx = compile_ptx(kernel.kernel.py_func, kernel.signature, capability, kernel.threads)
        cubin, log = link_cubin(kernel.kernel.py_func, kernel.signature, capability, kernel.threads)
    return MachineCode(
        ptx,
        cubin,
        registers=_number(r"Used (\d+) registers", log),
        spill_bytes=_number(r"(\d+) bytes spill stores", log),
        stack_bytes=_number(r"(\d+) bytes stack frame", log),
    )


def _number(pattern: str, log: str) -> int:
    return max(int(text) for text in re.findall(pattern, log))
