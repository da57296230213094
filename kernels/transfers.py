"""Points, masks and tiles up, results down, through pinned memory, one copy each; how two streams share arrays.

All memory is kept from frame to frame. Numba keeps something for every shape of an array that it has ever seen, so
shapes have to be few as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kernels.launch import THREADS, cuda, on_stream, stream
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec

POINT_COLUMNS = 4
POINT_STEP = 8 * THREADS  # points go up in whole multiples of this: a hundred shapes or so, whatever frames come


class Upload:
    """Brings rows of numbers of one frame after the other to the device.

    Args:
        columns: of every row.
        dtype: of every number.
        step: rows are filled up with NaN to a multiple of this; 1 leaves them as they are.
    """

    def __init__(self, columns: int, dtype: DTypeLike = np.float32, step: int = 1) -> None:
        self._columns, self._dtype, self._step = columns, dtype, step
        self._pinned: Any = None
        self._there: Any = None
        self._sent = cuda.event()

    def __call__(self, rows: NDArray[Any]) -> Any:
        """Queues the copy of (N, columns) numbers, and returns where it will be; the next call overwrites it.

        N is at least 1, or there is something to fill up with: CUDA has no arrays of size 0.
        """
        given = len(rows)
        count = max(-(-given // self._step), 1) * self._step
        self._sent.synchronize()  # the last frame has left the pinned memory
        if self._pinned is None or len(self._pinned) < count:
            room = (count + count // 4 // self._step * self._step, self._columns)  # a little larger needs no more
            self._pinned, self._there = cuda.pinned_array(room, self._dtype), cuda.device_array(room, self._dtype)
        self._pinned[:given] = rows
        if given < count:
            self._pinned[given:count] = np.nan
        target = self._there[:count]
        target.copy_to_device(self._pinned[:count], stream=stream())
        self._sent.record(stream())
        return target


def point_upload() -> Upload:
    """Brings points (N, 4) float32 up, with some behind them that are no numbers: kernels find them in no cell."""
    return Upload(POINT_COLUMNS, step=POINT_STEP)


class TileUpload:
    """Brings lists of tiles of one frame after the other to the device, always to the same place.

    Args:
        spec: geometry of the tiles.
    """

    def __init__(self, spec: TileSpec) -> None:
        self._spec, self._upload = spec, Upload(3, np.int32)
        self._rows = np.zeros((1 + spec.total, 3), np.int32)  # the number of tiles, then room for all of one image

    def __call__(self, tiles: ActiveTiles) -> DeviceTiles:
        """Queues the copy of a list, and returns where it will be; the next call overwrites it."""
        self._rows[0, 0] = len(tiles)
        self._rows[1 : 1 + len(tiles)] = tiles.index
        there = self._upload(self._rows)
        return DeviceTiles(there[1:], there.reshape(-1)[:1], self._spec)


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
