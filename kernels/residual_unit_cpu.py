"""`residual_unit` on the CPU: one tile after the other goes through all layers inside the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.direct import copy_window, inner_tile, pack_direct, packed
from kernels.jit import cpu_kernel
from kernels.microkernel import pack_bias
from kernels.tile_conv_cpu import winograd_group
from kernels.tiles import ActiveTiles
from kernels.unit import Unit
from kernels.winograd import PATCH, POSITIONS, pack_winograd, position_pitch
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Pair = tuple[int, int]

# Columns of the layer table that the compiled code walks.
_KERNEL, _IN, _OUT, _WEIGHTS, _SIZE, _BIAS, _WINOGRAD = range(7)


@dataclass(frozen=True)
class _PackedUnit:
    """All layers in three arrays: table (L, 7) int64, weights and biases flat float32; zeros in place of a bias."""

    table: Int64
    weights: Float32
    biases: Float32
    zeros: Float32

    @classmethod
    def of(cls, unit: Unit) -> _PackedUnit:
        table: list[tuple[int, ...]] = []
        weights: list[Float32] = []
        biases: list[Float32] = []
        for layer in unit.layers:
            kernel, _, channels, columns = layer.weights.shape
            winograd = kernel == 3
            numbers = pack_winograd(layer.weights) if winograd else pack_direct(layer)
            starts = (sum(part.size for part in weights), numbers.size, sum(part.size for part in biases))
            table.append((kernel, channels, columns, *starts, winograd))
            weights.append(numbers.ravel())
            biases.append(pack_bias(layer.bias))
        zeros = np.zeros(max(part.size for part in biases), np.float32)
        return cls(np.array(table, np.int64), np.concatenate(weights), np.concatenate(biases), zeros)


def residual_unit_cpu(x: Float32, unit: Unit, tiles: ActiveTiles, out: Float32, workspace: Workspace) -> None:
    """Runs the kernel; arguments as `residual_unit`, which has checked them."""
    code: _PackedUnit = packed(unit.packed, "cpu", lambda: _PackedUnit.of(unit))
    size, halo, threads = tiles.spec.size, unit.halo, numba.get_num_threads()
    window = (size[0] + 2 * halo, size[1] + 2 * halo)
    widest = int(code.table[:, [_IN, _OUT]].max())
    cells = window[0] * window[1]
    patches = -(-window[0] // PATCH) * -(-window[1] // PATCH)
    maps = workspace.array("unit maps", (threads, 2, cells * widest), np.float32)
    pitch = position_pitch(patches, widest)
    transformed = workspace.array("unit winograd", (threads, 2, POSITIONS * pitch), np.float32)
    patch = workspace.array("unit window", (threads, POSITIONS * widest), np.float32)
    numbers = workspace.array("unit cells", (threads, 5, cells), np.int64)
    steps = workspace.array("unit taps", (len(unit.layers), int(code.table[:, _KERNEL].max())), np.int64)
    width = window[1]
    for number, layer in enumerate(unit.layers):
        rows, cols, channels, _ = layer.weights.shape
        steps[number, :rows] = np.arange(rows) * width * channels
        width -= cols - 1
    activate = unit.scale is not None
    scale, shift = (code.zeros if ends is None else ends for ends in (unit.scale, unit.shift))
    spec, floor = tiles.spec, np.float32(0 if unit.relu else -np.inf)
    _residual_unit_cpu(
        x, tiles.index, size, spec.stride, spec.offset, halo, code.table, code.weights, code.biases,
        code.zeros, scale, shift, activate, out, floor, maps, transformed, patch, numbers, steps,
    )  # fmt: skip


@cpu_kernel(parallel=True)
def _residual_unit_cpu(
    x: Float32, index: Int32, size: Pair, tile_stride: Pair, offset: Pair, halo: int, table: Int64, weights: Float32,
    biases: Float32, zeros: Float32, scale: Float32, shift: Float32, activate: bool, out: Float32, floor: np.float32,
    maps: Float32, transformed: Float32, patch: Float32, numbers: Int64, steps: Int64,
) -> None:  # fmt: skip
    workers = maps.shape[0]
    for worker in prange(workers):
        for tile in range(worker, index.shape[0], workers):
            n = index[tile, 0]
            top, left = offset[0] + tile_stride[0] * index[tile, 1], offset[1] + tile_stride[1] * index[tile, 2]
            if top + size[0] <= 0 or left + size[1] <= 0 or top >= x.shape[1] or left >= x.shape[2]:
                continue
            _unit_tile(
                x[n : n + 1], top, left, size, halo, table, weights, biases, zeros, scale, shift, activate,
                out[n : n + 1], floor, maps[worker], transformed[worker], patch[worker], numbers[worker], steps,
            )  # fmt: skip


@cpu_kernel()
def _unit_tile(
    x: Float32, top: int, left: int, size: Pair, halo: int, table: Int64, weights: Float32, biases: Float32,
    zeros: Float32, scale: Float32, shift: Float32, activate: bool, out: Float32, floor: np.float32, maps: Float32,
    transformed: Float32, patch: Float32, numbers: Int64, steps: Int64,
) -> None:  # fmt: skip
    """One tile of one image, whose maps x and out are (1, H, W, C)."""
    _, rows, cols, channels = x.shape
    height, width = size[0] + 2 * halo, size[1] + 2 * halo
    first_row, first_col = top - halo, left - halo
    copy_window(x, 0, first_row, first_col, height, width, maps[0], width)
    if activate:
        window = maps[0, : height * width * channels].reshape(height, width, channels)
        _activate(window, first_row, first_col, rows, cols, scale, shift)
    last = table.shape[0] - 1
    for layer in range(last + 1):
        kernel, columns = table[layer, _KERNEL], table[layer, _OUT]
        source = maps[layer % 2, : height * width * channels].reshape(1, height, width, channels)
        height, width = height - kernel + 1, width - kernel + 1
        first_row, first_col = first_row + kernel // 2, first_col + kernel // 2
        if layer < last:
            target = maps[(layer + 1) % 2, : height * width * columns].reshape(1, height, width, columns)
            place = (0, 0, height, 0, width)
            _convolve(
                source, place, (0, 0), table, layer, weights, biases, zeros, target, maps[0], False, np.float32(0),
                transformed, patch, numbers, steps[layer],
            )  # fmt: skip
            _clear_outside(target, first_row, first_col, rows, cols)
        else:
            place = (0, max(top, 0), min(top + size[0], rows), max(left, 0), min(left + size[1], cols))
            _convolve(
                source, place, (top, left), table, layer, weights, biases, zeros, out, x.reshape(-1), True, floor,
                transformed, patch, numbers, steps[layer],
            )  # fmt: skip
        channels = columns


@cpu_kernel()
def _convolve(
    source: Float32, place: tuple[int, int, int, int, int], shift: Pair, table: Int64, layer: int, weights: Float32,
    biases: Float32, zeros: Float32, target: Float32, residual: Float32, add: bool, floor: np.float32,
    transformed: Float32, patch: Float32, numbers: Int64, steps: Int64,
) -> None:  # fmt: skip
    """One layer: cell (i, j) of the target is the convolution of the source from (i, j) - ``shift`` on."""
    kernel, start = table[layer, _KERNEL], table[layer, _WEIGHTS]
    numbers_here = weights[start : start + table[layer, _SIZE]]
    bias = biases[table[layer, _BIAS] :]
    if table[layer, _WINOGRAD] == 0:
        inner_tile(
            source, place, shift, numbers_here, bias, (kernel, kernel), target, residual, add, floor, numbers,
            steps[:kernel],
        )  # fmt: skip
        return
    patches = 0
    for i in range(place[1], place[2], PATCH):
        for j in range(place[3], place[4], PATCH):
            numbers[0, patches], numbers[1, patches], numbers[2, patches] = 0, i, j
            numbers[3, patches], numbers[4, patches] = min(PATCH, place[2] - i), min(PATCH, place[4] - j)
            patches += 1
    winograd_group(
        source, numbers, patches, numbers_here.reshape(POSITIONS, -1), bias, zeros, shift, target, residual, add,
        floor, transformed[0], transformed[1], patch,
    )  # fmt: skip


@cpu_kernel()
def _activate(window: Float32, top: int, left: int, rows: int, cols: int, scale: Float32, shift: Float32) -> None:
    """Pre-activation inside the map; outside it zeros stay zeros."""
    height, width, channels = window.shape
    for i in range(max(0, -top), min(height, rows - top)):
        for j in range(max(0, -left), min(width, cols - left)):
            cell = window[i, j]
            for c in range(channels):
                value = cell[c] * scale[c] + shift[c]
                cell[c] = value if value > np.float32(0) else np.float32(0)


@cpu_kernel()
def _clear_outside(window: Float32, top: int, left: int, rows: int, cols: int) -> None:
    """Zeros where the next layer must see what lies outside the map."""
    _, height, width, _ = window.shape
    if top >= 0 and left >= 0 and top + height <= rows and left + width <= cols:
        return
    for i in range(height):
        for j in range(width):
            if top + i < 0 or top + i >= rows or left + j < 0 or left + j >= cols:
                window[0, i, j] = 0
