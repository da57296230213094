"""Convolution of tiles on the CPU that looks for the numbers that are not zero, for maps that hold few of them.

A BEV grid has some ten thousand numbers other than zero among ten million. So every one of them is taken once and
added, times its weights, to the output cells that see it; the zeros cost a comparison each. The sum of a cell runs
over the input's rows, columns and channels in order, as everywhere on any number of threads.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.jit import cpu_kernel
from kernels.tiles import ActiveTiles
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Pair = tuple[int, int]


def run_nonzero(
    x: Float32, filters: Filters, tiles: ActiveTiles, out: Float32, residual: Float32, add: bool, floor: np.float32,
    workspace: Workspace,
) -> None:  # fmt: skip
    """Convolves; arguments as `kernels.tile_conv_cpu.tile_conv_cpu`."""
    size, spec, threads = tiles.spec.size, tiles.spec, numba.get_num_threads()
    sums = workspace.array("nonzero sums", (threads, size[0], size[1], out.shape[3]), np.float32)
    _nonzero_cpu(
        x, x.view(np.int32), tiles.index, size, spec.stride, spec.offset, filters.weights, filters.bias, filters.stride,
        filters.padding, out, residual.reshape(out.shape), add, floor, sums,
    )  # fmt: skip


@cpu_kernel(parallel=True)
def _nonzero_cpu(
    x: Float32, bits: Int32, index: Int32, size: Pair, tile_stride: Pair, offset: Pair, weights: Float32, bias: Float32,
    stride: int, padding: Pair, out: Float32, residual: Float32, add: bool, floor: np.float32, sums: Float32,
) -> None:  # fmt: skip
    workers = sums.shape[0]
    for worker in prange(workers):
        for tile in range(worker, index.shape[0], workers):
            n = index[tile, 0]
            top, left = offset[0] + tile_stride[0] * index[tile, 1], offset[1] + tile_stride[1] * index[tile, 2]
            bottom, right = min(top + size[0], out.shape[1]), min(left + size[1], out.shape[2])
            top, left = max(top, 0), max(left, 0)
            if top < bottom and left < right:
                _begin(n, top, bottom, left, right, bias, residual, add, sums[worker])
                _add_nonzero(x[n], bits[n], top, bottom, left, right, weights, stride, padding, sums[worker])
                _finish(n, top, bottom, left, right, floor, sums[worker], out)


@cpu_kernel()
def _begin(
    n: int, top: int, bottom: int, left: int, right: int, bias: Float32, residual: Float32, add: bool, sums: Float32
) -> None:
    for i in range(bottom - top):
        for j in range(right - left):
            for k in range(bias.shape[0]):
                sums[i, j, k] = bias[k] + residual[n, top + i, left + j, k] if add else bias[k]


@cpu_kernel()
def _add_nonzero(
    x: Float32, bits: Int32, top: int, bottom: int, left: int, right: int, weights: Float32, stride: int, padding: Pair,
    sums: Float32,
) -> None:  # fmt: skip
    """Adds what the input cells around the tile hold to all output cells of it that see them.

    Whole rows, then whole cells, are passed over by their bits: OR runs on vectors, comparing floats does not.
    """
    rows, cols, _ = x.shape
    height, width = weights.shape[:2]
    first_row, last_row = stride * top - padding[0], stride * (bottom - 1) - padding[0] + height
    first_col, last_col = stride * left - padding[1], stride * (right - 1) - padding[1] + width
    begin, end = max(first_col, 0), min(last_col, cols)
    for row in range(max(first_row, 0), min(last_row, rows)):
        if begin < end and _any_bit(bits[row, begin:end].reshape(-1)):
            for col in range(begin, end):
                if _any_bit(bits[row, col]):
                    _add_cell(
                        x[row, col], row - first_row, col - first_col, bottom - top, right - left, weights, stride, sums
                    )


@cpu_kernel()
def _any_bit(numbers: Int32) -> bool:
    found = np.int32(0)
    for i in range(numbers.shape[0]):
        found |= numbers[i]
    return bool(found != 0)


@cpu_kernel()
def _add_cell(
    cell: Float32, down: int, across: int, tile_rows: int, tile_cols: int, weights: Float32, stride: int, sums: Float32
) -> None:
    """One input cell; output cell (i, j) sees it with kernel cell (down - stride * i, across - stride * j)."""
    height, width, channels, columns = weights.shape
    top, bottom = max(0, (down - height + stride) // stride), min(tile_rows - 1, down // stride)
    left, right = max(0, (across - width + stride) // stride), min(tile_cols - 1, across // stride)
    for c in range(channels):
        if cell[c] != 0:
            for i in range(top, bottom + 1):
                for j in range(left, right + 1):
                    for k in range(columns):
                        sums[i, j, k] += cell[c] * weights[down - stride * i, across - stride * j, c, k]


@cpu_kernel()
def _finish(
    n: int, top: int, bottom: int, left: int, right: int, floor: np.float32, sums: Float32, out: Float32
) -> None:
    for i in range(bottom - top):
        for j in range(right - left):
            for k in range(out.shape[3]):
                out[n, top + i, left + j, k] = max(sums[i, j, k], floor)
