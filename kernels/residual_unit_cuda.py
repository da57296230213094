"""`residual_unit` on CUDA: a thread block takes a part of a tile through all layers, hidden maps in shared memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.direct import packed
from kernels.launch import SIMULATED, blocks, cuda, stream
from kernels.op import CudaKernel
from kernels.ptx import PIECE_HALVES
from kernels.tensor_conv_cuda import CHANNEL_MULTIPLE, COLUMN_MULTIPLE
from kernels.tile_conv_cuda import Blocking
from kernels.tiles import DeviceTiles
from kernels.unit import Unit
from kernels.unit_kernels_cuda import tensor_unit_kernel, tensor_unit_pieces, unit_kernel

Pair = tuple[int, int]
_PART_CELLS = 16  # along a side of a part, at most
_GLOBAL_PENALTY = 1.5  # an estimate: what hidden maps in global memory cost, in units of the work
_SHARED_BYTES = 48 * 1024  # of a thread block, without asking the driver for more


@dataclass(frozen=True)
class Variant:
    """A kernel and how it cuts the products.

    Attributes:
        kernel: in float32 the one with hidden maps in shared memory.
        spill: the float32 kernel with hidden maps in global memory; None in float16.
        pixels: cells of a thread block.
        columns: channels out of a thread block.
        threads: of a block.
        bytes: of shared memory that are left for maps.
    """

    kernel: Any
    spill: Any
    pixels: int
    columns: int
    threads: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """How a tile is cut into parts, what runs them, and where the maps of a part go.

    Attributes:
        variant: the kernel.
        part: rows and columns of a part, halo left out.
        second: where every second map starts, in float32 numbers or 16-byte pieces; the others start at 0.
        size: of all maps, likewise.
        work: multiplications for a tile, halo and padding counted.
        in_shared: whether the maps fit shared memory.
    """

    variant: Variant
    part: Pair
    second: int
    size: int
    work: int
    in_shared: bool

    @classmethod
    def of(cls, unit: Unit, tile: Pair, part: Pair, half: bool, variant: Variant) -> Plan:
        """The plan for parts of a size."""
        reach = [sum(layer.padding[0] for layer in unit.layers[number:]) for number in range(len(unit.layers) + 1)]
        cells = [(part[0] + 2 * halo) * (part[1] + 2 * halo) for halo in reach]
        channels = [unit.channels, *[layer.channels[1] for layer in unit.layers]]
        if half:  # x has a map too; a piece more to a cell is against bank conflicts
            maps = [number * (_rounded(k) // PIECE_HALVES + 1) for number, k in zip(cells, channels, strict=True)][:-1]
        else:
            maps = [number * k for number, k in zip(cells, channels, strict=True)][1:-1]
        work = 0
        for number, layer in zip(cells[1:], unit.layers, strict=True):
            products = -(-number // variant.pixels) * -(-layer.channels[1] // variant.columns)
            work += products * variant.pixels * variant.columns * layer.weights[..., 0].size
        first, second = max(maps[::2], default=0), max(maps[1::2], default=0)
        parts = -(-tile[0] // part[0]) * -(-tile[1] // part[1])
        in_shared = (first + second) * (16 if half else 4) <= variant.bytes
        return cls(variant, part, first, first + second, parts * work, in_shared)

    @classmethod
    def best(cls, unit: Unit, tile: Pair, half: bool) -> Plan:
        """The plan with the least work; with maps in global memory it counts more, and float16 needs them in shared.

        Raises:
            ValueError: if in float16 they fit for no size of a part.
        """
        variants = HALF_VARIANTS if half else FLOAT_VARIANTS
        sizes = {(-(-tile[0] // parts), -(-tile[1] // parts)) for parts in range(1, max(tile) + 1)}
        sizes = {size for size in sizes if max(size) <= _PART_CELLS}
        plans = [cls.of(unit, tile, size, half, variant) for size in sorted(sizes) for variant in variants]
        plans = [plan for plan in plans if plan.in_shared or not half]
        if not plans:
            raise ValueError(
                f"float16 residual unit of {unit.channels} channels and a halo of {unit.halo} cells: even one cell's "
                f"maps do not fit {_SHARED_BYTES} bytes of shared memory; run its layers one by one, or in float32"
            )
        return min(plans, key=lambda plan: plan.work * (1 if plan.in_shared else _GLOBAL_PENALTY))


def _rounded(channels: int) -> int:
    """Channels with padding to what a matrix instruction takes."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def _float_variant(blocking: Blocking) -> Variant:
    """A blocking's kernels. Beside maps, shared memory holds the product's inputs and two numbers to a cell."""
    inputs = blocking.depth * (blocking.pixels + 1 + blocking.columns) + 2 * blocking.pixels
    kernels = unit_kernel(blocking, True), unit_kernel(blocking, False)
    return Variant(*kernels, blocking.pixels, blocking.columns, blocking.threads, _SHARED_BYTES - 4 * inputs)


def _half_variant(warps: int, columns: int, depth: int) -> Variant:
    """A tensor-core kernel. Beside maps, shared memory holds the stages of weights."""
    stages = 16 * tensor_unit_pieces(columns, depth)
    kernel = tensor_unit_kernel(warps, columns, depth)
    return Variant(kernel, None, 16 * warps, columns, 32 * warps, _SHARED_BYTES - stages)


