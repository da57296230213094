"""Points and masks up, results down, through pinned memory, one copy each; and how two streams share arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.launch import cuda, on_stream, stream

Float32 = NDArray[np.float32]


class Upload:
    """Brings rows of numbers, such as points, of one frame after the other to the device.

    Args:
        columns: of every row.
    """

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._pinned: Any = None
        self._there: Any = None
        self._sent = cuda.event()

    def __call__(self, rows: Float32) -> Any:
        """Queues the copy of (N, columns) float32, and returns where it will be; the next call overwrites it.

        Of no rows it makes one that is no number, a point in no cell: CUDA has no arrays of size 0.
        """
        count = max(len(rows), 1)
        self._sent.synchronize()  # the last frame has left the pinned memory
        if self._pinned is None or len(self._pinned) < count:
            room = (count + count // 4, self._columns)  # so that frames a little larger need no more
            self._pinned, self._there = cuda.pinned_array(room, np.float32), cuda.device_array(room, np.float32)
        self._pinned[:count] = rows if len(rows) else np.nan
        target = self._there[:count]
        target.copy_to_device(self._pinned[:count], stream=stream())
        self._sent.record(stream())
        return target


class Download:
    """Brings an array of one shape back, frame after frame."""

    def __init__(self) -> None:
        self._pinned: Any = None
        self._arrived = cuda.event()

    def queue(self, array: Any) -> None:
        """Queues the copy of a contiguous device array."""
        if self._pinned is None:
            self._pinned = cuda.pinned_array(tuple(array.shape), array.dtype)
        array.copy_to_host(self._pinned, stream=stream())
        self._arrived.record(stream())

    def wait(self) -> NDArray[Any]:
        """The array, as soon as it is here; the next `queue` overwrites it."""
        self._arrived.synchronize()
        arrived: NDArray[Any] = self._pinned
        return arrived


class Turns:
    """Arrays that one stream fills and another one reads, in turns. Streams wait for each other, the host for none."""

    def __init__(self) -> None:
        self._stream = cuda.stream()
        self._filled, self._read = cuda.event(), cuda.event()

    @contextmanager
    def filling(self) -> Iterator[None]:
        """What the ``with`` body queues fills them, on their own stream, once they have been read."""
        with on_stream(self._stream):
            self._read.wait(self._stream)
            yield
            self._filled.record(self._stream)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What the ``with`` body queues reads them, on this thread's stream, once they are filled."""
        self._filled.wait(stream())
        yield
        self._read.record(stream())
