"""`height_above_ground`: how far the highest point of a cell is above the lowest point near it.

Equation, for a grid as `kernels.voxelize` makes it, ``level`` a height bin, -1 for "below" and ``bins`` for "above"::

    highest(r, c) = largest occupied level      lowest(r, c) = smallest occupied level
    height(r, c) = (highest(r, c) - min of lowest over |dr|, |dc| <= reach) * z_bin
    height(r, c) = EMPTY where the cell holds no point

The lowest point near a cell stands for the ground, as in the elevation maps of early off-road vehicles (Thrun et al.,
Stanley, J. Field Robotics 2006, section 5); a slope of 10 % adds a tenth of the reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device
from kernels.op import CudaKernel, Exact, Op
from kernels.voxelize import EXTRA_CHANNELS
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]
EMPTY = np.float32(-1)
_NOTHING = np.float32(0)


def height_above_ground_reference(grid: Float32, z_bin_m: float, reach: int) -> Float32:
    """The equation in NumPy. Arguments and result as in `height_above_ground`."""
    bins = grid.shape[2] - EXTRA_CHANNELS
    rising = grid[:, :, [bins, *range(bins), bins + 1]] > 0  # by level, from -1
    occupied = rising.any(2)
    lowest = np.where(occupied, rising.argmax(2), bins + 2)
    highest = bins + 1 - rising[:, :, ::-1].argmax(2)
    near = np.pad(lowest, reach, constant_values=bins + 2)
    windows = np.lib.stride_tricks.sliding_window_view(near, (2 * reach + 1,) * 2)
    height = (highest - windows.min((2, 3))).astype(np.float32) * np.float32(z_bin_m)
    return np.where(occupied, height, EMPTY)


def _levels(grid: Any, row: Any, col: Any) -> Any:
    """Smallest and largest occupied level of a cell; the smallest is above every level where there is none."""
    bins = grid.shape[2] - EXTRA_CHANNELS
    lowest, highest = bins + 1, -2
    for channel in range(bins + 2):
        if grid[row, col, channel] > _NOTHING:
            level = channel
            if channel == bins:
                level = -1
            elif channel == bins + 1:
                level = bins
            lowest, highest = min(lowest, level), max(highest, level)
    return lowest, highest


_levels_cpu = cpu_kernel(inline=True)(_levels)
_levels_cuda = cuda.jit(device=True, inline="always")(_levels)


@cpu_kernel()
def _height_cpu(grid: Float32, z_bin_m: np.float32, reach: int, lowest: NDArray[np.int32], height: Float32) -> None:
    rows, cols = lowest.shape
    for row in range(rows):
        for col in range(cols):
            lowest[row, col], highest = _levels_cpu(grid, row, col)
            height[row, col] = highest
    for row in range(rows):
        for col in range(cols):
            if height[row, col] < -1:
                height[row, col] = EMPTY
                continue
            ground = lowest[row, col]
            for r in range(max(0, row - reach), min(rows, row + reach + 1)):
                for c in range(max(0, col - reach), min(cols, col + reach + 1)):
                    ground = min(ground, lowest[r, c])
            height[row, col] = (height[row, col] - np.float32(ground)) * z_bin_m


@cuda.jit
def _lowest_cuda(grid: Any, lowest: Any) -> None:
    """One cell per thread."""
    cols = grid.shape[1]
    for cell in range(cuda.grid(1), grid.shape[0] * cols, cuda.gridsize(1)):
        lowest[cell // cols, cell % cols] = _levels_cuda(grid, cell // cols, cell % cols)[0]


@cuda.jit
def _height_cuda(grid: Any, z_bin_m: Any, reach: Any, lowest: Any, height: Any) -> None:
    """One cell per thread."""
    rows, cols = lowest.shape
    for cell in range(cuda.grid(1), rows * cols, cuda.gridsize(1)):
        row, col = cell // cols, cell % cols
        ground, highest = _levels_cuda(grid, row, col)
        if highest < -1:
            height[row, col] = EMPTY
        else:
            for r in range(max(0, row - reach), min(rows, row + reach + 1)):
                for c in range(max(0, col - reach), min(cols, col + reach + 1)):
                    ground = min(ground, lowest[r, c])
            height[row, col] = (np.float32(highest) - np.float32(ground)) * z_bin_m


def height_above_ground(grid: Any, z_bin_m: float, reach: int, workspace: Workspace | None = None) -> Any:
    """Height of the highest point of every cell above the ground near it.

    Args:
        grid: (rows, cols, channels) float32, from `kernels.voxelize`.
        z_bin_m: height of its bins.
        reach: cells to every side among which the lowest point counts as ground.
        workspace: where the result is kept, until the next call with it; None makes a new one.

    Returns:
        (rows, cols) float32 heights [m], at least 0; `EMPTY` (-1) where a cell holds no point.

    Raises:
        TypeError: if the grid is not float32.
        ValueError: if the grid has no height bin or the reach is negative.
    """
    device = on_device(grid)
    check_array("grid", grid, np.float32, ("rows", "cols", "channels"))
    if grid.shape[2] <= EXTRA_CHANNELS or reach < 0:
        raise ValueError(f"grid {grid.shape}, reach {reach}; expected more than {EXTRA_CHANNELS} channels, at least 0")
    workspace = workspace or Workspace(device)
    lowest = workspace.array("height_above_ground.lowest", grid.shape[:2], np.int32)
    height = workspace.array("height_above_ground.height", grid.shape[:2], np.float32)
    if device:
        _lowest_cuda[blocks(), THREADS](grid, lowest)
        _height_cuda[blocks(), THREADS](grid, np.float32(z_bin_m), reach, lowest, height)
    else:
        _height_cpu(grid, np.float32(z_bin_m), reach, lowest, height)
    return height


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    shape = (9, 11, 7) if scale == "small" else (176, 200, 23)
    return {"grid": (rng.random(shape) < 0.1).astype(np.float32), "z_bin_m": 0.2, "reach": 2}


_GRID, _LEVELS = "float32[:,:,::1]", "int32[:,::1]"
OPS = (
    Op(
        name="height_above_ground",
        function=height_above_ground,
        reference=height_above_ground_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(
            CudaKernel(_lowest_cuda, f"void({_GRID}, {_LEVELS})"),
            CudaKernel(_height_cuda, f"void({_GRID}, float32, int64, {_LEVELS}, float32[:,::1])"),
        ),
        summary="highest point of every cell above the lowest one near it",
    ),
)
