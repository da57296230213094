"""`voxelize`: points to a bird's-eye-view grid.

Equation, for each point ``(x, y, z, i)``, all in float32::

    row = floor((x - x_min) / cell)      col = floor((y - y_min) / cell)      bin = floor((z - z_min) / z_bin)
    grid[row, col, clamp(bin)] = 1       clamp: below -> bins, above -> bins + 1
    grid[row, col, bins + 2] = max(grid[row, col, bins + 2], i)

Points outside the rows or columns, and points with a NaN coordinate, fall away; a NaN intensity counts as 0. The
channels are SBNet's (CVPR 2018, section 4.1): occupancy per height bin, two out-of-range bins, intensity. The paper
does not say how intensities of one cell combine; the maximum needs no order, so every backend gives the same bytes.
"""

from __future__ import annotations

import math
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
Numbers = tuple[np.float32, ...]  # x_min, y_min, z_min, side of a cell, height of a bin [m]
Shape = tuple[int, int, int]
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
    np.fmax.at(grid, (row, col, bins + 2), points[inside, 3])
    return grid


# Below, quotients are compared before they are cut off to integers: floor(q) < n says the same as q < n, NaN fails
# every comparison, and nothing overflows an integer. An *element* is a flat index into the grid.


@cpu_kernel()
def _locate_cpu(
    points: Float32, numbers: Numbers, shape: Shape, elements: NDArray[np.int64], intensities: Float32
) -> int:
    """Lists the height bin's element and the intensity of every point inside; returns how many there are."""
    x_min, y_min, z_min, cell, z_bin = numbers
    rows, cols, channels = shape
    bins, count = channels - EXTRA_CHANNELS, 0
    for index in range(points.shape[0]):
        row = (points[index, 0] - x_min) / cell
        col = (points[index, 1] - y_min) / cell
        height = (points[index, 2] - z_min) / z_bin
        if row >= 0 and row < rows and col >= 0 and col < cols and not np.isnan(height):
            channel = bins if height < 0 else (bins + 1 if height >= bins else int(height))
            elements[count] = (int(row) * cols + int(col)) * channels + channel
            intensities[count] = points[index, 3]
            count += 1
    return count


@cpu_kernel()
def _mark_cpu(grid: Float32, elements: NDArray[np.int64], intensities: Float32) -> int:
    """Marks an empty grid. The list of elements shrinks to those that became 1; returns how many.

    One thread: scattered writes to a few cells, where threads would cost more than they bring. No branch depends on
    the grid, so that the processor need not wait for one cell before it asks for the next.
    """
    cells, channels, count = grid.reshape(-1), grid.shape[2], 0
    for index in range(elements.shape[0]):
        element = elements[index]
        elements[count] = element
        count += cells[element] == 0
        cells[element] = 1
        last = element - element % channels + channels - 1
        before, intensity = cells[last], intensities[index]
        cells[last] = intensity if intensity > before else before
    return count


@cpu_kernel()
def _clear_cpu(grid: Float32, channels: int, elements: NDArray[np.int64]) -> None:
    """Zeroes these elements of a flat grid, and the intensity of their cells."""
    for element in elements:
        grid[element] = 0
        grid[element - element % channels + channels - 1] = 0


@cuda.jit
def _clear_cuda(grid: Any) -> None:
    for element in range(cuda.grid(1), grid.shape[0], cuda.gridsize(1)):
        grid[element] = np.float32(0)


@cuda.jit
def _voxelize_cuda(points: Any, x_min: Any, y_min: Any, z_min: Any, cell: Any, z_bin: Any, grid: Any) -> None:
    """One point per thread; all write the same 1, and the maximum is atomic."""
    rows, cols, bins = np.float32(grid.shape[0]), np.float32(grid.shape[1]), grid.shape[2] - EXTRA_CHANNELS
    zero, above = np.float32(0), np.float32(bins)
    for index in range(cuda.grid(1), points.shape[0], cuda.gridsize(1)):
        row = (points[index, 0] - x_min) / cell
        col = (points[index, 1] - y_min) / cell
        height = (points[index, 2] - z_min) / z_bin
        if row >= zero and row < rows and col >= zero and col < cols and height == height:
            i, j = int(row), int(col)
            channel = bins if height < zero else (bins + 1 if height >= above else int(height))
            grid[i, j, channel] = np.float32(1)
            if points[index, 3] > zero:
                cuda.atomic.max(grid, (i, j, bins + 2), points[index, 3])


