"""`voxelize` as one would write it in NumPy with care: what the kernel has to beat.

The usual way is a new grid for every frame. It can also keep its grid and clear all 13 million cells, or borrow the
kernel's trick and take back only what the last frame wrote. The largest intensity of a cell is where NumPy has no
single best way, so there are three; the benchmark takes the fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernels.voxelize import EXTRA_CHANNELS

Float32 = NDArray[np.float32]
Elements = NDArray[np.intp]


def maximum_at(flat: Float32, elements: Elements, values: Float32) -> None:
    """The universal function's unbuffered form."""
    np.maximum.at(flat, elements, values)


def last_wins(flat: Float32, elements: Elements, values: Float32) -> None:
    """In rising order: of several values for one element, an assignment keeps the last."""
    order = np.argsort(values)
    flat[elements[order]] = values[order]


def reduce_runs(flat: Float32, elements: Elements, values: Float32) -> None:
    """Sorted by element, one maximum per run."""
    order = np.argsort(elements)
    elements, values = elements[order], values[order]
    starts = np.flatnonzero(np.r_[True, elements[1:] != elements[:-1]][: len(elements)])
    flat[elements[starts]] = np.maximum.reduceat(values, starts) if len(starts) else 0


WAYS: tuple[Callable[[Float32, Elements, Float32], None], ...] = (maximum_at, last_wins, reduce_runs)

CLEARINGS = ("new grid", "filled with 0", "the kernel's clearing")


@dataclass(eq=False)
class NumpyVoxelizer:
    """Arguments and result as in `kernels.voxelize.voxelize` with a workspace.

    Attributes:
        largest: one of `WAYS`.
        clearing: one of `CLEARINGS`.
    """

    origin_m: tuple[float, float, float]
    cell_m: float
    z_bin_m: float
    shape: tuple[int, int, int]
    largest: Callable[[Float32, Elements, Float32], None]
    clearing: str
    _written: list[Elements] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._grid = np.zeros(self.shape, np.float32)

    def __call__(self, points: Float32) -> Float32:
        """The grid of a frame; the next one may overwrite it."""
        if self.clearing == "new grid":
            self._grid = np.zeros(self.shape, np.float32)
        flat, (rows, cols, channels) = self._grid.reshape(-1), self.shape
        if self.clearing == "filled with 0":
            flat.fill(0)
        elif self.clearing == "the kernel's clearing":
            for elements in self._written:
                flat[elements] = 0
        bins = channels - EXTRA_CHANNELS
        x_min, y_min, z_min, cell, z_bin = map(np.float32, (*self.origin_m, self.cell_m, self.z_bin_m))
        row, col = (points[:, 0] - x_min) / cell, (points[:, 1] - y_min) / cell
        inside = np.flatnonzero((row >= 0) & (row < rows) & (col >= 0) & (col < cols) & ~np.isnan(points[:, 2]))
        height = (points[inside, 2] - z_min) / z_bin
        channel = np.where(height < 0, bins, np.minimum(height, bins + 1)).astype(np.intp)
        channel[height >= bins] = bins + 1
        first = (row[inside].astype(np.intp) * cols + col[inside].astype(np.intp)) * channels
        occupied, brightness = first + channel, first + (channels - 1)
        flat[occupied] = 1
        intensity = points[inside, 3]
        bright = np.flatnonzero(intensity > 0)
        self.largest(flat, brightness[bright], intensity[bright])
        self._written = [occupied, brightness]
        return self._grid
