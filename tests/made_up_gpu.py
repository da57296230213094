"""A GPU made up for tests: numba-cuda's own arrays, events and streams, on a driver that keeps memory on the host.

Nothing runs before somebody waits for it, so what is overwritten too early comes out wrong. Every kernel takes a
millisecond of the GPU's clock and does nothing, but those in `MadeUpGpu.does`. Calls from threads without a context
are refused, as by the real driver.
"""

import ctypes
import gc
import logging
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from numba.cuda import dispatcher
from numba.cuda.cudadrv import devices, driver, dummyarray

from kernels.launch import blocks
from kernels.tile_pointwise import _constant

DEFAULT_STREAM = 0
NAME = "Made-up 100"


class _Stream:
    def __init__(self):
        self.queue, self.done = [], 0


class _Event:
    def __init__(self):
        self.recorded, self.at_ms, self.ready = None, 0.0, True


class MadeUpGpu:
    """The driver, as far as a pipeline asks it.

    Attributes:
        calls: name of every call, with the stream's handle where it has one.
        does: by the name of a kernel, a function of its arguments as NumPy arrays.
        kernel_ms: what a kernel takes.
    """

    def __init__(self):
        self.calls, self.does = [], {}
        self._memory, self._pinned, self._given_back = {}, {}, []
        self._streams, self._events = {DEFAULT_STREAM: _Stream()}, {}
        self.kernel_ms, self._clock_ms, self._handles = 1.0, 0.0, 100
        self._lock, self._current = threading.RLock(), threading.local()
        self._handle = driver.binding.CUcontext(1)
        self._device = SimpleNamespace(id=0, name=NAME, compute_capability=(8, 0), MULTIPROCESSOR_COUNT=2)
        self._device.get_primary_context = self._context
        self._made = None

    def count(self, *names):
        """How often these were called."""
        return sum(name in names for name, _ in self.calls)

    def held(self):
        """What is taken and not given back: memory here and there, streams, events, and what waits to be given back."""
        tables = (self._memory, self._pinned, self._streams, self._events)
        return [*map(len, tables), len(self._context().deallocations)]

    # What numba-cuda asks of its wrapper around the driver

    def get_device(self, number):
        return self._device

    def get_device_count(self):
        return 1

    def get_active_context(self):
        return driver._ActiveContext()

    def _context(self):
        if self._made is None:
            self._made = driver.Context(self._device, self._handle)
        return self._made

    def cuCtxGetCurrent(self):
        return self._handle if getattr(self._current, "is_set", False) else driver.binding.CUcontext(0)

    def cuCtxGetDevice(self):
        return 0

    def cuCtxPushCurrent(self, handle):
        self._current.is_set = True

    def cuMemGetInfo(self):
        return 10**10, 10**10

    # Memory

    def cuMemAlloc(self, size):
        with self._call("cuMemAlloc"):
            buffer = ctypes.create_string_buffer(size)
            self._memory[ctypes.addressof(buffer)] = buffer
            return driver.binding.CUdeviceptr(ctypes.addressof(buffer))

    def cuMemHostAlloc(self, size, flags):
        with self._call("cuMemHostAlloc"):
            buffer = ctypes.create_string_buffer(size)
            self._pinned[ctypes.addressof(buffer)] = buffer
            return ctypes.addressof(buffer)

    def cuMemFree(self, pointer):
        self._give_back("cuMemFree", self._memory, pointer)

    def cuMemFreeHost(self, pointer):
        self._give_back("cuMemFreeHost", self._pinned, pointer)

    def _give_back(self, name, table, handle):
        """Whenever Python finds that nobody uses it, in whatever thread; work that is left may still go there."""
        with self._lock:
            self.calls.append((name, None))
            self._given_back.append(table.pop(int(handle), None))

    def cuMemcpyHtoD(self, target, source, size):
        with self._call("cuMemcpyHtoD", DEFAULT_STREAM):
            self._run_all()
            ctypes.memmove(target, source, size)

    def cuMemcpyDtoH(self, target, source, size):
        with self._call("cuMemcpyDtoH", DEFAULT_STREAM):
            self._run_all()
            ctypes.memmove(target, source, size)

    def cuMemcpyHtoDAsync(self, target, source, size, stream):
        with self._call("cuMemcpyHtoDAsync", stream):
            if not self._is_pinned(source):
                source = ctypes.string_at(source, size)  # the driver takes a copy before it goes on
            self._streams[stream].queue.append(lambda: ctypes.memmove(target, source, size))

    def cuMemcpyDtoHAsync(self, target, source, size, stream):
        with self._call("cuMemcpyDtoHAsync", stream):
            self._streams[stream].queue.append(lambda: ctypes.memmove(target, source, size))
            if not self._is_pinned(target):
                self._run(self._streams[stream])

    def _is_pinned(self, address):
        return any(start <= address < start + len(buffer) for start, buffer in self._pinned.items())

    # Streams and events

    def cuStreamCreate(self, flags):
        with self._call("cuStreamCreate"):
            return driver.binding.CUstream(self._new(self._streams, _Stream()))

    def cuStreamDestroy(self, handle):
        self._give_back("cuStreamDestroy", self._streams, handle)

    def cuStreamSynchronize(self, handle):
        with self._call("cuStreamSynchronize", handle):
            self._run(self._streams[handle])

    def cuEventCreate(self, flags):
        with self._call("cuEventCreate"):
            return self._new(self._events, _Event())

    def cuEventDestroy(self, handle):
        self._give_back("cuEventDestroy", self._events, handle)

    def cuEventRecord(self, handle, stream):
        with self._call("cuEventRecord", stream):
            event, queue = self._events[handle], self._streams[stream].queue
            event.ready = False

            def happen():
                event.at_ms, event.ready = self._clock_ms, True

            queue.append(happen)
            event.recorded = self._streams[stream], len(queue)

    def cuStreamWaitEvent(self, stream, handle, flags):
        with self._call("cuStreamWaitEvent", stream):
            recorded = self._events[handle].recorded
            if recorded:
                self._streams[stream].queue.append(lambda: self._run(*recorded))

    def cuEventSynchronize(self, handle):
        with self._call("cuEventSynchronize"):
            recorded = self._events[handle].recorded
            if recorded:
                self._run(*recorded)

    def cuEventElapsedTime(self, begin, end):
        with self._call("cuEventElapsedTime"):
            first, last = self._events[begin], self._events[end]
            if not (first.ready and last.ready and first.recorded and last.recorded):
                raise driver.CudaAPIError(driver.binding.CUresult.CUDA_ERROR_NOT_READY, "recorded and not reached")
            return last.at_ms - first.at_ms

    def _new(self, table, value):
        self._handles += 1
        table[self._handles] = value
        return self._handles

    def _run(self, stream, until=None):
        """What a stream has queued, up to a place; it may wait for others, which run then."""
        until = len(stream.queue) if until is None else until
        while stream.done < until:
            work, stream.queue[stream.done] = stream.queue[stream.done], None
            stream.done += 1
            work()

    def _run_all(self):
        for stream in list(self._streams.values()):
            self._run(stream)

    @contextmanager
    def _call(self, name, stream=None):
        with self._lock:
            if not getattr(self._current, "is_set", False):
                raise driver.CudaAPIError(driver.binding.CUresult.CUDA_ERROR_INVALID_CONTEXT, f"{name}: no context")
            self.calls.append((name, stream))
            yield

    # Kernels

    def launch(self, kernel, arguments, configuration):
        """Queues a kernel; on a stream that is not ours, one that a graph is recorded on, it is noted and no more."""
        name, handle = kernel.py_func.__name__, int(configuration.stream or 0)
        with self._call(name, handle):
            if handle in self._streams:
                self._streams[handle].queue.append(lambda: self._kernel(name, arguments))

    def spend(self, ms):
        """More time of the GPU, for what `does` says."""
        self._clock_ms += ms

    def _kernel(self, name, arguments):
        self._clock_ms += self.kernel_ms
        if name in self.does:
            self.does[name](*map(in_numpy, arguments))