def voxelize(
    points: Any,
    origin_m: tuple[float, float, float],
    cell_m: float,
    z_bin_m: float,
    shape: tuple[int, int, int],
    out: Any | None = None,
    workspace: Workspace | None = None,
) -> Any:
    """The BEV grid of a point cloud.

    Args:
        points: (N, 4) float32, columns x, y, z [m] and intensity [0, 1], in the frame of the grid.
        origin_m: x_min, y_min, z_min: lower edges of row 0, column 0 and height bin 0.
        cell_m: side of a cell.
        z_bin_m: height of a bin.
        shape: (rows, cols, channels), channels being the height bins plus 3.
        out: contiguous array of ``shape``, float32, to write into; it is cleared first. None makes a new one.
        workspace: keeps the grid when ``out`` is None. The CPU then clears only what the last frame wrote, so treat
            the result as read-only; the next call with this workspace overwrites it.

    Returns:
        (rows, cols, channels) float32 grid, where the points are.

    Raises:
        TypeError: if points or out are not float32, or arrays are not in one place.
        ValueError: if points or out have another shape, out has gaps, or a size is not positive.
    """
    device = on_device(points) if out is None else on_device(points, out)
    check_array("points", points, np.float32, ("N", 4))
    if min(shape) < 1 or shape[2] <= EXTRA_CHANNELS or cell_m <= 0 or z_bin_m <= 0:
        raise ValueError(f"grid shape {shape}, cell {cell_m} m, bin {z_bin_m} m: expected positive sizes, > 3 channels")
    if out is not None:
        check_array("out", out, np.float32, shape)
        if not (out.is_c_contiguous() if device else out.flags.c_contiguous):
            raise ValueError("out is not contiguous, expected C order without gaps")
    numbers = tuple(np.float32(value) for value in (*origin_m, cell_m, z_bin_m))
    if device:
        grid = (workspace or Workspace(device=True)).array("voxelize.grid", shape, np.float32) if out is None else out
        _clear_cuda[blocks(), THREADS, stream()](grid.reshape(-1))
        _voxelize_cuda[blocks(), THREADS, stream()](points, *numbers, grid)
        return grid
    points = np.ascontiguousarray(points)
    if out is None and workspace is not None:
        return _voxelize_kept(points, numbers, shape, workspace)
    if out is None:
        out = np.zeros(shape, np.float32)
    else:
        out.fill(0)
    _voxelize_cpu(points, numbers, out, "voxelize.elements", workspace or Workspace())
    return out


def _voxelize_cpu(points: Float32, numbers: Numbers, grid: Float32, name: str, workspace: Workspace) -> int:
    """Puts points into an empty grid; the elements that became 1 lead the array ``name``, as many as returned."""
    elements = workspace.array(name, (len(points),), np.int64)
    intensities = workspace.array("voxelize.intensities", (len(points),), np.float32)
    count = _locate_cpu(points, numbers, grid.shape, elements, intensities)
    return int(_mark_cpu(grid, elements[:count], intensities))


def _voxelize_kept(points: Float32, numbers: Numbers, shape: Shape, workspace: Workspace) -> Float32:
    """`voxelize` into the grid of the workspace, most of which is still empty after the last frame."""
    allocations, size = workspace.allocations, math.prod(shape)
    memory = workspace.array("voxelize.memory", (3,), np.int64)
    if workspace.allocations > allocations:
        memory[:] = 0
    used, channels, clean = (int(value) for value in memory)
    buffer = workspace.array("voxelize.grid", (max(clean, size),), np.float32)
    if clean < size:
        buffer.fill(0)
    else:
        _clear_cpu(buffer, channels, workspace.array("voxelize.written", (used,), np.int64))
    memory[2] = 0  # nothing is known to be clean if this frame is interrupted
    grid: Float32 = buffer[:size].reshape(shape)
    memory[:] = _voxelize_cpu(points, numbers, grid, "voxelize.written", workspace), shape[2], buffer.size
    return grid


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    """One turn of a scanner 1.7 m above flat ground, with an obstacle in every direction."""
    beams, steps = (8, 50) if scale == "small" else (64, 1875)
    elevation_rad = np.radians(np.linspace(2, -24.8, beams)).repeat(steps)
    azimuth_rad = np.tile(np.linspace(np.pi, -np.pi, steps), beams)
    obstacle_m = np.tile(rng.uniform(2, 75, steps // 5).repeat(5), beams)
    distance_m = np.minimum(obstacle_m, 1.7 / np.maximum(np.tan(-elevation_rad), 0.02))
    distance_m *= rng.normal(1, 0.005, distance_m.size)
    x, y, z = (distance_m * part for part in (np.cos(azimuth_rad), np.sin(azimuth_rad), np.tan(elevation_rad)))
    points = np.column_stack([x, y, z, rng.random(x.size)]).astype(np.float32)
    grid = ((0.0, -12.0, -1.4), 2.0, 0.4, (9, 12, 7)) if scale == "small" else _KITTI
    return {"points": points, **dict(zip(("origin_m", "cell_m", "z_bin_m", "shape"), grid, strict=True))}


_KITTI = ((0.0, -40.0, -3.0), 0.1, 0.2, (704, 800, 23))
_NUMBERS = ", ".join(["float32"] * 5)
OPS = (
    Op(
        name="voxelize",
        function=voxelize,
        reference=voxelize_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(
            CudaKernel(_clear_cuda, "void(float32[::1])"),
            CudaKernel(_voxelize_cuda, f"void(float32[:,::1], {_NUMBERS}, float32[:,:,::1])"),
        ),
        summary="points → BEV grid: occupancy per height bin, largest intensity",
    ),
)
