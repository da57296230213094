"""Kernels queued once, kept as a CUDA graph, and launched as one from then on.

Numba has no interface for graphs, so this speaks to NVIDIA's driver itself, by the CUDA driver API's names. What is
recorded are kernels with the addresses of their arguments: whoever launches them sees to it that the same arrays lie
there.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kernels.launch import SIMULATED, cuda, load_driver, on_stream, stream

log = logging.getLogger("roadblocks")

MOST_GRAPHS = 8  # frames on their way have arrays of their own, and there are never that many
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: what others queue on stream 0 does not disturb the recording
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED: other threads, and Numba's housekeeping, may do what they like meanwhile


class GraphError(Exception):
    """The driver cannot record or launch a graph; the kernels can still be queued one by one."""


class CudaGraph:
    """What a call queues, as one graph.

    Args:
        call: queues kernels on this thread's stream and does nothing else: no copies, no new arrays, no waiting. It has
            run before, so that everything is compiled.

    Raises:
        GraphError: if it cannot be recorded. Nothing has run then.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        driver = load_driver()
        if driver is None:
            raise GraphError("no NVIDIA driver is loaded")
        self._driver = driver
        cuda.current_context()  # becomes that of this thread, which the driver looks at
        graph = self._recorded(call)
        self._graph = ctypes.c_void_p()
        try:
            self._do("cuGraphInstantiateWithFlags", ctypes.byref(self._graph), graph, ctypes.c_ulonglong(0))
        finally:
            driver.cuGraphDestroy(graph)
        weakref.finalize(self, driver.cuGraphExecDestroy, self._graph).atexit = False  # the driver may be gone by then

    def launch(self) -> None:
        """Queues it on this thread's stream.

        Raises:
            GraphError: if the driver refuses it.
        """
        self._do("cuGraphLaunch", self._graph, ctypes.c_void_p(int(stream())))

    def _recorded(self, call: Callable[[], Any]) -> ctypes.c_void_p:
        graph = ctypes.c_void_p()
        with self._private_stream() as handle:
            self._do("cuStreamBeginCapture_v2", handle, _RELAXED)
            try:
                with on_stream(cuda.external_stream(handle.value)):
                    call()
            except Exception as error:  # the driver's refusals of what cannot be recorded share no base class
                self._driver.cuStreamEndCapture(handle, ctypes.byref(graph))
                raise GraphError(f"{type(error).__name__}: {error}") from error
            self._do("cuStreamEndCapture", handle, ctypes.byref(graph))
        return graph

    @contextmanager
    def _private_stream(self) -> Iterator[ctypes.c_void_p]:
        handle = ctypes.c_void_p()
        self._do("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        try:
            yield handle
        finally:
            self._driver.cuStreamDestroy_v2(handle)

    def _do(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status != 0:
            raise GraphError(f"{name} says {status}")


class GraphCache:
    """Runs calls that queue kernels: one by one the first time, later, with the same arrays, as a graph.

    Args:
        wanted: False queues them one by one every time.

    Attributes:
        wanted: whether graphs are made; not in the simulator, and no more once the driver has refused one.
    """

    def __init__(self, wanted: bool = True) -> None:
        self.wanted = wanted and not SIMULATED
        self._graphs: dict[tuple[Any, ...], CudaGraph | None] = {}

    def run(self, call: Callable[[], Any], *arrays: Any) -> None:
        """Queues what the call queues, on this thread's stream.

        Args:
            call: as for `CudaGraph`.
            arrays: all device arrays that it works on and that may be others the next time.
        """
        key = tuple((array.__cuda_array_interface__["data"][0], array.shape) for array in arrays) if self.wanted else ()
        if not self.wanted or key not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS:
                self._graphs.pop(next(iter(self._graphs)))
            self._graphs[key] = None
            call()
            return
        try:
            graph = self._graphs[key] or CudaGraph(call)
            graph.launch()
        except GraphError as error:
            log.debug("kernels are queued one by one: %s", error)
            self.wanted = False
            call()
        else:
            self._graphs.pop(key)  # and to the end: what was not used for longest goes first
            self._graphs[key] = graph
