"""`cell_features`: points to a coarse grid of numbers instead of height bins, fine enough to see a kerb.

Equation, over the n points (x, y, z, i) of a cell, h = floor(1000 (z - z_min)) in whole millimetres from 0 to
1000 (z_max - z_min), b = floor(255 i) in 0..255, both cut off at their ends, NaN as 0::

    features = min(n, 16) / 16,  mean(h) / 1000,  min(h) / 1000,  max(h) / 1000,  mean(b) / 255,  1,  bands

and zeros without points; band k of 16 is 1 if a point has h in [250 k, 250 (k + 1)), the last one also above. Cells are
those of `kernels.voxelize`. Sums of whole numbers need no order, so every backend gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream
from kernels.op import CudaKernel, Exact, Op
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]
Numbers = tuple[np.float32, ...]  # x_min, y_min, z_min, side of a cell [m], largest height [mm]

BANDS, BAND_MM = 16, 250
NUMBERS = 6  # before the bands
FEATURES = NUMBERS + BANDS
ENOUGH_POINTS = 16  # more in a cell say no more
ZERO, PER_M, BRIGHTEST = np.float32(0), np.float32(1000), np.float32(255)
COUNT, SUM, LOWEST, HIGHEST, BRIGHTNESS, BITS, SUMS = range(7)  # columns of the sums, and how many there are
_NONE = 2**31 - 1  # lowest of no points


def cell_features_reference(
    points: Float32, origin_m: tuple[float, float, float], height_m: float, cell_m: float, shape: tuple[int, int]
) -> Float32:
    """The equation in NumPy. Arguments and result as in `cell_features`."""
    features = np.zeros((*shape, FEATURES), np.float32)
    step = np.array([cell_m, cell_m], np.float32)
    with np.errstate(invalid="ignore"):
        row, col = np.floor((points[:, :2] - np.array(origin_m[:2], np.float32)) / step).T
    inside = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1]) & ~np.isnan(points[:, 2])
    millimetres = (points[inside, 2] - np.float32(origin_m[2])) * PER_M
    height = np.floor(np.clip(millimetres, 0, np.float32(height_m) * PER_M)).astype(int)
    bright = np.floor(np.clip(np.nan_to_num(points[inside, 3]) * BRIGHTEST, 0, BRIGHTEST)).astype(int)
    cell = row[inside].astype(int) * shape[1] + col[inside].astype(int)
    for index in np.unique(cell):
        own = cell == index
        count = np.float32(own.sum())
        values = [
            min(count, np.float32(ENOUGH_POINTS)) / np.float32(ENOUGH_POINTS),
            np.float32(height[own].sum()) / (count * PER_M),
            np.float32(height[own].min()) / PER_M,
            np.float32(height[own].max()) / PER_M,
            np.float32(bright[own].sum()) / (count * BRIGHTEST),
            np.float32(1),
            *np.isin(np.arange(BANDS), np.minimum(height[own] // BAND_MM, BANDS - 1)).astype(np.float32),
        ]
        features[divmod(index, shape[1])] = np.array(values)
    return features


def _whole(value: Any, largest: Any) -> Any:
    """The integer below, between 0 and the largest; 0 for NaN."""
    if not value > ZERO:
        return 0
    return int(min(value, largest))


def _cell(points: Any, point: Any, numbers: Any, rows: Any, cols: Any) -> Any:
    """Flat index of a point's cell, or -1."""
    x_min, y_min, _, cell, _ = numbers
    row, col = (points[point, 0] - x_min) / cell, (points[point, 1] - y_min) / cell
    # Single precision throughout: a whole number would make the comparison a double one.
    inside = row >= ZERO and row < np.float32(rows) and col >= ZERO and col < np.float32(cols)
    if inside and points[point, 2] == points[point, 2]:
        return int(row) * cols + int(col)
    return -1


_whole_cpu, _cell_cpu = cpu_kernel(inline=True)(_whole), cpu_kernel(inline=True)(_cell)
_whole_cuda, _cell_cuda = (cuda.jit(device=True, inline="always")(each) for each in (_whole, _cell))


def _finish(sums: Any, cell: Any, features: Any) -> None:
    """The features of one cell from its sums."""
    count = sums[cell, COUNT]
    if count == 0:
        for k in range(FEATURES):
            features[cell, k] = 0
        return
    points = np.float32(count)
    features[cell, 0] = np.float32(min(count, ENOUGH_POINTS)) / np.float32(ENOUGH_POINTS)
    features[cell, 1] = np.float32(sums[cell, SUM]) / (points * PER_M)
    features[cell, 2] = np.float32(sums[cell, LOWEST]) / PER_M
    features[cell, 3] = np.float32(sums[cell, HIGHEST]) / PER_M
    features[cell, 4] = np.float32(sums[cell, BRIGHTNESS]) / (points * BRIGHTEST)
    features[cell, 5] = 1
    for band in range(BANDS):
        features[cell, NUMBERS + band] = (sums[cell, BITS] >> band) & 1


_finish_cpu, _finish_cuda = cpu_kernel(inline=True)(_finish), cuda.jit(device=True, inline="always")(_finish)


