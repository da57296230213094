"""Winograd's F(4×4, 3×3): a 3×3 convolution with stride 1 at a quarter of the multiplications.

Equation, for each 4×4 patch of the output and the 6×6 cells d of the input around it, ∘ element by element::

    patch = Aᵀ [ sum over channels of (G g Gᵀ) ∘ (Bᵀ d B) ] A

(Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, with the points 0, ±1, ±2). The sum
over channels makes 36 independent matrix products, one per position, over all patches at once. In float32 the result
is off by about 5e-6 of the largest value. The transforms are written in LLVM's language, a vector of channels at a
time, because Numba leaves them scalar.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.jit import cpu_kernel
from kernels.microkernel import LANES, Vectors, multiply_cells, pack_columns

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

PATCH = 4  # cells of a patch's side
WINDOW = 6  # cells of its input's side
POSITIONS = WINDOW * WINDOW

_G = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6],
     [1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
)  # fmt: skip
_INT = ir.IntType(64)


def pack_winograd(weights: Float32) -> Float32:
    """G g Gᵀ of (3, 3, C, K) weights, packed for `multiply_cells`: (36, numbers of one position)."""
    transformed = np.einsum("ir,js,rsck->ijck", _G, _G, weights.astype(np.float64))
    return pack_columns(transformed.reshape(POSITIONS, 1, *weights.shape[2:]).astype(np.float32))


def _input_line(v: Vectors, d: Sequence[Any]) -> list[Any]:
    """Bᵀ times six vectors."""
    even, odd = v.scaled(d[2], -4, d[4]), v.scaled(d[1], -4, d[3])
    even2, odd2 = v.builder.fsub(d[4], d[2]), v.builder.fsub(d[3], d[1])
    first = v.scaled(d[0], 4, v.scaled(d[2], -5, d[4]))
    last = v.scaled(d[1], 4, v.scaled(d[3], -5, d[5]))
    sums = [v.builder.fadd(even, odd), v.builder.fsub(even, odd)]
    return [first, *sums, v.scaled(odd2, 2, even2), v.scaled(odd2, -2, even2), last]


def _output_line(v: Vectors, m: Sequence[Any]) -> list[Any]:
    """Aᵀ times six vectors."""
    add, subtract = v.builder.fadd, v.builder.fsub
    sum1, difference1 = add(m[1], m[2]), subtract(m[1], m[2])
    sum2, difference2 = add(m[3], m[4]), subtract(m[3], m[4])
    return [
        add(add(m[0], sum1), sum2),
        v.scaled(difference2, 2, difference1),
        v.scaled(sum2, 4, sum1),
        add(v.scaled(difference2, 8, difference1), m[5]),
    ]


@intrinsic
def _transform_input_lanes(typing, x, at, row_pitch, cell_pitch, left, v, v_at, v_step):  # type: ignore[no-untyped-def]
    """Bᵀ d B of one window for one vector of channels; ``left`` of them exist."""
    number = types.intp
    signature = types.void(x, number, number, number, number, v, number, number)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vectors, kinds = Vectors(context, builder), signature.args
        _, at, row_pitch, cell_pitch, left, _, v_at, v_step = values
        mask = vectors.lanes_below(left)
        source = vectors.pointer(kinds[0], values[0], at)
        target = vectors.pointer(kinds[5], values[5], v_at)
        columns = []
        for j in range(WINDOW):
            steps = [
                builder.add(builder.mul(row_pitch, _INT(i)), builder.mul(cell_pitch, _INT(j))) for i in range(WINDOW)
            ]
            columns.append(_input_line(vectors, [vectors.load_masked(source, step, mask) for step in steps]))
        for i in range(WINDOW):
            for j, value in enumerate(_input_line(vectors, [column[i] for column in columns])):
                vectors.store_masked(value, target, builder.mul(v_step, _INT(i * WINDOW + j)), mask)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _transform_output_lanes(  # type: ignore[no-untyped-def]
    typing,
    m,
    m_at,
    m_step,
    bias,
    column,
    left,
    out,
    out_at,
    row_pitch,
    cell_pitch,
    rows,
    cols,
    residual,
    add,
    floor,
):
    """Aᵀ m A of one patch for one vector of columns, with all that follows; ``left`` columns exist."""
    number = types.intp
    signature = types.void(
        m, number, number, bias, number, number, out, number, number, number, number, number, residual, types.boolean,
        floor,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vectors, kinds = Vectors(context, builder), signature.args
        _, m_at, m_step, _, column, left, _, out_at, row_pitch, cell_pitch, rows, cols, _, add, floor = values
        mask = vectors.lanes_below(left)
        source = vectors.pointer(kinds[0], values[0], m_at)
        lines = []
        for j in range(WINDOW):
            steps = [builder.mul(m_step, _INT(i * WINDOW + j)) for i in range(WINDOW)]
            lines.append(_output_line(vectors, [vectors.load_masked(source, step, mask) for step in steps]))
        target = vectors.pointer(kinds[6], values[6], out_at)
        more = vectors.pointer(kinds[12], values[12], out_at)
        shift = vectors.load(vectors.pointer(kinds[3], values[3], column), _INT(0))
        lowest = vectors.splat(floor)
        nothing = ir.Constant(mask.type, [False] * LANES)
        for i in range(PATCH):
            for j, value in enumerate(_output_line(vectors, [line[i] for line in lines])):
                inside = builder.and_(builder.icmp_signed("<", _INT(i), rows), builder.icmp_signed("<", _INT(j), cols))
                step = builder.add(builder.mul(row_pitch, _INT(i)), builder.mul(cell_pitch, _INT(j)))
                written = builder.select(inside, mask, nothing)
                read = builder.select(builder.and_(inside, add), mask, nothing)
                total = builder.fadd(builder.fadd(value, shift), vectors.load_masked(more, step, read))
                vectors.store_masked(vectors.call("maxnum", total, lowest), target, step, written)
        return context.get_dummy_value()

    return signature, generate


@cpu_kernel()
def position_pitch(patches: int, channels: int) -> int:
    """Numbers from one position to the next; inside (patches, channels).

    Padded, because 36 addresses a power of two apart would fight for the same few lines of the cache.
    """
    return patches * channels + LANES


@cpu_kernel()
def transform_input(x: Float32, at: int, row_pitch: int, channels: int, v: Float32, slot: int, patches: int) -> None:
    """Bᵀ d B of the window that begins at ``x[at]``, as patch ``slot`` of v, laid out as `position_pitch` says."""
    pitch = position_pitch(patches, channels)
    for c in range(0, channels, LANES):
        _transform_input_lanes(x, at + c, row_pitch, channels, channels - c, v, slot * channels + c, pitch)


@cpu_kernel()
def transform_output(
    m: Float32, slot: int, patches: int, bias: Float32, columns: int, out: Float32, at: int, row_pitch: int,
    rows: int, cols: int, residual: Float32, add: bool, floor: float,
) -> None:  # fmt: skip
    """Aᵀ m A of patch ``slot`` of m, laid out as `position_pitch` says, plus bias, residual and floor.

    Its first ``rows`` × ``cols`` cells are written to ``out[at]`` and on; the residual is read at the same places.
    """
    pitch = position_pitch(patches, columns)
    for k in range(0, columns, LANES):
        _transform_output_lanes(
            m, slot * columns + k, pitch, bias, k, columns - k, out, at + k, row_pitch, columns,
            rows, cols, residual, add, np.float32(floor),
        )  # fmt: skip


@cpu_kernel()
def multiply_positions(
    v: Float32, u: Float32, nothing: Float32, patches: int, channels: int, columns: int, cells: Int64, m: Float32
) -> None:
    """M = v times u at each of the 36 positions.

    Args:
        v: transformed inputs, flat.
        u: (36, numbers of one position), from `pack_winograd`.
        nothing: zeros in place of a bias.
        patches: how many.
        channels: C.
        columns: K.
        cells: (2, at least patches) int64 scratch.
        m: products, flat, written.
    """
    for slot in range(patches):
        cells[0, slot], cells[1, slot] = slot * channels, slot * columns
    tap = cells[0, :1]  # a single tap, at 0
    v_pitch, m_pitch = position_pitch(patches, channels), position_pitch(patches, columns)
    for position in range(POSITIONS):
        source = v[position * v_pitch : (position + 1) * v_pitch]
        target = m[position * m_pitch : (position + 1) * m_pitch]
        multiply_cells(
            source, cells[0], patches, tap, channels, u[position], 0, nothing, columns, target, cells[1], target,
            False, -np.inf,
        )  # fmt: skip
