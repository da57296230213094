"""Direct convolution of tiles on the CPU, for any geometry: lists of cells for `kernels.microkernel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.jit import cpu_kernel
from kernels.microkernel import multiply_cells, pack_bias, pack_columns
from kernels.tiles import ActiveTiles
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Pair = tuple[int, int]
Place = tuple[int, int, int, int, int]  # image, top, bottom, left, right of an output tile, clipped to the map

# Cells multiplied at once: enough to fill blocks where tiles are small.
_CELLS = 128


def packed(made: dict[str, Any], name: str, pack: Callable[[], Any]) -> Any:
    """What ``pack`` returns, called once and kept under ``name``."""
    if name not in made:
        made[name] = pack()
    return made[name]


def pack_direct(filters: Filters) -> Float32:
    """Weights for `multiply_cells`: a row of the kernel is one tap, because its cells follow one another in memory."""
    rows, cols, channels, columns = filters.weights.shape
    if filters.transposed:
        return pack_columns(filters.weights.reshape(rows * cols, 1, channels, columns))
    return pack_columns(filters.weights.reshape(1, rows, cols * channels, columns))


def run_direct(
    x: Float32, filters: Filters, tiles: ActiveTiles, out: Float32, residual: Float32, add: bool, floor: np.float32,
    workspace: Workspace,
) -> None:  # fmt: skip
    """Convolves directly; arguments as `kernels.tile_conv_cpu.tile_conv_cpu`."""
    rows, cols, channels, _ = filters.weights.shape
    size, stride, spec, threads = tiles.spec.size, filters.stride, tiles.spec, numba.get_num_threads()
    weights = packed(filters.packed, "direct", lambda: pack_direct(filters))
    bias = packed(filters.packed, "bias", lambda: pack_bias(filters.bias))
    window = (stride * (size[0] - 1) + rows, stride * (size[1] - 1) + cols)
    scratch = workspace.array("window", (threads, window[0] * window[1] * channels), np.float32)
    group = max(1, _CELLS // (size[0] * size[1]))
    cells = workspace.array("cells", (threads, 2, group * size[0] * size[1]), np.int64)
    steps = workspace.array("taps", (2, rows), np.int64)
    for r in range(rows):
        steps[:, r] = r * x.shape[2] * channels, r * window[1] * channels
    _direct_cpu(
        x, tiles.index, size, spec.stride, spec.offset, weights, bias, (rows, cols), stride, filters.padding,
        filters.transposed, out, residual, add, floor, group, scratch, cells, steps,
    )  # fmt: skip


@cpu_kernel(parallel=True)
def _direct_cpu(
    x: Float32, index: Int32, size: Pair, tile_stride: Pair, offset: Pair, weights: Float32, bias: Float32,
    kernel: Pair, stride: int, padding: Pair, transposed: bool, out: Float32, residual: Float32, add: bool,
    floor: np.float32, group: int, scratch: Float32, cells: Int64, steps: Int64,
) -> None:  # fmt: skip
    workers = scratch.shape[0]
    for worker in prange(workers):
        for first in range(worker * group, index.shape[0], workers * group):
            chosen = index[first : first + group]
            if transposed:
                _transposed_group(
                    x, chosen, size, tile_stride, offset, weights, bias, stride, out, residual, add, floor,
                    cells[worker], steps[0, :1],
                )  # fmt: skip
            else:
                _direct_group(
                    x, chosen, size, tile_stride, offset, weights[0], bias, kernel, stride, padding, out, residual,
                    add, floor, scratch[worker], cells[worker], steps,
                )  # fmt: skip


@cpu_kernel()
def _place(tile: Int32, size: Pair, stride: Pair, offset: Pair, out: Float32) -> Place:
    top, left = offset[0] + stride[0] * tile[1], offset[1] + stride[1] * tile[2]
    bottom, right = min(top + size[0], out.shape[1]), min(left + size[1], out.shape[2])
    return tile[0], max(top, 0), bottom, max(left, 0), right


@cpu_kernel()
def _direct_group(
    x: Float32, index: Int32, size: Pair, tile_stride: Pair, offset: Pair, weights: Float32, bias: Float32,
    kernel: Pair, stride: int, padding: Pair, out: Float32, residual: Float32, add: bool, floor: np.float32,
    scratch: Float32, cells: Int64, steps: Int64,
) -> None:  # fmt: skip
    """Tiles inside the map go into one list of cells; those at its border are computed one by one."""
    _, rows, cols, channels = x.shape
    count = 0
    for tile in range(index.shape[0]):
        place = _place(index[tile], size, tile_stride, offset, out)
        n, top, bottom, left, right = place
        if top >= bottom or left >= right:
            continue
        row, col = stride * top - padding[0], stride * left - padding[1]
        last_row, last_col = (
            stride * (bottom - 1) - padding[0] + kernel[0],
            stride * (right - 1) - padding[1] + kernel[1],
        )
        if row >= 0 and col >= 0 and last_row <= rows and last_col <= cols:
            start = ((n * rows + row) * cols + col) * channels
            count = _list_cells(start, stride * cols * channels, stride * channels, place, out, cells, count)
        else:
            border_tile(
                x, place, size, weights, bias, kernel, stride, padding, out, residual, add, floor, scratch,
                cells[:, count:], steps[1],
            )  # fmt: skip
    multiply_cells(
        x.reshape(-1), cells[0], count, steps[0], kernel[1] * channels, weights, 0, bias, out.shape[3],
        out.reshape(-1), cells[1], residual, add, floor,
    )  # fmt: skip


@cpu_kernel()
def _list_cells(
    start: int, row_pitch: int, cell_pitch: int, place: Place, out: Float32, cells: Int64, count: int
) -> int:
    """Appends a tile's cells, whose inputs lie at these pitches from ``start`` on; returns the new count."""
    n, top, bottom, left, right = place
    for i in range(bottom - top):
        for j in range(right - left):
            cells[0, count] = start + i * row_pitch + j * cell_pitch
            cells[1, count] = ((n * out.shape[1] + top + i) * out.shape[2] + left + j) * out.shape[3]
            count += 1
    return count


