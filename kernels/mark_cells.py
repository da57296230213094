"""`mark_cells`: which cells of a coarse grid hold points.

Equation, for each point ``(x, y, z, i)``, in float32::

    mask[0, floor((x - x_min) / cell), floor((y - y_min) / cell)] = 1

Points outside the rows or columns, and points with a NaN coordinate, fall away. All other cells are 0.
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

Float32 = NDArray[np.float32]


def mark_cells_reference(points: Float32, origin_m: tuple[float, float], cell_m: float, out: Float32) -> Float32:
    """The equation in NumPy. Arguments and result as in `mark_cells`, but ``out`` is left alone."""
    mask = np.zeros_like(out)
    with np.errstate(invalid="ignore"):
        row, col = np.floor((points[:, :2] - np.array(origin_m, np.float32)) / np.float32(cell_m)).T
    inside = (row >= 0) & (row < mask.shape[1]) & (col >= 0) & (col < mask.shape[2]) & ~np.isnan(points[:, 2])
    mask[0, row[inside].astype(int), col[inside].astype(int)] = 1
    return mask


@cpu_kernel()
def _mark_cells_cpu(points: Float32, x_min: np.float32, y_min: np.float32, cell: np.float32, mask: Float32) -> None:
    for index in range(points.shape[0]):
        row, col = (points[index, 0] - x_min) / cell, (points[index, 1] - y_min) / cell
        if row >= 0 and row < mask.shape[1] and col >= 0 and col < mask.shape[2] and not np.isnan(points[index, 2]):
            mask[0, int(row), int(col)] = 1


@cuda.jit
def _clear_mask_cuda(mask: Any) -> None:
    for element in range(cuda.grid(1), mask.shape[0], cuda.gridsize(1)):
        mask[element] = np.float32(0)


@cuda.jit
def _mark_cells_cuda(points: Any, x_min: Any, y_min: Any, cell: Any, mask: Any) -> None:
    """One point per thread; all write the same 1."""
    rows, cols, zero = np.float32(mask.shape[1]), np.float32(mask.shape[2]), np.float32(0)
    for index in range(cuda.grid(1), points.shape[0], cuda.gridsize(1)):
        row, col = (points[index, 0] - x_min) / cell, (points[index, 1] - y_min) / cell
        if row >= zero and row < rows and col >= zero and col < cols and points[index, 2] == points[index, 2]:
            mask[0, int(row), int(col)] = np.float32(1)


def mark_cells(points: Any, origin_m: tuple[float, float], cell_m: float, out: Any) -> Any:
    """The mask of cells that hold points, in place in ``out``.

    Args:
        points: (N, 4) float32, columns x, y, z [m] and intensity, in the frame of the mask.
        origin_m: x and y of the lower edges of row 0 and column 0.
        cell_m: side of a cell.
        out: (1, rows, cols) float32, contiguous; it is cleared first.

    Returns:
        ``out``: 1 where a cell holds a point of any height, else 0.

    Raises:
        TypeError: if an array is not float32, or they are not in one place.
        ValueError: if a shape is wrong, or the cell has no size.
    """
    device = on_device(points, out)
    check_array("points", points, np.float32, ("N", 4))
    check_array("out", out, np.float32, (1, "rows", "cols"))
    if cell_m <= 0:
        raise ValueError(f"cell {cell_m} m, expected more than 0")
    numbers = tuple(np.float32(value) for value in (*origin_m, cell_m))
    if device:
        _clear_mask_cuda[blocks(), THREADS, stream()](out.reshape(-1))
        _mark_cells_cuda[blocks(), THREADS, stream()](points, *numbers, out)
    else:
        out.fill(0)
        _mark_cells_cpu(np.ascontiguousarray(points), *numbers, out)
    return out


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    """Points all over the mask and a little beyond; some are no numbers."""
    count, shape = (60, (1, 6, 7)) if scale == "small" else (120_000, (1, 176, 200))
    high = (0.4 * shape[1] + 1, 0.4 * shape[2] + 1, 1, 1)
    points = rng.uniform((-1, -1, -3, 0), high, (count, 4)).astype(np.float32)
    points[::7, rng.integers(0, 3)] = np.nan
    return {"points": points, "origin_m": (0.0, 0.0), "cell_m": 0.4, "out": np.full(shape, 5, np.float32)}


OPS = (
    Op(
        name="mark_cells",
        function=mark_cells,
        reference=mark_cells_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(
            CudaKernel(_clear_mask_cuda, "void(float32[::1])"),
            CudaKernel(_mark_cells_cuda, "void(float32[:,::1], float32, float32, float32, float32[:,:,::1])"),
        ),
        summary="points → mask of the cells that hold any",
    ),
)