def in_numpy(value):
    """A device array's memory, seen from the host."""
    if not driver.is_device_memory(value):
        return value
    content = (ctypes.c_char * value.nbytes).from_address(value.device_ctypes_pointer.value)
    return np.frombuffer(content, value.dtype).reshape(value.shape)


def kept_by_numba():
    """How much numba-cuda has kept for shapes of arrays and for launches."""
    caches = (dummyarray.Array.from_desc, driver.memory_size_from_info, dispatcher.CUDADispatcher.configure)
    return [cache.cache_info().currsize for cache in caches]


@contextmanager
def made_up_gpu(monkeypatch):
    """Puts one in the place of the driver for the ``with`` body."""
    gpu = MadeUpGpu()
    with monkeypatch.context() as patch:
        for module in (driver, devices):
            patch.setattr(module, "driver", gpu)
        patch.setattr(driver, "_logger", logging.getLogger("made-up"), raising=False)
        patch.setattr(driver, "_to_core_stream", lambda stream: stream)
        patch.setattr(devices, "_runtime", devices._Runtime())
        patch.setattr(dispatcher.CUDADispatcher, "call", lambda kernel, *launch: gpu.launch(kernel, *launch))
        patch.setattr("models.sparse_cuda.gpu_problem", str)
        forget()
        try:
            yield gpu
        finally:
            forget()  # before its driver goes


def forget():
    """Empties caches that know a GPU."""
    for cached in (blocks, _constant, dispatcher.CUDADispatcher.configure):
        cached.cache_clear()
    gc.collect()
