"""`tile_conv` on CUDA: float16 with float32 sums on tensor cores; float32, and from one to the other, on CUDA cores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kernels.direct import packed
from kernels.filters import Filters
from kernels.launch import SIMULATED, blocks, cuda, stream
from kernels.op import CudaKernel
from kernels.tensor_conv_cuda import (
    CHANNEL_MULTIPLE,
    GEOMETRY_TYPES,
    at,
    cells_of_tile,
    geometry,
    locate,
    pack,
    split,
    tensor_kernel,
)
from kernels.tiles import DeviceTiles


@dataclass(frozen=True)
class Blocking:
    """How a thread block goes about a product in float32.

    Attributes:
        pixels: cells (rows of the product) of a block.
        columns: channels out of a block.
        depth: channels in that are in shared memory at a time.
        cells: of a thread; they are ``pixels // cells`` apart.
        channels: out, of a thread; they are ``columns // channels`` apart, so neighbours write side by side.

    Raises:
        ValueError: if the threads cannot share the loads evenly.
    """

    pixels: int
    columns: int
    depth: int
    cells: int
    channels: int

    def __post_init__(self) -> None:
        lines = {self.depth: self.pixels, self.columns: self.depth}  # of shared memory: how long, how many
        uneven = [long for long, many in lines.items() if self.threads % long or many % (self.threads // long)]
        if uneven or self.threads < self.pixels:
            raise ValueError(f"{self}: {self.threads} threads do not load lines of {list(lines)} numbers evenly")

    @property
    def threads(self) -> int:
        """Threads of a block, at least one for each of its cells."""
        return self.pixels // self.cells * (self.columns // self.channels)


def product(blocking: Blocking) -> Any:
    """A device function that adds the product of what is in shared memory to a thread's sums, kept in registers."""
    depth, cells, channels = blocking.depth, blocking.cells, blocking.channels
    cell_step, channel_step = blocking.pixels // cells, blocking.columns // channels

    @cuda.jit(device=True, inline="always")
    def add_product(sums: Any, inputs: Any, factors: Any) -> None:
        a = cuda.local.array(cells, np.float32)
        b = cuda.local.array(channels, np.float32)
        cell, channel = cuda.threadIdx.x // channel_step, cuda.threadIdx.x % channel_step
        for d in range(depth):
            for i in range(cells):
                a[i] = inputs[at(d), at(cell + i * cell_step)]
            for j in range(channels):
                b[j] = factors[at(d), at(channel + j * channel_step)]
            for i in range(cells):
                for j in range(channels):
                    sums[i, j] += a[i] * b[j]

    return add_product


def float_kernel(blocking: Blocking) -> Any:
    """A kernel whose thread blocks make some cells × some channels at a time.

    Input and weights go through shared memory, the input transposed there: a thread then reads a column of each. A
    thread also looks up where one cell lies. No atomics; a sum runs over taps, then channels.
    """
    pixels, columns, depth, threads = blocking.pixels, blocking.columns, blocking.depth, blocking.threads
    cells, channels = blocking.cells, blocking.channels
    cell_step, channel_step, pitch = pixels // cells, columns // channels, pixels + 1  # odd: fewer bank conflicts
    pixel_step, line_step = threads // depth, threads // columns
    pixel_loads, factor_loads = pixels // pixel_step, depth // line_step
    add_product = product(blocking)

    def kernel(
        x: Any, weights: Any, bias: Any, index: Any, count: Any, cut: Any, conv: Any, maps: Any, residual: Any, out: Any
    ) -> None:
        inputs = cuda.shared.array((depth, pitch), np.float32)
        factors = cuda.shared.array((depth, columns), np.float32)
        source = cuda.shared.array(pixels, np.int32)
        target = cuda.shared.array(pixels, np.int32)
        sums = cuda.local.array((cells, channels), np.float32)
        thread = cuda.threadIdx.x
        a_first, b_first = thread // channel_step, thread % channel_step
        load_pixel, load_channel = thread // depth, thread % depth
        load_line, load_column = thread // columns, thread % columns
        kernel_rows, kernel_cols, _, _, _, phases, relu, add = conv
        height, width = maps[1], maps[2]
        column_blocks = split(out.shape[1] + columns - 1, columns)[0]
        blocks_of_cells = split(count[0] * cells_of_tile(cut, phases) + pixels - 1, pixels)[0]

        for item in range(cuda.blockIdx.x, blocks_of_cells * phases * phases * column_blocks, cuda.gridDim.x):
            block, rest = split(item, phases * phases * column_blocks)
            phase, column = split(rest, column_blocks)
            cell, image, row, col = locate(block * pixels + thread, phase, index, count, cut, conv, maps)
            for i in range(cells):
                for j in range(channels):
                    sums[i, j] = np.float32(0)
            cuda.syncthreads()  # the last item's targets are read
            if thread < pixels:
                target[at(thread)] = cell
            for tap in range(kernel_rows * kernel_cols):
                if thread < pixels:
                    r, s = split(tap, kernel_cols)
                    inside = 0 <= row + r < height and 0 <= col + s < width
                    source[at(thread)] = (image * height + row + r) * width + col + s if inside else -1
                for first in range(0, x.shape[1], depth):
                    cuda.syncthreads()  # sources are there, and all are done with the last chunk
                    for i in range(pixel_loads):
                        pixel, value = load_pixel + i * pixel_step, np.float32(0)
                        if first + load_channel < x.shape[1] and source[at(pixel)] >= 0:
                            value = np.float32(x[at(source[at(pixel)]), at(first + load_channel)])
                        inputs[at(load_channel), at(pixel)] = value
                    for i in range(factor_loads):
                        d, value = load_line + i * line_step, np.float32(0)
                        if first + d < x.shape[1]:
                            value = weights[at(tap + phase), at(first + d), at(column * columns + load_column)]
                        factors[at(d), at(load_column)] = value
                    cuda.syncthreads()
                    add_product(sums, inputs, factors)
            for i in range(cells):
                cell = target[at(a_first + i * cell_step)]
                for j in range(channels):
                    k = column * columns + b_first + j * channel_step
                    if cell >= 0 and k < out.shape[1]:
                        value = sums[i, j] + bias[at(k)]
                        if add:
                            value += np.float32(residual[at(cell), at(k)])
                        if relu:
                            value = max(value, np.float32(0))
                        out[at(cell), at(k)] = value

    kernel.__name__ = f"tile_conv_float32_{pixels}x{columns}"
    return cuda.jit(kernel)


