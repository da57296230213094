"""The CUDA kernels of `residual_unit`: a thread block takes a part of a tile through all layers of a unit.

In every layer the part is grown by the halo that the layers after it need; cells outside the map are zero after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import complex128, float32, uint32

from kernels.launch import cuda
from kernels.ptx import (
    PIECE,
    PIECE_HALVES,
    activate_pair,
    commit_copies,
    copy_piece,
    store_pair,
    wait_for_copies,
    wait_for_older_copies,
)
from kernels.tensor_conv_cuda import COLUMN_MULTIPLE, STAGES, at, split, store_output, warp_product
from kernels.tile_conv_cuda import Blocking, product

# Columns of the layer table that kernels walk.
_SIZE, _IN, _OUT, _WEIGHTS, _BIAS = range(5)


def unit_kernel(blocking: Blocking, in_shared: bool) -> Any:
    """A kernel whose thread blocks take a part of a tile through all layers; one part after the other.

    Each layer is a product as in `float_kernel`, on the part grown by the halo that the layers after it need. Its input
    is x or the map of the layer before, its output the other hidden map or the part of ``out``. Hidden maps lie in
    shared memory, or in the block's own line of ``scratch`` where they are too large. No atomics.
    """
    pixels, columns, depth, threads = blocking.pixels, blocking.columns, blocking.depth, blocking.threads
    cells, channels = blocking.cells, blocking.channels
    cell_step, channel_step, pitch = pixels // cells, columns // channels, pixels + 1
    pixel_step, line_step = threads // depth, threads // columns
    pixel_loads, factor_loads = pixels // pixel_step, depth // line_step
    add_product = product(blocking)

    def kernel(
        x: Any, weights: Any, biases: Any, table: Any, scale: Any, shift: Any, index: Any, count: Any, cut: Any,
        conv: Any, scratch: Any, out: Any,
    ) -> None:  # fmt: skip
        inputs = cuda.shared.array((depth, pitch), np.float32)
        factors = cuda.shared.array((depth, columns), np.float32)
        source = cuda.shared.array(pixels, np.int32)
        target = cuda.shared.array(pixels, np.int32)
        sums = cuda.local.array((cells, channels), np.float32)
        hidden = cuda.shared.array(0, float32) if in_shared else scratch[cuda.blockIdx.x]
        thread = cuda.threadIdx.x
        load_pixel, load_channel = thread // depth, thread % depth
        load_line, load_column = thread // columns, thread % columns
        tile_rows, tile_cols, stride_rows, stride_cols, offset_rows, offset_cols, part_rows, part_cols = cut
        images, map_rows, map_cols, halo, activate, relu, second = conv
        parts_across = split(tile_cols + part_cols - 1, part_cols)[0]
        parts = split(tile_rows + part_rows - 1, part_rows)[0] * parts_across

        for item in range(cuda.blockIdx.x, count[0] * parts, cuda.gridDim.x):
            tile, part = split(item, parts)
            part_row, part_col = split(part, parts_across)
            image = index[tile, 0]
            top = np.int32(offset_rows + stride_rows * index[tile, 1] + part_row * part_rows)
            left = np.int32(offset_cols + stride_cols * index[tile, 2] + part_col * part_cols)
            rows = np.int32(min(part_rows, tile_rows - part_row * part_rows))
            cols = np.int32(min(part_cols, tile_cols - part_col * part_cols))
            # Of an image that is not there, no cell is inside.
            bottom = np.int32(map_rows if 0 <= image < images else 0)
            reach = np.int32(halo)
            for layer in range(table.shape[0]):
                size, channels_in, channels_out = table[layer, _SIZE], table[layer, _IN], table[layer, _OUT]
                weights_in, bias_in = table[layer, _WEIGHTS], table[layer, _BIAS]
                padded = np.int32(split(channels_out + COLUMN_MULTIPLE - 1, COLUMN_MULTIPLE)[0] * COLUMN_MULTIPLE)
                reach = np.int32(reach - size // 2)
                height, width = np.int32(rows + 2 * reach), np.int32(cols + 2 * reach)
                read, write = np.int32(0 if layer % 2 else second), np.int32(second if layer % 2 else 0)
                column_blocks = split(channels_out + columns - 1, columns)[0]
                for turn in range(split(height * width + pixels - 1, pixels)[0] * column_blocks):
                    block, column = split(turn, column_blocks)
                    i, j = split(block * pixels + thread, width)
                    row, col = np.int32(top - reach + i), np.int32(left - reach + j)
                    for n in range(cells):
                        for m in range(channels):
                            sums[n, m] = np.float32(0)
                    cuda.syncthreads()  # the last block's targets are read
                    if thread < pixels:
                        inside = i < height and 0 <= row < bottom and 0 <= col < map_cols
                        target[at(thread)] = (image * map_rows + row) * map_cols + col if inside else -1
                    for tap in range(size * size):
                        if thread < pixels:
                            r, s = split(tap, size)
                            row_in, col_in, place = row + r - size // 2, col + s - size // 2, np.int64(-1)
                            if i < height and layer > 0:
                                place = (i + r) * (width + size - 1) + j + s
                            elif i < height and 0 <= row_in < bottom and 0 <= col_in < map_cols:
                                place = (image * map_rows + row_in) * map_cols + col_in
                            source[at(thread)] = place
                        for first in range(0, channels_in, depth):
                            cuda.syncthreads()  # sources and the last layer are there; all are done with the last chunk
                            c = first + load_channel
                            for n in range(pixel_loads):
                                pixel, value = load_pixel + n * pixel_step, np.float32(0)
                                place = np.int64(source[at(pixel)])
                                if place >= 0 and c < channels_in:
                                    if layer > 0:
                                        value = hidden[at(read + place * channels_in + c)]
                                    else:
                                        value = x[at(place), at(c)]
                                        if activate:
                                            value = max(value * scale[at(c)] + shift[at(c)], np.float32(0))
                                inputs[at(load_channel), at(pixel)] = value
                            for n in range(factor_loads):
                                line, value = load_line + n * line_step, np.float32(0)
                                if first + line < channels_in:
                                    line_in = (tap * channels_in + first + line) * padded
                                    value = weights[at(weights_in + line_in + column * columns + load_column)]
                                factors[at(load_line + n * line_step), at(load_column)] = value
                            cuda.syncthreads()
                            add_product(sums, inputs, factors)
                    first_pixel, first_k = thread // channel_step, column * columns + thread % channel_step
                    if layer < table.shape[0] - 1:
                        for n in range(cells):
                            pixel = block * pixels + first_pixel + n * cell_step
                            place = target[at(first_pixel + n * cell_step)]
                            for m in range(channels):
                                k = first_k + m * channel_step
                                value = max(sums[n, m] + biases[at(bias_in + k)], np.float32(0))
                                value = value if place >= 0 else np.float32(0)
                                if pixel < height * width and k < channels_out:
                                    hidden[at(write + pixel * channels_out + k)] = value
                    else:
                        for n in range(cells):
                            place = target[at(first_pixel + n * cell_step)]
                            for m in range(channels):
                                k = first_k + m * channel_step
                                if place >= 0 and k < channels_out:
                                    value = sums[n, m] + biases[at(bias_in + k)] + x[at(place), at(k)]
                                    out[at(place), at(k)] = max(value, np.float32(0)) if relu else value

    kernel.__name__ = f"residual_unit_float32_{pixels}x{columns}_{'shared' if in_shared else 'scratch'}"
    return cuda.jit(kernel)


@cuda.jit(device=True, inline="always")
def store_hidden(maps: Any, element: Any, first: Any, second: Any, inside: Any) -> None:
    """ReLU for two neighbouring channels, zero outside the map, and their store."""
    first = max(first, np.float32(0)) if inside else np.float32(0)
    second = max(second, np.float32(0)) if inside else np.float32(0)
    store_pair(maps, element, first, second)


def tensor_unit_pieces(columns: int, depth: int) -> int:
    """Pieces of shared memory that a kernel of `tensor_unit_kernel` takes besides maps."""
    return STAGES * columns * (depth // PIECE_HALVES + 1)


def tensor_unit_kernel(warps: int, columns: int, depth: int) -> Any:
    """A kernel whose thread blocks take a part of a tile through all layers of a residual unit.

    Maps lie in dynamic shared memory, cells in row-major order, one piece more to a cell than needed against bank
    conflicts: x of the part and its halo, copied there and activated, then the map of each layer, by turns in the first
    and in the second place. A layer is a product as in `tensor_kernel`, but for its input, which matrix instructions
    read where it lies. Weights come through stages as there. No atomics; a sum runs over taps, then channels.
    """
    threads, pixels, pieces, groups = 32 * warps, 16 * warps, depth // PIECE_HALVES, columns // 8
    lines, pitch = threads // pieces, pieces + 1
    column_loads, column_stage = columns // lines, columns * pitch
    column_pieces = tensor_unit_pieces(columns, depth)
    add_product = warp_product(columns, pitch)

    def kernel(
        x: Any, weights: Any, biases: Any, table: Any, scale: Any, shift: Any, index: Any, count: Any, cut: Any,
        conv: Any, out: Any,
    ) -> None:  # fmt: skip
        factors = cuda.shared.array(column_pieces, PIECE)
        maps = cuda.shared.array(0, complex128)  # `PIECE`, as Numba names it
        words = cuda.shared.array(0, uint32)  # the same memory, in pairs of numbers
        sums = cuda.local.array((groups, 4), np.float32)
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        line, piece = cuda.threadIdx.x // pieces, cuda.threadIdx.x % pieces
        b_piece = (lane // 16 * 8 + lane % 8) * pitch + lane // 8 % 2
        tile_rows, tile_cols, stride_rows, stride_cols, offset_rows, offset_cols, part_rows, part_cols = cut
        images, map_rows, map_cols, halo, activate, relu, second = conv
        parts_across = split(tile_cols + part_cols - 1, part_cols)[0]
        parts = split(tile_rows + part_rows - 1, part_rows)[0] * parts_across

        for item in range(cuda.blockIdx.x, count[0] * parts, cuda.gridDim.x):
            tile, part = split(item, parts)
            part_row, part_col = split(part, parts_across)
            image = index[tile, 0]
            top = offset_rows + stride_rows * index[tile, 1] + part_row * part_rows
            left = offset_cols + stride_cols * index[tile, 2] + part_col * part_cols
            rows = min(part_rows, tile_rows - part_row * part_rows)
            cols = min(part_cols, tile_cols - part_col * part_cols)
            bottom = map_rows if 0 <= image < images else 0  # of an image that is not there, no cell is inside
            across, x_pieces = cols + 2 * halo, x.shape[1] // PIECE_HALVES
            cuda.syncthreads()  # the last part's maps are read
            for n in range(cuda.threadIdx.x, (rows + 2 * halo) * across * x_pieces, threads):
                cell, part_piece = split(n, x_pieces)
                i, j = split(cell, across)
                row, col = top - halo + i, left - halo + j
                inside = 0 <= row < bottom and 0 <= col < map_cols
                element = np.int64((image * map_rows + row) * map_cols + col) * x.shape[1] + PIECE_HALVES * part_piece
                copy_piece(maps, cell * (x_pieces + 1) + part_piece, x, element, inside)
            wait_for_copies()
            for n in range(cuda.threadIdx.x, (rows + 2 * halo) * across * x_pieces if activate else 0, threads):
                cell, part_piece = split(n, x_pieces)  # what this thread copied
                i, j = split(cell, across)
                if 0 <= top - halo + i < bottom and 0 <= left - halo + j < map_cols:
                    for w in range(4):
                        place, c = 4 * (cell * (x_pieces + 1) + part_piece) + w, 4 * part_piece + w
                        words[at(place)] = activate_pair(words[at(place)], scale[at(c)], shift[at(c)])
            reach = np.int64(halo)
            for layer in range(table.shape[0]):
                size, channels, channels_out = table[layer, _SIZE], table[layer, _IN], table[layer, _OUT]
                padded = (channels_out + COLUMN_MULTIPLE - 1) // COLUMN_MULTIPLE * COLUMN_MULTIPLE
                reach -= size // 2
                height, width = rows + 2 * reach, cols + 2 * reach
                across, cell_pieces = width + size - 1, channels // PIECE_HALVES + 1
                read, write = (second, 0) if layer % 2 else (0, second)
                steps = size * size * split(channels + depth - 1, depth)[0]
                column_blocks = split(channels_out + columns - 1, columns)[0]
                for turn in range(split(height * width + pixels - 1, pixels)[0] * column_blocks):
                    block, column = split(turn, column_blocks)
                    # Beyond the last cell it is taken again, and its sums are dropped.
                    i, j = split(min(block * pixels + warp * 16 + lane % 16, height * width - 1), width)
                    a_piece = read + (i * across + j) * cell_pieces + lane // 16
                    for n in range(groups):
                        for e in range(4):
                            sums[n, e] = np.float32(0)
                    factor = table[layer, _WEIGHTS] + (column * columns + line) * channels
                    c, s, tap_piece, c_now, fill, use = 0, 0, 0, 0, 0, 0
                    for step in range(1 - STAGES, steps):
                        if step >= 0:
                            wait_for_older_copies()
                        cuda.syncthreads()  # stage and maps are there; all are done with the stage to be filled
                        if step + STAGES - 1 < steps:
                            channel, to = c + PIECE_HALVES * piece, fill * column_stage + line * pitch + piece
                            for n in range(column_loads):
                                element = np.int64(factor + n * lines * channels) + channel
                                copy_piece(factors, to + n * lines * pitch, weights, element, channel < channels)
                            fill = fill + 1 if fill + 1 < STAGES else 0
                            c += depth
                            if c >= channels:
                                c, factor = 0, factor + padded * channels
                        commit_copies()
                        if step >= 0:
                            a_start = a_piece + tap_piece * cell_pieces + c_now // PIECE_HALVES
                            b_start = use * column_stage + b_piece
                            for k in range(depth // 16):
                                if c_now + 16 * k < channels:
                                    add_product(sums, maps, a_start + 2 * k, factors, b_start + 2 * k)
                            use = use + 1 if use + 1 < STAGES else 0
                            c_now += depth
                            if c_now >= channels:
                                c_now, s, tap_piece = 0, s + 1, tap_piece + 1
                                if s == size:
                                    s, tap_piece = 0, tap_piece + across - size
                    bias, first_k = table[layer, _BIAS], column * columns + 2 * (lane % 4)
                    pixel = block * pixels + warp * 16 + lane // 4
                    (i, j), (i_low, j_low) = split(pixel, width), split(pixel + 8, width)
                    i, j, i_low, j_low = top - reach + i, left - reach + j, top - reach + i_low, left - reach + j_low
                    upper = (image * map_rows + i) * map_cols + j if 0 <= i < bottom and 0 <= j < map_cols else -1
                    lower = (image * map_rows + i_low) * map_cols + j_low
                    lower = lower if 0 <= i_low < bottom and 0 <= j_low < map_cols else -1
                    upper_there, lower_there = pixel < height * width, pixel + 8 < height * width
                    if layer < table.shape[0] - 1:
                        to = PIECE_HALVES * (write + pixel * (channels_out // PIECE_HALVES + 1))
                        to_low = to + 8 * (channels_out + PIECE_HALVES)
                        for n in range(groups):
                            k = first_k + 8 * n
                            b0, b1 = biases[at(bias + k)], biases[at(bias + k + 1)]
                            if upper_there and k < channels_out:
                                store_hidden(maps, to + k, sums[n, 0] + b0, sums[n, 1] + b1, upper >= 0)
                            if lower_there and k < channels_out:
                                store_hidden(maps, to_low + k, sums[n, 2] + b0, sums[n, 3] + b1, lower >= 0)
                    else:
                        upper, lower = upper if upper_there else -1, lower if lower_there else -1
                        for n in range(groups):
                            k = first_k + 8 * n
                            b0, b1 = biases[at(bias + k)], biases[at(bias + k + 1)]
                            store_output(out, upper, k, sums[n, 0] + b0, sums[n, 1] + b1, x, True, relu)
                            store_output(out, lower, k, sums[n, 2] + b0, sums[n, 3] + b1, x, True, relu)

    kernel.__name__ = f"residual_unit_float16_{pixels}x{columns}"
    return cuda.jit(kernel)