FULL_FLOAT_VARIANTS = tuple(map(_float_variant, (Blocking(64, 32, 16, 8, 4), Blocking(64, 64, 16, 8, 4))))
FULL_HALF_VARIANTS = (_half_variant(4, 32, 32), _half_variant(4, 64, 32))
# The simulator counts every multiplication, also those with padding.
FLOAT_VARIANTS = (_float_variant(Blocking(16, 8, 4, 4, 2)),) if SIMULATED else FULL_FLOAT_VARIANTS
HALF_VARIANTS = (_half_variant(1, 16, 16),) if SIMULATED else FULL_HALF_VARIANTS


def fits_half(unit: Unit, tile: Pair) -> bool:
    """Whether a unit can run in float16 on tiles of a size, once its channels are padded to a multiple of 16."""
    try:
        Plan.best(unit, tile, half=True)
    except ValueError:
        return False
    return True


def _pack(unit: Unit, half: bool) -> tuple[Any, ...]:
    """Weights and biases of all layers one after the other, the table of layers, scale and shift: on the device."""
    table: list[tuple[int, ...]] = []
    weights: list[NDArray[Any]] = []
    biases: list[NDArray[np.float32]] = []
    for layer in unit.layers:
        channels, columns = map(_rounded, layer.channels) if half else layer.channels
        starts = (sum(part.size for part in weights), sum(part.size for part in biases))
        table.append((layer.weights.shape[0], channels, columns, *starts))
        padding = (0, -layer.channels[1] % COLUMN_MULTIPLE)
        numbers = np.pad(layer.weights, [(0, 0), (0, 0), (0, channels - layer.channels[0]), padding])
        weights.append(numbers.transpose(0, 1, 3, 2).astype(np.float16) if half else numbers)
        biases.append(np.pad(layer.bias, padding))
    nothing = np.zeros(2, np.float32)
    ends = [nothing if array is None else array for array in (unit.scale, unit.shift)]
    ends = [array.astype(np.float16).view(np.uint32) for array in ends] if half else ends
    flat = np.concatenate([part.ravel() for part in weights])
    return tuple(map(cuda.to_device, (flat, np.concatenate(biases), np.array(table, np.int32), *ends)))


def residual_unit_cuda(x: Any, unit: Unit, tiles: DeviceTiles, out: Any) -> None:
    """Launches the kernel; arguments as `residual_unit`, which has checked their shapes and dtypes.

    Raises:
        ValueError: if a map is not contiguous, or float16 channels are no multiple of 16 or too many.
    """
    for name, array in (("x", x), ("out", out)):
        if not array.is_c_contiguous():
            raise ValueError(f"{name} is not contiguous on the device; expected C order without gaps")
    half, spec = x.dtype == np.float16, tiles.spec
    if half and unit.channels % CHANNEL_MULTIPLE:
        raise ValueError(
            f"float16 residual unit of {unit.channels} channels; expected a multiple of {CHANNEL_MULTIPLE} "
            "for the tensor cores: pad maps and filters with zeros"
        )
    key = f"cuda_{x.dtype}"
    weights = packed(unit.packed, key, lambda: _pack(unit, half))
    plan: Plan = packed(unit.packed, f"{key}_plan_{spec.size}", lambda: Plan.best(unit, spec.size, half))
    variant = plan.variant
    cut = tuple(map(np.int32, (*spec.size, *spec.stride, *spec.offset, *plan.part)))
    conv = tuple(map(np.int32, (*x.shape[:3], unit.halo, unit.scale is not None, unit.relu, plan.second)))
    arguments = [x.reshape(-1, unit.channels), *weights, tiles.index, tiles.count, cut, conv]
    if not half:
        shape = (1, 1) if plan.in_shared else (blocks(), plan.size)
        arguments.append(packed(unit.packed, f"{key}_scratch_{shape}", lambda: cuda.device_array(shape, np.float32)))
    kernel = variant.kernel if plan.in_shared else variant.spill
    shared = max(plan.size, 1) * (16 if half else 4) if plan.in_shared else 0
    kernel[blocks(), variant.threads, stream(), shared](*arguments, out.reshape(-1, unit.channels))


def _signature(kind: str, pair: str, scratch: str) -> str:
    """Argument types of a kernel on maps of a kind, with the type of its scale and shift."""
    return (
        f"void({kind}[:,::1], {kind}[::1], float32[::1], int32[:,::1], {pair}[::1], {pair}[::1], int32[:,::1], "
        f"int32[::1], UniTuple(int32, 8), UniTuple(int32, 7), {scratch}{kind}[:,::1])"
    )


_FLOAT, _HALF = _signature("float32", "float32", "float32[:,::1], "), _signature("float16", "uint32", "")
CUDA_KERNELS = (
    *(CudaKernel(v.kernel, _FLOAT, v.threads) for v in FULL_FLOAT_VARIANTS),
    *(CudaKernel(v.spill, _FLOAT, v.threads) for v in FULL_FLOAT_VARIANTS),
    *(CudaKernel(v.kernel, _HALF, v.threads, tensor_cores=True) for v in FULL_HALF_VARIANTS),
)