@cpu_kernel()
def border_tile(
    x: Float32, place: Place, size: Pair, weights: Float32, bias: Float32, kernel: Pair, stride: int, padding: Pair,
    out: Float32, residual: Float32, add: bool, floor: np.float32, scratch: Float32, cells: Int64, taps: Int64,
) -> None:  # fmt: skip
    """One tile whose input reaches over the border of the map: copied beside zeros, then multiplied.

    ``size`` is that of a whole tile, whose input the flat scratch holds; cells: (2, cells of a tile) int64; taps:
    (kernel rows,) int64, offsets of the kernel's rows in the scratch.
    """
    n, top, bottom, left, right = place
    channels, height, wide = x.shape[3], bottom - top, right - left
    width = stride * (size[1] - 1) + kernel[1]
    copy_window(
        x, n, stride * top - padding[0], stride * left - padding[1], stride * (height - 1) + kernel[0],
        stride * (wide - 1) + kernel[1], scratch, width,
    )  # fmt: skip
    count = _list_cells(0, stride * width * channels, stride * channels, place, out, cells, 0)
    multiply_cells(
        scratch, cells[0], count, taps, kernel[1] * channels, weights, 0, bias, out.shape[3], out.reshape(-1),
        cells[1], residual, add, floor,
    )  # fmt: skip


@cpu_kernel()
def inner_tile(
    x: Float32, place: Place, shift: Pair, weights: Float32, bias: Float32, kernel: Pair, out: Float32,
    residual: Float32, add: bool, floor: np.float32, cells: Int64, taps: Int64,
) -> None:  # fmt: skip
    """One tile with stride 1 whose input lies wholly in the image x[0], cell (i, j) of it from (i, j) - shift on."""
    _, top, _, left, _ = place
    _, _, cols, channels = x.shape
    start = ((top - shift[0]) * cols + left - shift[1]) * channels
    count = _list_cells(start, cols * channels, channels, place, out, cells, 0)
    multiply_cells(
        x.reshape(-1), cells[0], count, taps, kernel[1] * channels, weights, 0, bias, out.shape[3], out.reshape(-1),
        cells[1], residual, add, floor,
    )  # fmt: skip


@cpu_kernel()
def _transposed_group(
    x: Float32, index: Int32, size: Pair, tile_stride: Pair, offset: Pair, weights: Float32, bias: Float32,
    stride: int, out: Float32, residual: Float32, add: bool, floor: np.float32, cells: Int64, tap: Int64,
) -> None:  # fmt: skip
    """One matrix product for every position inside the kernel."""
    _, rows, cols, channels = x.shape
    columns = out.shape[3]
    for position in range(stride * stride):
        r, s = position // stride, position % stride
        count = 0
        for tile in range(index.shape[0]):
            n, top, bottom, left, right = _place(index[tile], size, tile_stride, offset, out)
            for i in range(top + (r - top) % stride, min(bottom, rows * stride), stride):
                for j in range(left + (s - left) % stride, min(right, cols * stride), stride):
                    cells[0, count] = ((n * rows + i // stride) * cols + j // stride) * channels
                    cells[1, count] = ((n * out.shape[1] + i) * out.shape[2] + j) * columns
                    count += 1
        multiply_cells(
            x.reshape(-1), cells[0], count, tap, channels, weights[position], 0, bias, columns, out.reshape(-1),
            cells[1], residual, add, floor,
        )  # fmt: skip


@cpu_kernel()
def copy_window(
    x: Float32, n: int, top: int, left: int, height: int, width: int, window: Float32, window_cols: int
) -> None:
    """Cells from (top, left) of image n, ``height`` × ``width``, to a flat window; zeros outside the map."""
    _, rows, cols, channels = x.shape
    first, last = max(0, -left), min(width, cols - left)
    for i in range(height):
        line = window[i * window_cols * channels : (i * window_cols + width) * channels]
        if top + i < 0 or top + i >= rows or first >= last:
            line[:] = 0
        else:
            # Views of one run of numbers each: this becomes vector moves, an index per cell would not.
            source = x[n, top + i, left + first : left + last].reshape(-1)
            target = line[first * channels : last * channels]
            line[: first * channels] = 0
            for number in range(source.shape[0]):
                target[number] = source[number]
            line[last * channels :] = 0
