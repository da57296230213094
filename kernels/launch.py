"""Where CUDA is known: the target, arrays on the device, how many thread blocks a launch gets.

Every other module takes `cuda` from here, because that target's home is moving (numba, numba-cuda, its successor).
Kernels carry `@cuda.jit` and compile at their first launch, so importing them needs no driver. With
``NUMBA_ENABLE_CUDASIM=1`` set before the import, the same kernels run in Numba's simulator.
"""

from __future__ import annotations

import ctypes
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numba import config, cuda
from numpy.typing import DTypeLike

SIMULATED = bool(config.ENABLE_CUDASIM)
THREADS = 32 if config.ENABLE_CUDASIM else 128  # per block, unless a kernel's geometry asks for another number
_BLOCKS_PER_MULTIPROCESSOR = 8
_SIMULATED_BLOCKS = 3  # more than one, so that kernels must loop and must not rely on one block's order

_launching = threading.local()
# A list is compacted by one block, and means to be.
warnings.filterwarnings("ignore", message="Grid size .* GPU under-utilization")

__all__ = [
    "SIMULATED",
    "THREADS",
    "Marks",
    "blocks",
    "cuda",
    "elapsed_ms",
    "load_driver",
    "make_current",
    "mark",
    "new_array",
    "on_device",
    "on_stream",
    "stream",
    "to_device",
    "to_host",
]


def load_driver() -> Any | None:
    """NVIDIA's driver library; None where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def stream() -> Any:
    """The stream that this thread queues kernels and copies on; 0 is the one that all others wait for."""
    return getattr(_launching, "stream", 0)


def make_current() -> None:
    """Makes the GPU this thread's, which events and streams do not see to themselves."""
    if not SIMULATED:
        cuda.current_context()


@contextmanager
def on_stream(chosen: Any) -> Iterator[None]:
    """What this thread launches in the ``with`` body is queued on a stream."""
    make_current()
    before, _launching.stream = stream(), chosen
    try:
        yield
    finally:
        _launching.stream = before


def mark() -> Any:
    """A moment of this thread's stream: when all that is queued so far is done."""
    if SIMULATED:
        return time.perf_counter()
    event = cuda.event()
    event.record(stream())
    return event


class Marks:
    """Moments as `mark` gives them, in events that are recorded again: a frame makes no new ones.

    Threads may share one. Only who has read a mark gives it back, so frames on their way keep theirs.
    """

    def __init__(self) -> None:
        self._free: deque[Any] = deque()

    def now(self) -> Any:
        """A moment of this thread's stream, which is the caller's until it is given back."""
        try:
            event = self._free.pop()
        except IndexError:
            return mark()
        event.record(stream())
        return event

    def give_back(self, *marks: Any) -> None:
        """These have been read, and nobody will read them again."""
        if not SIMULATED:  # a mark is a number there
            self._free.extend(marks)


def elapsed_ms(start: Any, end: Any) -> float:
    """Milliseconds from one mark to another; waits for the second."""
    if SIMULATED:
        return float(1e3 * (end - start))
    end.synchronize()
    return float(cuda.event_elapsed_time(start, end))


def on_device(*arrays: Any) -> bool:
    """Whether the arrays are on the device.

    Raises:
        TypeError: if some are and some are not, or one is no array at all.
    """
    found = {isinstance(array, np.ndarray) for array in arrays}
    strangers = [type(array).__name__ for array in arrays if not hasattr(array, "dtype")]
    if strangers or len(found) > 1:
        names = strangers or [type(array).__name__ for array in arrays]
        raise TypeError(f"arrays are {', '.join(names)}; expected all of them NumPy arrays, or all on the device")
    return found == {False}


@cache
def blocks() -> int:
    """Thread blocks of a persistent launch: enough to fill the GPU; kernels loop over what is left."""
    if SIMULATED:
        return _SIMULATED_BLOCKS
    return int(cuda.get_current_device().MULTIPROCESSOR_COUNT) * _BLOCKS_PER_MULTIPROCESSOR


def new_array(shape: tuple[int, ...], dtype: DTypeLike, device: bool) -> Any:
    """An uninitialised array, on the device or not."""
    return cuda.device_array(shape, dtype) if device else np.empty(shape, dtype)


def to_device(value: Any) -> Any:
    """The value with every array copied to the device; types of ours say how by a method ``to_device``."""
    if isinstance(value, np.ndarray):
        return cuda.to_device(value)
    return value.to_device() if hasattr(value, "to_device") else value


def to_host(value: Any) -> Any:
    """The value with every array copied back, on this thread's stream, which it waits for; tuples are walked."""
    if isinstance(value, tuple):
        return tuple(to_host(part) for part in value)
    if hasattr(value, "to_host"):
        return value.to_host()
    if not hasattr(value, "copy_to_host"):
        return value
    copied = value.copy_to_host(stream=stream())
    if stream():
        stream().synchronize()
    return copied


def compile_ptx(function: Any, signature: str, capability: tuple[int, int], threads: int) -> str:
    """PTX of a kernel's Python function; needs NVVM, but no GPU."""
    options = {"device": False, "abi": "numba", "launch_bounds": (threads,)}
    text, _ = cuda.compile(function, signature, cc=capability, **options)
    return str(text)


def link_cubin(function: Any, signature: str, capability: tuple[int, int], threads: int) -> tuple[bytes, str]:
    """Machine code of a kernel's Python function, and what the assembler said of it; needs nvJitLink, but no GPU."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = {"device": False, "abi": "numba", "launch_bounds": (threads,), "output": "ltoir"}
    code, _ = cuda.compile(function, signature, cc=capability, **options)
    architecture = "sm_{}{}".format(*capability)
    linking = LinkerOptions(arch=architecture, link_time_optimization=True, ptxas_options=["-v"])
    linker = Linker(ObjectCode.from_ltoir(code), options=linking)
    return bytes(linker.link("cubin").code), str(linker.get_info_log())