@cpu_kernel()
def _cell_features_cpu(
    points: Float32, numbers: Numbers, rows: int, cols: int, sums: NDArray[np.int64], features: Float32
) -> None:
    for cell in range(rows * cols):
        sums[cell, :] = 0
        sums[cell, LOWEST] = _NONE
    for point in range(points.shape[0]):
        cell = _cell_cpu(points, point, numbers, rows, cols)
        if cell >= 0:
            height = _whole_cpu((points[point, 2] - numbers[2]) * PER_M, numbers[4])
            sums[cell, COUNT] += 1
            sums[cell, SUM] += height
            sums[cell, LOWEST] = min(sums[cell, LOWEST], height)
            sums[cell, HIGHEST] = max(sums[cell, HIGHEST], height)
            sums[cell, BRIGHTNESS] += _whole_cpu(points[point, 3] * BRIGHTEST, BRIGHTEST)
            sums[cell, BITS] |= 1 << min(height // BAND_MM, BANDS - 1)
    for cell in range(rows * cols):
        _finish_cpu(sums, cell, features)


@cuda.jit
def _clear_cuda(sums: Any) -> None:
    """One cell per thread."""
    for cell in range(cuda.grid(1), sums.shape[0], cuda.gridsize(1)):
        for k in range(SUMS):
            sums[cell, k] = 0
        sums[cell, LOWEST] = _NONE


@cuda.jit
def _sum_cuda(points: Any, numbers: Any, rows: Any, cols: Any, sums: Any) -> None:
    """One point per thread."""
    for point in range(cuda.grid(1), points.shape[0], cuda.gridsize(1)):
        cell = _cell_cuda(points, point, numbers, rows, cols)
        if cell >= 0:
            height = _whole_cuda((points[point, 2] - numbers[2]) * PER_M, numbers[4])
            cuda.atomic.add(sums, (cell, COUNT), 1)
            cuda.atomic.add(sums, (cell, SUM), height)
            cuda.atomic.min(sums, (cell, LOWEST), height)
            cuda.atomic.max(sums, (cell, HIGHEST), height)
            cuda.atomic.add(sums, (cell, BRIGHTNESS), _whole_cuda(points[point, 3] * BRIGHTEST, BRIGHTEST))
            cuda.atomic.or_(sums, (cell, BITS), 1 << min(height // BAND_MM, BANDS - 1))


@cuda.jit
def _finish_cells_cuda(sums: Any, features: Any) -> None:
    """One cell per thread."""
    for cell in range(cuda.grid(1), sums.shape[0], cuda.gridsize(1)):
        _finish_cuda(sums, cell, features)


def cell_features(
    points: Any,
    origin_m: tuple[float, float, float],
    height_m: float,
    cell_m: float,
    shape: tuple[int, int],
    workspace: Workspace | None = None,
) -> Any:
    """How many points each cell holds, how high they are and how bright.

    Args:
        points: (N, 4) float32, columns x, y, z [m] and intensity [0, 1].
        origin_m: x, y of the lower edges of row 0 and column 0, and z of height 0.
        height_m: heights above are cut off.
        cell_m: side of a cell.
        shape: (rows, cols).
        workspace: where the result is kept, until the next call with it; None makes a new one.

    Returns:
        (rows, cols, FEATURES) float32: see the equation; heights in metres.

    Raises:
        TypeError: if the points are not float32.
        ValueError: if the points have another shape, or a size is not positive.
    """
    device = on_device(points)
    check_array("points", points, np.float32, ("N", 4))
    if min(*shape, cell_m, height_m) <= 0:
        raise ValueError(f"shape {shape}, cell {cell_m} m, height {height_m} m; expected positive numbers")
    workspace = workspace or Workspace(device)
    rows, cols = shape
    numbers = (*(np.float32(value) for value in (*origin_m, cell_m)), np.float32(height_m) * PER_M)
    sums = workspace.array("cell_features.sums", (rows * cols, SUMS), np.int64)
    features = workspace.array("cell_features.features", (rows * cols, FEATURES), np.float32)
    if device:
        _clear_cuda[blocks(), THREADS, stream()](sums)
        _sum_cuda[blocks(), THREADS, stream()](points, numbers, rows, cols, sums)
        _finish_cells_cuda[blocks(), THREADS, stream()](sums, features)
    else:
        _cell_features_cpu(points, numbers, rows, cols, sums, features)
    return features.reshape(rows, cols, FEATURES)


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    """A few points outside, too high, too low, or brighter than allowed."""
    count, shape = (300, (8, 11)) if scale == "small" else (116_000, (176, 200))
    cell_m = 0.4
    low, high = (-0.5, -0.5, -4, -0.1), (shape[0] * cell_m + 0.5, shape[1] * cell_m + 0.5, 2, 1.2)
    points = rng.uniform(low, high, (count, 4)).astype(np.float32)
    return {"points": points, "origin_m": (0.0, 0.0, -3.0), "height_m": 4.0, "cell_m": cell_m, "shape": shape}


_POINTS, _SUMS, _FEATURES = "float32[:,::1]", "int64[:,::1]", "float32[:,::1]"
OPS = (
    Op(
        name="cell_features",
        function=cell_features,
        reference=cell_features_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(
            CudaKernel(_clear_cuda, f"void({_SUMS})"),
            CudaKernel(_sum_cuda, f"void({_POINTS}, UniTuple(float32, 5), int64, int64, {_SUMS})"),
            CudaKernel(_finish_cells_cuda, f"void({_SUMS}, {_FEATURES})"),
        ),
        summary="points of every coarse cell: how many, how high, how bright",
    ),
)
