"""`tile_conv` on the CPU: directly for any geometry, in Winograd's domain for 3×3 with stride 1.

Both read the input where it lies and copy only at the map's border, where zeros must stand beside it. A thread takes
every n-th tile (or group of tiles) and has scratch of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.microkernel import multiply_cells, pack_bias, pack_columns
from kernels.tiles import ActiveTiles
from kernels.winograd import (
    PATCH,
    POSITIONS,
    WINDOW,
    multiply_positions,
    pack_winograd,
    position_pitch,
    transform_input,
    transform_output,
)
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Pair = tuple[int, int]

METHODS = ("auto", "direct", "winograd")
# Patches multiplied at once: enough rows for the 36 matrix products, few enough to stay in the cache.
_PATCHES = 32


def pick_method(filters: Filters, tiles: ActiveTiles, method: str) -> str:
    """The method that "auto" stands for.

    Raises:
        ValueError: if the method is unknown, or Winograd's does not apply.
    """
    if method not in METHODS:
        raise ValueError(f"method is '{method}', expected one of {', '.join(METHODS)}")
    fits = filters.weights.shape[:2] == (3, 3) and filters.stride == 1 and min(tiles.spec.offset) >= 0
    if method == "winograd" and not fits:
        raise ValueError(
            f"kernel {filters.weights.shape[:2]}, stride {filters.stride}, tile offset {tiles.spec.offset}: "
            "Winograd's method expects 3×3, stride 1 and an offset of at least 0"
        )
    whole = all(size % PATCH == 0 for size in tiles.spec.size)
    if method == "auto":
        return "winograd" if fits and whole and min(filters.channels) >= PATCH else "direct"
    return method


def tile_conv_cpu(
    x: Float32, filters: Filters, tiles: ActiveTiles, out: Float32, relu: bool, residual: Float32 | None,
    method: str, workspace: Workspace,
) -> None:  # fmt: skip
    """Runs the method; arguments as `tile_conv`, which has checked them."""
    run = _run_winograd if pick_method(filters, tiles, method) == "winograd" else _run_direct
    add = residual is not None
    flat = residual.reshape(-1) if residual is not None else out.reshape(-1)
    run(x, filters, tiles, out, flat, add, np.float32(0 if relu else -np.inf), workspace)


def packed(made: dict[str, Any], name: str, pack: Callable[[], Any]) -> Any:
    """What ``pack`` returns, called once and kept under ``name``."""
    if name not in made:
        made[name] = pack()
    return made[name]


def _run_direct(
    x: Float32, filters: Filters, tiles: ActiveTiles, out: Float32, residual: Float32, add: bool, floor: np.float32,
    workspace: Workspace,
) -> None:  # fmt: skip
    rows, cols, channels, columns = filters.weights.shape
    size, stride = tiles.spec.size, filters.stride
    taps = 1 if filters.transposed else rows * cols
    weights = packed(
        filters.packed,
        "direct",
        lambda: pack_columns(filters.weights.reshape(rows * cols // taps, taps, channels, columns)),
    )
    bias = packed(filters.packed, "bias", lambda: pack_bias(filters.bias))
    threads = numba.get_num_threads()
    window = (stride * (size[0] - 1) + rows, stride * (size[1] - 1) + cols)
    scratch = workspace.array("window", (threads, window[0] * window[1] * channels), np.float32)
    cells = workspace.array("cells", (threads, 2, size[0] * size[1]), np.int64)
    steps = workspace.array("taps", (2, taps), np.int64)
    for t, (r, s) in enumerate(np.ndindex(rows, cols) if taps > 1 else [(0, 0)]):
        steps[:, t] = (r * x.shape[2] + s) * channels, (r * window[1] + s) * channels
    spec = tiles.spec
    _direct_cpu(
        x, tiles.index, size, spec.stride, spec.offset, weights, bias, (rows, cols), stride, filters.padding,
        filters.transposed, out, residual, add, floor, scratch, cells, steps,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy", parallel=True, cache=True)
def _direct_cpu(
    x: Float32, index: Int32, size: Pair, tile_stride: Pair, offset: Pair, weights: Float32, bias: Float32,
    kernel: Pair, stride: int, padding: Pair, transposed: bool, out: Float32, residual: Float32, add: bool,
    floor: np.float32, scratch: Float32, cells: Int64, steps: Int64,
) -> None:  # fmt: skip
    for worker in prange(scratch.shape[0]):
        for tile in range(worker, index.shape[0], scratch.shape[0]):
            n, top, left = index[tile, 0], offset[0], offset[1]
            top, left = top + tile_stride[0] * index[tile, 1], left + tile_stride[1] * index[tile, 2]
            bottom, right = min(top + size[0], out.shape[1]), min(left + size[1], out.shape[2])
            top, left = max(top, 0), max(left, 0)
            if top >= bottom or left >= right:
                continue
            place = (n, top, bottom, left, right)
            if transposed:
                _direct_transposed(x, place, weights, bias, stride, out, residual, add, floor, cells[worker], steps[0])
            else:
                direct_tile(
                    x, place, size, weights[0], bias, kernel, stride, padding, out, residual, add, floor,
                    scratch[worker], cells[worker], steps,
                )  # fmt: skip


@njit(nogil=True, error_model="numpy", cache=True)
def direct_tile(
    x: Float32, place: tuple[int, int, int, int, int], size: Pair, weights: Float32, bias: Float32, kernel: Pair,
    stride: int, padding: Pair, out: Float32, residual: Float32, add: bool, floor: np.float32, scratch: Float32,
    cells: Int64, steps: Int64,
) -> None:  # fmt: skip
    """One tile that covers ``place`` (image, top, bottom, left, right) of the output, clipped to it.

    ``size`` is that of a whole tile, which the scratch is made for: flat, for the input of a tile at the border;
    cells: (2, cells of a tile) int64; steps: (2, taps) int64, offsets of the kernel's cells in x and in the scratch.
    """
    n, top, bottom, left, right = place
    _, rows, cols, channels = x.shape
    columns = out.shape[3]
    first_row, first_col = stride * top - padding[0], stride * left - padding[1]
    last_row, last_col = stride * (bottom - 1) - padding[0] + kernel[0], stride * (right - 1) - padding[1] + kernel[1]
    inside = first_row >= 0 and first_col >= 0 and last_row <= rows and last_col <= cols
    width = stride * (size[1] - 1) + kernel[1]
    if not inside:
        copy_window(x, n, first_row, first_col, last_row - first_row, last_col - first_col, scratch, width)
    start = ((n * rows + first_row) * cols + first_col) * channels if inside else 0
    pitch = (cols if inside else width) * channels
    count = 0
    for i in range(bottom - top):
        for j in range(right - left):
            cells[0, count] = start + stride * (i * pitch + j * channels)
            cells[1, count] = ((n * out.shape[1] + top + i) * out.shape[2] + left + j) * columns
            count += 1
    source, tap = (x.reshape(-1), steps[0]) if inside else (scratch, steps[1])
    multiply_cells(
        source, cells[0], count, tap, channels, weights, 0, bias, columns, out.reshape(-1), cells[1], residual, add,
        floor,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy", cache=True)
def _direct_transposed(
    x: Float32, place: tuple[int, int, int, int, int], weights: Float32, bias: Float32, stride: int, out: Float32,
    residual: Float32, add: bool, floor: np.float32, cells: Int64, tap: Int64,
) -> None:  # fmt: skip
    """One matrix product for every position inside the kernel."""
    n, top, bottom, left, right = place
    _, rows, cols, channels = x.shape
    columns = out.shape[3]
    for position in range(stride * stride):
        r, s = position // stride, position % stride
        count = 0
        for i in range(top + (r - top) % stride, bottom, stride):
            for j in range(left + (s - left) % stride, right, stride):
                if i // stride < rows and j // stride < cols:
                    cells[0, count] = ((n * rows + i // stride) * cols + j // stride) * channels
                    cells[1, count] = ((n * out.shape[1] + i) * out.shape[2] + j) * columns
                    count += 1
        multiply_cells(
            x.reshape(-1), cells[0], count, tap, channels, weights[position], 0, bias, columns, out.reshape(-1),
            cells[1], residual, add, floor,
        )  # fmt: skip


@njit(nogil=True, error_model="numpy", cache=True)
def copy_window(
    x: Float32, n: int, top: int, left: int, height: int, width: int, window: Float32, window_cols: int
) -> None:
    """Cells from (top, left) of image n, ``height`` × ``width``, to a flat window; zeros outside the map."""
    _, rows, cols, channels = x.shape
    first, last = max(0, -left), min(width, cols - left)
    for i in range(height):
        at = i * window_cols * channels
        if top + i < 0 or top + i >= rows or first >= last:
            window[at : at + width * channels] = 0
        else:
            window[at : at + first * channels] = 0
            for j in range(first, last):
                for c in range(channels):
                    window[at + j * channels + c] = x[n, top + i, left + j, c]
            window[at + last * channels : at + width * channels] = 0


def _run_winograd(
    x: Float32, filters: Filters, tiles: ActiveTiles, out: Float32, residual: Float32, add: bool, floor: np.float32,
    workspace: Workspace,
) -> None:  # fmt: skip
    _, _, channels, columns = filters.weights.shape
    weights = packed(filters.packed, "winograd", lambda: pack_winograd(filters.weights))
    bias = packed(filters.packed, "bias", lambda: pack_bias(filters.bias))
    nothing = packed(filters.packed, "no bias", lambda: np.zeros_like(bias))
    threads, size = numba.get_num_threads(), tiles.spec.size
    in_tile = -(-size[0] // PATCH) * -(-size[1] // PATCH)
    group = max(1, _PATCHES // in_tile)
    patches = group * in_tile
    transformed = workspace.array("winograd in", (threads, POSITIONS * position_pitch(patches, channels)), np.float32)
    products = workspace.array("winograd out", (threads, POSITIONS * position_pitch(patches, columns)), np.float32)
    window = workspace.array("winograd window", (threads, POSITIONS * channels), np.float32)
    cells = workspace.array("winograd cells", (threads, 5, patches), np.int64)
    spec = tiles.spec
    _winograd_cpu(
        x, tiles.index, size, spec.stride, spec.offset, weights, bias, nothing, filters.padding, out, residual, add,
        floor, group, transformed, products, window, cells,
    )  # fmt: skip


@njit(nogil=True, error_model="numpy", parallel=True, cache=True)
def _winograd_cpu(
    x: Float32, index: Int32, size: Pair, tile_stride: Pair, offset: Pair, weights: Float32, bias: Float32,
    nothing: Float32, padding: Pair, out: Float32, residual: Float32, add: bool, floor: np.float32, group: int,
    transformed: Float32, products: Float32, window: Float32, cells: Int64,
) -> None:  # fmt: skip
    workers = transformed.shape[0]
    for worker in prange(workers):
        for first in range(worker * group, index.shape[0], workers * group):
            # Where the patches of this group of tiles lie: image, row, column, rows and columns that count.
            patches, places = 0, cells[worker]
            for tile in range(first, min(first + group, index.shape[0])):
                top, left = offset[0] + tile_stride[0] * index[tile, 1], offset[1] + tile_stride[1] * index[tile, 2]
                bottom, right = min(top + size[0], out.shape[1]), min(left + size[1], out.shape[2])
                for i in range(top, bottom, PATCH):
                    for j in range(left, right, PATCH):
                        places[0, patches], places[1, patches], places[2, patches] = index[tile, 0], i, j
                        places[3, patches], places[4, patches] = min(PATCH, bottom - i), min(PATCH, right - j)
                        patches += 1
            winograd_group(
                x, places, patches, weights, bias, nothing, padding, out, residual, add, floor, transformed[worker],
                products[worker], window[worker],
            )  # fmt: skip


@njit(nogil=True, error_model="numpy", cache=True)
def winograd_group(
    x: Float32, places: Int64, patches: int, weights: Float32, bias: Float32, nothing: Float32, padding: Pair,
    out: Float32, residual: Float32, add: bool, floor: np.float32, transformed: Float32, products: Float32,
    window: Float32,
) -> None:  # fmt: skip
    """Some patches of one or more tiles.

    ``places`` (5, patches) int64 holds image, first row and column of each patch in the output, and how many rows and
    columns of it count; it is overwritten. Flat scratch: ``transformed`` for the inputs, ``products`` for the outputs,
    ``window`` for one input at the border.
    """
    _, rows, cols, channels = x.shape
    columns = out.shape[3]
    for slot in range(patches):
        n, top, left = places[0, slot], places[1, slot] - padding[0], places[2, slot] - padding[1]
        if top >= 0 and left >= 0 and top + WINDOW <= rows and left + WINDOW <= cols:
            start = ((n * rows + top) * cols + left) * channels
            transform_input(x.reshape(-1), start, cols * channels, channels, transformed, slot, patches)
        else:
            copy_window(x, n, top, left, WINDOW, WINDOW, window, WINDOW)
            transform_input(window, 0, WINDOW * channels, channels, transformed, slot, patches)
        places[0, slot] = ((n * out.shape[1] + places[1, slot]) * out.shape[2] + places[2, slot]) * columns
    multiply_positions(transformed, weights, nothing, patches, channels, columns, places[1:3], products)
    for slot in range(patches):
        transform_output(
            products, slot, patches, bias, columns, out.reshape(-1), places[0, slot], out.shape[2] * columns,
            places[3, slot], places[4, slot], residual, add, floor,
        )  # fmt: skip
