"""`Op`: one line of the kernel table, which the tests, the micro-benchmark and the docs walk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Exact:
    """Every backend gives the same bytes."""


@dataclass(frozen=True)
class Close:
    """Backends agree to a tolerance.

    Attributes:
        tolerance: largest |a - b| / max(1, |b|).
        reason: why not exact.
    """

    tolerance: float
    reason: str


@dataclass(frozen=True)
class CudaKernel:
    """A CUDA kernel with the types that it is compiled for where no GPU is.

    Attributes:
        kernel: the `cuda.jit` dispatcher.
        signature: its argument types as Numba writes them, for example ``"(float32[:,::1], int64)"``.
        threads: threads of a block.
        float64: double precision is meant here; elsewhere it is a slip that halves the speed or worse.
        tensor_cores: matrix instructions are expected in the machine code.
    """

    kernel: Any
    signature: str
    threads: int = 128
    float64: bool = False
    tensor_cores: bool = False


@dataclass(frozen=True)
class Op:
    """One operation on all its backends.

    Attributes:
        name: of the public function.
        function: the public function; NumPy arrays go to the CPU kernel, device arrays to the CUDA kernel.
        reference: the equation in NumPy, with the same arguments; it leaves them as they are.
        make_inputs: ``make_inputs(rng, scale)`` gives keyword arguments on the CPU. Scale "small" suits the
            simulator (a few thousand elements), "frame" is one KITTI frame.
        equality: how close the backends are.
        cuda: the CUDA kernels behind the function.
        summary: one line for the docs.
    """

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    make_inputs: Callable[[np.random.Generator, str], Inputs]
    equality: Exact | Close
    cuda: tuple[CudaKernel, ...]
    summary: str
