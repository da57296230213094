"""Whether a GPU will do, told in words before anything runs on it."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np

from kernels.launch import SIMULATED, cuda, load_driver

LEAST_CAPABILITY = (7, 5)  # what CUDA 13 still compiles for
TENSOR_CAPABILITY = (8, 0)  # of the matrix instructions that the float16 kernels use


def cuda_driver_answers() -> bool:
    """Whether an NVIDIA driver is loaded and sees at least one GPU."""
    driver, count = load_driver(), ctypes.c_int()
    if driver is None:
        return False
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def driver_version() -> tuple[int, int]:
    """The newest CUDA that the driver runs, such as (13, 0); (0, 0) without a driver."""
    driver, number = load_driver(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return 0, 0
    return number.value // 1000, number.value % 1000 // 10


def gpu_name() -> str:
    """Its name, as the driver gives it."""
    if SIMULATED:
        return "simulator"
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def capability() -> tuple[int, int]:
    """Compute capability of the GPU, such as (9, 0); the simulator emulates tensor cores."""
    major, minor = TENSOR_CAPABILITY if SIMULATED else cuda.get_current_device().compute_capability
    return int(major), int(minor)


def free_bytes() -> float:
    """Memory of the GPU that nobody uses."""
    gc.collect()
    if not SIMULATED:
        cuda.current_context().deallocations.clear()  # what Numba has not given back yet
    return float(cuda.current_context().get_memory_info()[0])


@cuda.jit
def _probe_cuda(target: Any) -> None:
    target[0] = np.float32(1)


def gpu_problem() -> str:
    """Why kernels cannot run on a GPU here, and what to do, in one line; empty where they can."""
    if SIMULATED:
        return ""
    if not cuda_driver_answers():
        return "no NVIDIA driver answers, or it sees no GPU; check nvidia-smi"
    try:
        if capability() < LEAST_CAPABILITY:
            found, least = (".".join(map(str, number)) for number in (capability(), LEAST_CAPABILITY))
            return f"{gpu_name()} has compute capability {found}, expected at least {least}"
        target = cuda.device_array(1, np.float32)
        _probe_cuda[1, 1](target)
        if target.copy_to_host()[0] != 1:
            return f"{gpu_name()} runs a kernel and nothing comes of it; check nvidia-smi"
    except Exception as error:  # the compiler's, the linker's and the driver's errors share no base class
        text = " ".join(str(error).split())[:200] or type(error).__name__
        return _too_old() or f"Numba cannot run a kernel: {text}; check nvidia-smi and pip show numba-cuda"
    return ""


def _too_old() -> str:
    """What to do if the driver runs an older CUDA than the compiler makes code for; empty if it does not."""
    try:
        compiler, driver = cuda.runtime.get_version(), driver_version()
    except Exception:  # without the compiler's libraries there is nothing to compare; as above
        return ""
    if driver[0] >= compiler[0]:
        return ""
    return (
        f"the driver is too old: it runs CUDA {driver[0]}.{driver[1]}, the compiler here makes code for "
        f"CUDA {compiler[0]}.{compiler[1]}; update the driver, or pip install 'numba-cuda[cu{driver[0]}]'"
    )