@dataclass(frozen=True)
class Variant:
    """A kernel with the channels out and the threads of its blocks."""

    kernel: Any
    columns: int
    threads: int


_HEAD = Variant(float_kernel(Blocking(128, 8, 16, 8, 1)), 8, 128)  # few channels out, as heads have them
_WIDE = Variant(float_kernel(Blocking(64, 64, 16, 8, 4)), 64, 128)
FLOAT_VARIANTS = (_HEAD, Variant(float_kernel(Blocking(128, 32, 16, 4, 8)), 32, 128), _WIDE)
FROM_HALF_VARIANTS = (_HEAD, _WIDE)  # the middle one would spill registers there
HALF_VARIANTS = (Variant(tensor_kernel(4, 32, 32), 32, 128), Variant(tensor_kernel(4, 64, 32), 64, 128))
# The simulator counts every multiplication, also those with padding.
_SIMULATED_VARIANTS = (
    Variant(float_kernel(Blocking(16, 8, 2, 4, 2)), 8, 16),
    Variant(tensor_kernel(1, 16, 16), 16, 32),
)


def _variant(half: bool, from_half: bool, columns: int) -> Variant:
    """The kernel for so many channels out: on tensor cores, or on others from float16 or float32."""
    if SIMULATED:
        return _SIMULATED_VARIANTS[half]
    variants = HALF_VARIANTS if half else FROM_HALF_VARIANTS if from_half else FLOAT_VARIANTS
    return next((variant for variant in variants if columns <= variant.columns), variants[-1])


def tile_conv_cuda(x: Any, filters: Filters, tiles: DeviceTiles, out: Any, relu: bool, residual: Any | None) -> None:
    """Launches the kernel; arguments as `tile_conv`, which has checked their shapes and dtypes.

    Raises:
        ValueError: if a map is not contiguous, or channels from float16 to float16 are no multiple of 16.
    """
    for name, array in (("x", x), ("out", out), ("residual", residual)):
        if array is not None and not array.is_c_contiguous():
            raise ValueError(f"{name} is not contiguous on the device; expected C order without gaps")
    half, (channels, columns) = x.dtype == out.dtype == np.float16, filters.channels
    if half and (channels % CHANNEL_MULTIPLE or columns % CHANNEL_MULTIPLE):
        raise ValueError(
            f"float16 convolution of {channels} to {columns} channels; expected multiples of {CHANNEL_MULTIPLE} "
            "for the tensor cores: pad maps and filters with zeros"
        )
    weights, bias = packed(filters.packed, "cuda_float16" if half else "cuda_float32", lambda: pack(filters, half))
    variant = _variant(half, x.dtype == np.float16, columns)
    numbers = geometry(tiles.spec, filters, relu, residual is not None, x.shape, out.shape)
    flat = out.reshape(-1, columns)
    added = flat if residual is None else residual.reshape(-1, columns)  # unread without one
    variant.kernel[blocks(), variant.threads, stream()](
        x.reshape(-1, channels), weights, bias, tiles.index, tiles.count, *numbers, added, flat
    )


def _signature(kind: str, out_kind: str) -> str:
    """Argument types of a kernel from maps of one kind to maps of another."""
    x, out, weights = f"{kind}[:,::1]", f"{out_kind}[:,::1]", "float16" if kind == out_kind == "float16" else "float32"
    tiles = "int32[:,::1], int32[::1]"
    return f"void({x}, {weights}[:,:,::1], float32[::1], {tiles}, {GEOMETRY_TYPES}, {out}, {out})"


_FLOAT, _HALF = "float32", "float16"
CUDA_KERNELS = tuple(
    CudaKernel(variant.kernel, _signature(*kinds), variant.threads, tensor_cores=variants is HALF_VARIANTS)
    for kinds, variants in (
        ((_FLOAT, _FLOAT), FLOAT_VARIANTS),
        ((_FLOAT, _HALF), FLOAT_VARIANTS),
        ((_HALF, _FLOAT), FROM_HALF_VARIANTS),
        ((_HALF, _HALF), HALF_VARIANTS),
    )
    for variant in variants
)
