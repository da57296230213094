"""`voxelize`: points to a bird's-eye-view grid.

Equation, for each point ``(x, y, z, i)``, all in float32::

    row = floor((x - x_min) / cell)      col = floor((y - y_min) / cell)      bin = floor((z - z_min) / z_bin)
    grid[row, col, clamp(bin)] = 1       clamp: below -> bins, above -> bins + 1
    grid[row, col, bins + 2] = max(grid[row, col, bins + 2], i)

Points outside the rows or columns, and points with a NaN coordinate, fall away. The channels are SBNet's
(CVPR 2018, section 4.1): occupancy per height bin, two out-of-range bins, intensity. The paper does not say
how intensities of one cell combine; the maximum needs no order, so every backend gives the same bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
EXTRA_CHANNELS = 3  # below, above, intensity


def voxelize_reference(
    points: Float32,
    origin_m: tuple[float, float, float],
    cell_m: float,
    z_bin_m: float,
    shape: tuple[int, int, int],
) -> Float32:
    """The equation in NumPy. Arguments and result as in `voxelize`."""
    grid = np.zeros(shape, np.float32)
    step = np.array([cell_m, cell_m, z_bin_m], np.float32)
    with np.errstate(invalid="ignore"):
        row, col, height = np.floor((points[:, :3] - np.array(origin_m, np.float32)) / step).T
    inside = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1]) & ~np.isnan(height)
    row, col, height = (index[inside] for index in (row, col, height))
    bins = shape[2] - EXTRA_CHANNELS
    channel = np.where(height < 0, bins, np.where(height >= bins, bins + 1, height)).astype(int)
    row, col = row.astype(int), col.astype(int)
    grid[row, col, channel] = 1
    np.maximum.at(grid, (row, col, bins + 2), points[inside, 3])
    return grid


@njit(cache=True, nogil=True, error_model="numpy")
def _voxelize_cpu(
    points: Float32, x_min: float, y_min: float, z_min: float, cell: float, z_bin: float, grid: Float32
) -> None:
    """One thread: scattered writes to a few cells, where threads would cost more than they bring."""
    rows, cols, channels = grid.shape
    bins = channels - EXTRA_CHANNELS
    for index in range(points.shape[0]):
        row = np.floor((points[index, 0] - x_min) / cell)
        col = np.floor((points[index, 1] - y_min) / cell)
        height = np.floor((points[index, 2] - z_min) / z_bin)
        # Compared as floats: NaN fails here, and nothing overflows an integer.
        if not (row >= 0 and row < rows and col >= 0 and col < cols) or np.isnan(height):
            continue
        channel = bins if height < 0 else (bins + 1 if height >= bins else int(height))
        grid[int(row), int(col), channel] = np.float32(1)
        if points[index, 3] > grid[int(row), int(col), bins + 2]:
            grid[int(row), int(col), bins + 2] = points[index, 3]


def voxelize(
    points: Float32,
    origin_m: tuple[float, float, float],
    cell_m: float,
    z_bin_m: float,
    shape: tuple[int, int, int],
    out: Float32 | None = None,
) -> Float32:
    """The BEV grid of a point cloud.

    Args:
        points: (N, 4) float32, columns x, y, z [m] and intensity [0, 1], in the frame of the grid.
        origin_m: x_min, y_min, z_min: lower edges of row 0, column 0 and height bin 0.
        cell_m: side of a cell.
        z_bin_m: height of a bin.
        shape: (rows, cols, channels), channels being the height bins plus 3.
        out: array of ``shape``, float32, to write into; it is cleared first. None makes a new one.

    Returns:
        (rows, cols, channels) float32 grid.

    Raises:
        TypeError: if points or out are not float32.
        ValueError: if points or out have another shape, or a size is not positive.
    """
    if points.dtype != np.float32:
        raise TypeError(f"points are {points.dtype}, expected float32")
    if points.ndim != 2 or points.shape[1] != 4:
        raise ValueError(f"points have shape {points.shape}, expected (N, 4)")
    if min(shape) < 1 or shape[2] <= EXTRA_CHANNELS or cell_m <= 0 or z_bin_m <= 0:
        raise ValueError(f"grid shape {shape}, cell {cell_m} m, bin {z_bin_m} m: expected positive sizes, > 3 channels")
    if out is None:
        out = np.zeros(shape, np.float32)
    elif out.shape != tuple(shape) or out.dtype != np.float32:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected float32 {tuple(shape)}")
    else:
        out.fill(0)
    origin = (np.float32(value) for value in origin_m)
    _voxelize_cpu(np.ascontiguousarray(points), *origin, np.float32(cell_m), np.float32(z_bin_m), out)
    return out
