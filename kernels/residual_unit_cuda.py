"""`residual_unit` on CUDA: a thread block takes a part of a tile through all layers, hidden maps in shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float32
from numpy.typing import NDArray

from kernels.launch import SIMULATED, blocks, cuda
from kernels.op import CudaKernel
from kernels.tensor_conv_cuda import COLUMN_MULTIPLE, split
from kernels.tile_conv_cuda import Blocking, at, product
from kernels.tiles import DeviceTiles
from kernels.unit import Unit

Pair = tuple[int, int]
# Columns of the layer table that kernels walk.
_SIZE, _IN, _OUT, _WEIGHTS, _BIAS = range(5)
_PART_CELLS = 16  # along a side of a part, at most
_LEAST_PART_CELLS = 4
_SHARED_FLOATS = 9216  # hidden maps that fit; the rest of 48 KiB is for the product's inputs


@dataclass(frozen=True)
class _Plan:
    """How a tile is cut into parts, and where the hidden maps of a part go.

    Attributes:
        part: rows and columns of a part, halo left out.
        second: where the maps of every second layer start; those of the others start at 0.
        floats: of all hidden maps.
    """

    part: Pair
    second: int
    floats: int

    @classmethod
    def of(cls, unit: Unit, part: Pair) -> _Plan:
        """The plan for parts of a size."""
        sizes, reach = [0, 0], unit.halo
        for number, layer in enumerate(unit.layers[:-1]):
            reach -= layer.padding[0]
            cells = (part[0] + 2 * reach) * (part[1] + 2 * reach)
            sizes[number % 2] = max(sizes[number % 2], cells * layer.channels[1])
        return cls(part, sizes[0], sum(sizes))

    @classmethod
    def best(cls, unit: Unit, tile: Pair, floats: int) -> _Plan:
        """The largest equal parts of a tile whose maps take so many floats; large ones where none are small enough."""
        plans: list[_Plan] = []
        for parts in range(1, max(tile) + 1):
            part = (-(-tile[0] // parts), -(-tile[1] // parts))
            if max(part) <= _PART_CELLS and (min(part) >= _LEAST_PART_CELLS or not plans):
                plans.append(cls.of(unit, part))
        return next((plan for plan in plans if plan.floats <= floats), plans[0])


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
            top = offset_rows + stride_rows * index[tile, 1] + part_row * part_rows
            left = offset_cols + stride_cols * index[tile, 2] + part_col * part_cols
            rows, cols = (
                min(part_rows, tile_rows - part_row * part_rows),
                min(part_cols, tile_cols - part_col * part_cols),
            )
            bottom = map_rows if 0 <= image < images else 0  # of an image that is not there, no cell is inside
            reach = np.int64(halo)
            for layer in range(table.shape[0]):
                size, channels_in, channels_out = table[layer, _SIZE], table[layer, _IN], table[layer, _OUT]
                weights_in, bias_in = table[layer, _WEIGHTS], table[layer, _BIAS]
                padded = (channels_out + COLUMN_MULTIPLE - 1) // COLUMN_MULTIPLE * COLUMN_MULTIPLE
                reach -= size // 2
                height, width = rows + 2 * reach, cols + 2 * reach
                read, write = (0, second) if layer % 2 else (second, 0)
                for step in range(split(height * width + pixels - 1, pixels)[0] * split(padded, columns)[0]):
                    block, column = split(step, split(padded, columns)[0])
                    i, j = split(block * pixels + thread, width)
                    row, col = top - reach + i, left - reach + j
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
                                if pixel < height * width and k < channels_out:
                                    hidden[at(write + pixel * channels_out + k)] = (
                                        value if place >= 0 else np.float32(0)
                                    )
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


_BLOCKINGS = (Blocking(16, 8, 4, 4, 2),) if SIMULATED else (Blocking(128, 32, 16, 4, 8), Blocking(64, 64, 16, 8, 4))
KERNELS = {(blocking, where): unit_kernel(blocking, where) for blocking in _BLOCKINGS for where in (True, False)}


def _padded_work(unit: Unit, part: Pair, blocking: Blocking) -> int:
    """Multiplications of a part, those with padding counted."""
    work, reach = 0, unit.halo
    for layer in unit.layers:
        reach -= layer.padding[0]
        cells = (part[0] + 2 * reach) * (part[1] + 2 * reach)
        size, _, channels, columns = layer.weights.shape
        rounded = -(-cells // blocking.pixels) * -(-columns // blocking.columns)
        work += rounded * blocking.pixels * blocking.columns * size * size * channels
    return work


def _pack(unit: Unit) -> tuple[Any, ...]:
    """Weights and biases of all layers one after the other, the table of layers, scale and shift: on the device."""
    table: list[tuple[int, ...]] = []
    weights: list[NDArray[np.float32]] = []
    biases: list[NDArray[np.float32]] = []
    for layer in unit.layers:
        starts = (sum(part.size for part in weights), sum(part.size for part in biases))
        table.append((layer.weights.shape[0], *layer.channels, *starts))
        padding = -layer.channels[1] % COLUMN_MULTIPLE
        weights.append(np.pad(layer.weights, [(0, 0)] * 3 + [(0, padding)]))
        biases.append(np.pad(layer.bias, (0, padding)))
    nothing = np.zeros(1, np.float32)
    scale, shift = (nothing if array is None else array for array in (unit.scale, unit.shift))
    parts = (np.concatenate([part.ravel() for part in weights]), np.concatenate(biases), np.array(table, np.int32))
    return tuple(cuda.to_device(np.ascontiguousarray(array)) for array in (*parts, scale, shift))


def residual_unit_cuda(x: Any, unit: Unit, tiles: DeviceTiles, out: Any) -> None:
    """Launches the kernel; arguments as `residual_unit`, which has checked their shapes and dtypes.

    Raises:
        ValueError: if a map is not contiguous.
    """
    for name, array in (("x", x), ("out", out)):
        if not array.is_c_contiguous():
            raise ValueError(f"{name} is not contiguous on the device; expected C order without gaps")
    if "cuda_float32" not in unit.packed:
        unit.packed["cuda_float32"] = _pack(unit)
    plan = _Plan.best(unit, tiles.spec.size, _SHARED_FLOATS)
    in_shared = plan.floats <= _SHARED_FLOATS
    blocking = min(_BLOCKINGS, key=lambda blocking: _padded_work(unit, plan.part, blocking))
    spec, flags = tiles.spec, (unit.scale is not None, unit.relu)
    cut = tuple(map(np.int32, (*spec.size, *spec.stride, *spec.offset, *plan.part)))
    conv = tuple(map(np.int32, (*x.shape[:3], unit.halo, *flags, plan.second)))
    KERNELS[blocking, in_shared][blocks(), blocking.threads, 0, max(4 * plan.floats, 4) if in_shared else 0](
        x.reshape(-1, unit.channels), *unit.packed["cuda_float32"], tiles.index, tiles.count, cut, conv,
        _scratch(unit, 1 if in_shared else plan.floats), out.reshape(-1, unit.channels),
    )  # fmt: skip


def _scratch(unit: Unit, floats: int) -> Any:
    """(thread blocks, at least so many) float32 on the device, the same at every call."""
    if "cuda_scratch" not in unit.packed or unit.packed["cuda_scratch"].shape[1] < floats:
        unit.packed["cuda_scratch"] = cuda.device_array((blocks(), floats), np.float32)
    return unit.packed["cuda_scratch"]


_MAPS = "float32[:,::1]"
_SIGNATURE = (
    f"void({_MAPS}, float32[::1], float32[::1], int32[:,::1], float32[::1], float32[::1], int32[:,::1], int32[::1], "
    f"UniTuple(int32, 8), UniTuple(int32, 7), {_MAPS}, {_MAPS})"
)
CUDA_KERNELS = tuple(CudaKernel(kernel, _SIGNATURE, blocking.threads) for (blocking, _), kernel in KERNELS.items())
