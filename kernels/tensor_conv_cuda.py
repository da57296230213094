"""Convolution as a matrix product on CUDA: which cells a product has as its rows, and the product on tensor cores.

A convolution over active tiles is a product of two matrices that nobody writes down (*implicit GEMM*): a row for every
output cell, a column for every output channel, and a sum over kernel cells (*taps*) and input channels. The rows of
one product come from all active tiles, one tile's cells after the other's in row-major order, so that thread blocks
are full whatever the size of a tile. A transposed convolution is ``stride²`` 1×1 products: output cells with the same
(i % stride, j % stride), their *phase*, share their weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.filters import Filters
from kernels.launch import cuda
from kernels.ptx import (
    PIECE,
    PIECE_HALVES,
    commit_copies,
    copy_piece,
    load_matrices,
    multiply_matrices,
    store_pair,
    wait_for_older_copies,
)
from kernels.tiles import TileSpec

Int32s = tuple[np.int32, ...]
# Kernel arguments: the cut into tiles, the convolution, the maps; `geometry` names their numbers.
GEOMETRY_TYPES = "UniTuple(int32, 6), UniTuple(int32, 8), UniTuple(int32, 5)"
CHANNEL_MULTIPLE = 16  # of the float16 kernels: what one matrix instruction takes
COLUMN_MULTIPLE = 64  # packed weights are padded with zeros to that many output channels
at = np.uint64  # for an index: signed ones cost a test for counting from the end
STAGES = 3  # of shared memory: one is multiplied while two are on their way
_OUTSIDE = -(1 << 15)  # a row that no tap brings back into the map


def geometry(
    spec: TileSpec, filters: Filters, relu: bool, add: bool, shape: tuple[int, ...], out_shape: tuple[int, ...]
) -> tuple[Int32s, Int32s, Int32s]:
    """The numbers that kernels want, as they unpack them; shapes are (N, rows, cols, channels)."""
    rows, cols = (1, 1) if filters.transposed else filters.weights.shape[:2]
    stride, phases = (1, filters.stride) if filters.transposed else (filters.stride, 1)
    cut = (*spec.size, *spec.stride, *spec.offset)
    conv = (rows, cols, stride, *filters.padding, phases, relu, add)
    maps = (*shape[:3], *out_shape[1:3])
    return tuple(map(np.int32, cut)), tuple(map(np.int32, conv)), tuple(map(np.int32, maps))


@cuda.jit(device=True, inline="always")
def split(number: Any, divisor: Any) -> Any:
    """``divmod`` of two numbers in 0 … 2³² - 1, in 32 bits: Numba would take 64, which GPUs divide slowly."""
    quotient = np.int32(np.uint32(number) // np.uint32(divisor))
    return quotient, np.int32(number - quotient * divisor)


@cuda.jit(device=True, inline="always")
def cells_of_tile(cut: Any, phases: Any) -> Any:
    """Output cells of one phase in a tile, the last of them outside it where phases do not divide its size."""
    return split(cut[0] + phases - 1, phases)[0] * split(cut[1] + phases - 1, phases)[0]


@cuda.jit(device=True, inline="always")
def locate(number: Any, phase: Any, index: Any, count: Any, cut: Any, conv: Any, maps: Any) -> Any:
    """Where a row of the product lies: cell ``number`` of those cells of all active tiles that are of a phase.

    Returns:
        Its number in the output map, images stacked, -1 if it lies outside; its image; row and column in the input
        map of what the first tap reads.
    """
    size_rows, size_cols, stride_rows, stride_cols, offset_rows, offset_cols = cut
    _, _, stride, padding_rows, padding_cols, phases, _, _ = conv
    images, _, _, rows, cols = maps
    tile, cell = split(number, cells_of_tile(cut, phases))
    if tile >= count[0]:
        return np.int32(-1), np.int32(0), np.int32(_OUTSIDE), np.int32(0)
    i, j = split(cell, split(size_cols + phases - 1, phases)[0])
    image, row, col = index[tile, 0], index[tile, 1] * stride_rows, index[tile, 2] * stride_cols
    row, col = row + offset_rows, col + offset_cols
    if phases > 1:
        phase_row, phase_col = split(phase, phases)
        i, j = i * phases + (phase_row - row) % phases, j * phases + (phase_col - col) % phases
    row, col = row + i, col + j
    inside = i < size_rows and j < size_cols and 0 <= row < rows and 0 <= col < cols
    if not inside or image < 0 or image >= images:
        return np.int32(-1), np.int32(0), np.int32(_OUTSIDE), np.int32(0)
    place = (image * rows + row) * cols + col
    if phases > 1:
        row, col = split(row, phases)[0], split(col, phases)[0]
    row, col = row * stride - padding_rows, col * stride - padding_cols
    return np.int32(place), np.int32(image), np.int32(row), np.int32(col)


def pack(filters: Filters, half: bool) -> tuple[Any, Any]:
    """Weights on the device, (taps, C, K) float32 or (taps, K, C) float16, and bias (K,) float32; K padded."""
    rows, cols, channels, columns = filters.weights.shape
    padding = -columns % COLUMN_MULTIPLE
    weights = np.pad(filters.weights.reshape(rows * cols, channels, columns), [(0, 0), (0, 0), (0, padding)])
    if half:
        weights = weights.transpose(0, 2, 1).astype(np.float16)
    return cuda.to_device(np.ascontiguousarray(weights)), cuda.to_device(np.pad(filters.bias, (0, padding)))


@cuda.jit(device=True, inline="always")
def store_output(out: Any, cell: Any, k: Any, first: Any, second: Any, residual: Any, add: Any, relu: Any) -> None:
    """Residual and ReLU for two neighbouring channels, and their store, unless the cell is -1 or k is padding."""
    if cell >= 0 and k < out.shape[1]:
        if add:
            first += np.float32(residual[at(cell), at(k)])
            second += np.float32(residual[at(cell), at(k + 1)])
        if relu:
            first, second = max(first, np.float32(0)), max(second, np.float32(0))
        store_pair(out, np.int64(cell) * out.shape[1] + k, first, second)


def warp_product(columns: int, pitch: int) -> Any:
    """A device function that adds a product over 16 channels to a warp's sums: 16 cells × ``columns``.

    Its arguments are sums (columns // 8, 4) of the thread, then for each factor an array of `PIECE` in shared memory
    and the piece that the lane names: of the cell ``lane % 16`` channels 0 or 8 onwards, by ``lane // 16``; of the
    column ``lane // 16 * 8 + lane % 8`` those by ``lane // 8 % 2``. Columns are ``pitch`` pieces apart.
    """

    @cuda.jit(device=True, inline="always")
    def add_product(sums: Any, inputs: Any, a_piece: Any, factors: Any, b_piece: Any) -> None:
        a0, a1, a2, a3 = load_matrices(inputs, a_piece)
        for j in range(columns // 16):
            b0, b1, b2, b3 = load_matrices(factors, b_piece + j * 16 * pitch)
            m, n = 2 * j, 2 * j + 1
            sums[m, 0], sums[m, 1], sums[m, 2], sums[m, 3] = multiply_matrices(
                a0, a1, a2, a3, b0, b1, sums[m, 0], sums[m, 1], sums[m, 2], sums[m, 3]
            )
            sums[n, 0], sums[n, 1], sums[n, 2], sums[n, 3] = multiply_matrices(
                a0, a1, a2, a3, b2, b3, sums[n, 0], sums[n, 1], sums[n, 2], sums[n, 3]
            )

    return add_product


def tensor_kernel(warps: int, columns: int, depth: int) -> Any:
    """A kernel whose thread blocks make 16 × ``warps`` cells × ``columns`` channels, ``depth`` channels at a time.

    A warp has 16 cells and all columns. All threads copy, 16 bytes each: the inputs of the block's cells at one tap
    and the weights that go with them, zeros outside the map. Lines of shared memory are one piece longer than needed,
    so that the eight lines of a matrix lie in different banks. No atomics; a sum runs over taps, then channels.
    """
    threads, pixels, pieces, groups = 32 * warps, 16 * warps, depth // PIECE_HALVES, columns // 8
    lines, pitch = threads // pieces, pieces + 1
    pixel_loads, column_loads = pixels // lines, columns // lines
    pixel_stage, column_stage = pixels * pitch, columns * pitch
    pixel_pieces, column_pieces = STAGES * pixel_stage, STAGES * column_stage
    add_product = warp_product(columns, pitch)

    def kernel(
        x: Any, weights: Any, bias: Any, index: Any, count: Any, cut: Any, conv: Any, maps: Any, residual: Any, out: Any
    ) -> None:
        inputs = cuda.shared.array(pixel_pieces, PIECE)
        factors = cuda.shared.array(column_pieces, PIECE)
        sums = cuda.local.array((groups, 4), np.float32)
        images = cuda.local.array(pixel_loads, np.int32)
        rows = cuda.local.array(pixel_loads, np.int32)
        cols = cuda.local.array(pixel_loads, np.int32)
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        line, piece = cuda.threadIdx.x // pieces, cuda.threadIdx.x % pieces
        a_row, a_piece = warp * 16 + lane % 16, lane // 16
        b_row, b_piece = lane // 16 * 8 + lane % 8, lane // 8 % 2
        kernel_rows, kernel_cols, _, _, _, phases, relu, add = conv
        height, width, channels = maps[1], maps[2], np.int32(x.shape[1])
        steps = kernel_rows * kernel_cols * split(channels + depth - 1, depth)[0]
        column_blocks = split(out.shape[1] + columns - 1, columns)[0]
        blocks_of_cells = split(count[0] * cells_of_tile(cut, phases) + pixels - 1, pixels)[0]

        for item in range(cuda.blockIdx.x, blocks_of_cells * phases * phases * column_blocks, cuda.gridDim.x):
            block, rest = split(item, phases * phases * column_blocks)
            phase, column = split(rest, column_blocks)
            for i in range(pixel_loads):
                where = locate(block * pixels + line + i * lines, phase, index, count, cut, conv, maps)
                images[i], rows[i], cols[i] = where[1] * height, where[2], where[3]
            for j in range(groups):
                for e in range(4):
                    sums[j, e] = np.float32(0)
            factor = phase * weights.shape[1] + column * columns + line
            r, s, c, fill, use = 0, 0, 0, 0, 0
            for step in range(1 - STAGES, steps):
                if step >= 0:
                    wait_for_older_copies()
                cuda.syncthreads()  # this stage is there for all, and all are done with the one to be filled
                if step + STAGES - 1 < steps:
                    channel, to = c + PIECE_HALVES * piece, line * pitch + piece
                    for i in range(pixel_loads):
                        row, col = rows[i] + r, cols[i] + s
                        inside = 0 <= row < height and 0 <= col < width and channel < channels
                        cell = np.int32(np.int32(images[i] + row) * width + col)
                        to_input = fill * pixel_stage + to + i * lines * pitch
                        copy_piece(inputs, to_input, x, cell * channels + channel, inside)
                    for i in range(column_loads):
                        element = np.int32(factor + i * lines) * channels + channel
                        to_factor = fill * column_stage + to + i * lines * pitch
                        copy_piece(factors, to_factor, weights, element, channel < channels)
                    fill = fill + 1 if fill + 1 < STAGES else 0
                    c += depth
                    if c >= channels:
                        c, s, factor = 0, s + 1, factor + weights.shape[1]
                        if s == kernel_cols:
                            r, s = r + 1, 0
                commit_copies()
                if step >= 0:
                    a_start = use * pixel_stage + a_row * pitch + a_piece
                    b_start = use * column_stage + b_row * pitch + b_piece
                    use = use + 1 if use + 1 < STAGES else 0
                    for k in range(depth // 16):
                        add_product(sums, inputs, a_start + 2 * k, factors, b_start + 2 * k)
            upper = locate(block * pixels + warp * 16 + lane // 4, phase, index, count, cut, conv, maps)[0]
            lower = locate(block * pixels + warp * 16 + lane // 4 + 8, phase, index, count, cut, conv, maps)[0]
            for j in range(groups):
                k = column * columns + 8 * j + 2 * (lane % 4)
                b0, b1 = bias[at(k)], bias[at(k + 1)]
                store_output(out, upper, k, sums[j, 0] + b0, sums[j, 1] + b1, residual, add, relu)
                store_output(out, lower, k, sums[j, 2] + b0, sums[j, 3] + b1, residual, add, relu)

    kernel.__name__ = f"tile_conv_float16_{pixels}x{columns}"
    return cuda.jit(kernel)
