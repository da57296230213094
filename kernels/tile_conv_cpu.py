"""`tile_conv` on the CPU: in Winograd's domain for 3×3 with stride 1, else directly (`kernels.direct`).

For an input of few numbers other than zero there is a third method (`kernels.nonzero`).

Both read the input where it lies and copy only at the map's border, where zeros must stand beside it. A thread takes
every n-th group of tiles and has scratch of its own.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.direct import copy_window, packed, run_direct
from kernels.filters import Filters
from kernels.jit import cpu_kernel
from kernels.microkernel import pack_bias
from kernels.nonzero import run_nonzero
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

METHODS = ("auto", "direct", "winograd", "nonzero")
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
    if method == "nonzero" and filters.transposed:
        raise ValueError("a transposed convolution has no method 'nonzero'; expected direct or auto")
    whole = all(size % PATCH == 0 for size in tiles.spec.size)
    if method == "auto":
        return "winograd" if fits and whole and min(filters.channels) >= PATCH else "direct"
    return method


def tile_conv_cpu(
    x: Float32, filters: Filters, tiles: ActiveTiles, out: Float32, relu: bool, residual: Float32 | None,
    method: str, workspace: Workspace,
) -> None:  # fmt: skip
    """Runs the method; arguments as `tile_conv`, which has checked them."""
    run = {"winograd": _run_winograd, "nonzero": run_nonzero, "direct": run_direct}[pick_method(filters, tiles, method)]
    add = residual is not None
    flat = residual.reshape(-1) if residual is not None else out.reshape(-1)
    run(x, filters, tiles, out, flat, add, np.float32(0 if relu else -np.inf), workspace)


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


@cpu_kernel(parallel=True)
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


@cpu_kernel()
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
