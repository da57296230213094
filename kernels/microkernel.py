"""The arithmetic core of every convolution on the CPU: a matrix product over cells that lie anywhere.

Equation, for cells p, taps t and channels c in, columns k out::

    y[p, k] = bias[k] + residual[out_cell[p] + k] + sum over t, c of x[cell[p] + tap[t] + c] * w[t, c, k]
    out[out_cell[p] + k] = max(y[p, k], floor)

A direct convolution has one tap per kernel cell, a 1×1 convolution and a Winograd product have one. Cells and taps are
offsets into the input, so it is read where it lies, with any stride; so is the output written.

Numba turns no loop nest of ours into code that keeps a block of results in registers, so the inner block is written
in LLVM's language, for vectors as wide as this CPU has. Sums run over t, then c, for every cell alone: which cells
share a block, or a thread, changes no bit of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels.jit import cpu_kernel

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

_FEATURES = llvmlite.binding.get_host_cpu_features()
LANES = 16 if _FEATURES.get("avx512f") else 8 if _FEATURES.get("avx2") else 4
# Sums of a block take cells × vectors registers, its weights one for each vector, its input one: AVX2 has 16 in all.
_CELLS = 4 if LANES == 8 else 8
_VECTORS = 2
COLUMNS = _VECTORS * LANES  # of one panel of packed weights

_FLOAT, _INT, _SHORT = ir.FloatType(), ir.IntType(64), ir.IntType(32)


class Vectors:
    """LLVM instructions on vectors of ``LANES`` floats."""

    def __init__(self, context: Any, builder: Any) -> None:
        self.context, self.builder = context, builder
        self.type = ir.VectorType(_FLOAT, LANES)

    def pointer(self, kind: Any, array: Any, offset: Any) -> Any:
        """Address of a float array's element."""
        data = self.context.make_array(kind)(self.context, self.builder, array).data
        return self.builder.gep(self.builder.bitcast(data, _FLOAT.as_pointer()), [offset])

    def at(self, pointer: Any, index: Any) -> Any:
        """The address some elements further, as that of a vector."""
        return self.builder.bitcast(self.builder.gep(pointer, [index]), self.type.as_pointer())

    def load(self, pointer: Any, index: Any) -> Any:
        """A vector from anywhere."""
        return self.builder.load(self.at(pointer, index), align=4)

    def store(self, value: Any, pointer: Any, index: Any) -> None:
        """A vector to anywhere."""
        self.builder.store(value, self.at(pointer, index), align=4)

    def lanes_below(self, count: Any) -> Any:
        """Mask of the first ``count`` lanes."""
        numbers = ir.VectorType(_SHORT, LANES)
        wanted = self.splat(self.builder.trunc(count, _SHORT), numbers)
        return self.builder.icmp_signed("<", ir.Constant(numbers, list(range(LANES))), wanted)

    def load_masked(self, pointer: Any, index: Any, mask: Any) -> Any:
        """A vector whose other lanes are 0 and stay unread."""
        kinds = [self.type.as_pointer(), _SHORT, mask.type, self.type]
        function = self._declared(f"llvm.masked.load.v{LANES}f32.p0", ir.FunctionType(self.type, kinds))
        return self.builder.call(function, [self.at(pointer, index), _SHORT(4), mask, self.constant(0)])

    def store_masked(self, value: Any, pointer: Any, index: Any, mask: Any) -> None:
        """A vector whose other lanes stay unwritten."""
        kinds = [self.type, self.type.as_pointer(), _SHORT, mask.type]
        function = self._declared(f"llvm.masked.store.v{LANES}f32.p0", ir.FunctionType(ir.VoidType(), kinds))
        self.builder.call(function, [value, self.at(pointer, index), _SHORT(4), mask])

    def splat(self, scalar: Any, kind: Any = None) -> Any:
        """The scalar in every lane of a vector (of floats, unless of another kind)."""
        nothing = ir.Constant(kind or self.type, ir.Undefined)
        lonely = self.builder.insert_element(nothing, scalar, _SHORT(0))
        return self.builder.shuffle_vector(lonely, nothing, ir.Constant(ir.VectorType(_SHORT, LANES), [0] * LANES))

    def constant(self, number: float) -> Any:
        """A number in every lane."""
        return ir.Constant(self.type, [number] * LANES)

    def scaled(self, value: Any, number: float, plus: Any) -> Any:
        """The vector times a number plus a vector, rounded once."""
        return self.call("fma", value, self.constant(number), plus)

    def call(self, name: str, *values: Any) -> Any:
        """An LLVM intrinsic on vectors, such as fma or maxnum."""
        kind = ir.FunctionType(self.type, [self.type] * len(values))
        return self.builder.call(self._declared(f"llvm.{name}.v{LANES}f32", kind), values)

    def _declared(self, name: str, kind: Any) -> Any:
        module = self.builder.module
        return module.globals.get(name) or ir.Function(module, kind, name)

    def loop(self, count: Any, carried: Sequence[Any], body: Callable[[Any, Sequence[Any]], Sequence[Any]]) -> Any:
        """``for i in range(count): carried = body(i, carried)``; count is at least 1."""
        builder = self.builder
        before, head, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("done")
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(_INT)
        values = [builder.phi(value.type) for value in carried]
        results = body(index, values)
        following, last = builder.add(index, _INT(1)), builder.block
        for phi, start, end in [(index, _INT(0), following), *zip(values, carried, results, strict=True)]:
            phi.add_incoming(start, before)
            phi.add_incoming(end, last)
        builder.cbranch(builder.icmp_signed("<", following, count), head, after)
        builder.position_at_end(after)
        return results


def _make_block(vectors: int) -> Any:
    """The equation for ``_CELLS`` cells, and columns in this many vectors."""

    @intrinsic
    def block(  # type: ignore[no-untyped-def]
        typing, x, cell, first, last, tap, channels, w, w_at, bias, column, columns, out, out_cell, residual, add, floor
    ):
        """Cells ``first`` to ``last`` at most; ``columns`` of them count, from ``column`` on; weights at ``w_at``."""
        number = types.intp
        signature = types.void(
            x, cell, number, number, tap, number, w, number, bias, number, number, out, out_cell, residual,
            types.boolean, floor,
        )  # fmt: skip

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            v = Vectors(context, builder)
            _, _, first, last, _, channels, _, w_at, _, column, columns, _, _, _, add, floor = values

            def data(position: int) -> Any:
                return context.make_array(signature.args[position])(context, builder, values[position]).data

            def floats(position: int, offset: Any) -> Any:
                return v.pointer(signature.args[position], values[position], offset)

            # Past the last cell it comes again: computed twice to the same bits, without a second kind of block.
            order = [builder.add(first, _INT(i)) for i in range(_CELLS)]
            order = [builder.select(builder.icmp_signed("<", i, last), i, last) for i in order]
            sources = [builder.load(builder.gep(data(1), [i])) for i in order]
            targets = [builder.add(builder.load(builder.gep(data(12), [i])), column) for i in order]
            # Only the last vector may hold columns that do not exist.
            masks = [v.lanes_below(builder.sub(columns, _INT(i * LANES))) for i in range(vectors)]
            nothing = ir.Constant(masks[0].type, [False] * LANES)
            sums = []
            for target in targets:
                more = floats(13, target)
                for i in range(vectors):
                    added = v.load_masked(more, _INT(i * LANES), builder.select(add, masks[i], nothing))
                    sums.append(builder.fadd(v.load(floats(8, column), _INT(i * LANES)), added))

            inputs = [floats(0, source) for source in sources]
            weights = floats(6, w_at)
            tap_data = data(4)
            taps = builder.extract_value(context.make_array(signature.args[4])(context, builder, values[4]).shape, 0)

            def over_taps(t: Any, sums: Sequence[Any]) -> Sequence[Any]:
                shift = builder.load(builder.gep(tap_data, [t]))
                shifted = [builder.gep(pointer, [shift]) for pointer in inputs]
                panel = builder.gep(weights, [builder.mul(builder.mul(t, channels), _INT(vectors * LANES))])

                def over_channels(c: Any, sums: Sequence[Any]) -> Sequence[Any]:
                    row = builder.mul(c, _INT(vectors * LANES))
                    factors = [v.load(panel, builder.add(row, _INT(i * LANES))) for i in range(vectors)]
                    splats = [v.splat(builder.load(builder.gep(pointer, [c]))) for pointer in shifted]
                    pairs = [(value, factor) for value in splats for factor in factors]
                    return [v.call("fma", *pair, total) for pair, total in zip(pairs, sums, strict=True)]

                results: Sequence[Any] = v.loop(channels, sums, over_channels)
                return results

            sums = v.loop(taps, sums, over_taps)
            lowest = v.splat(floor)
            for p, target in enumerate(targets):
                for i in range(vectors):
                    value = v.call("maxnum", sums[p * vectors + i], lowest)
                    v.store_masked(value, floats(11, target), _INT(i * LANES), masks[i])
            return context.get_dummy_value()

        return signature, generate

    return block


_wide_block, _narrow_block = _make_block(_VECTORS), _make_block(1)


def pack_columns(matrices: Float32) -> Float32:
    """Weights in the order that `multiply_cells` reads: (G, T, C, K) → (G, T * C * columns), columns padded.

    K is cut into panels of ``COLUMNS`` columns, the last one of one vector if that suffices; inside a panel
    (T, C, columns). The padding is 0.
    """
    groups, taps, channels, columns = matrices.shape
    panels = []
    for start in range(0, columns, COLUMNS):
        panel = matrices[..., start : start + COLUMNS]
        width = LANES if panel.shape[3] <= LANES else COLUMNS
        padded = np.zeros((groups, taps, channels, width), np.float32)
        padded[..., : panel.shape[3]] = panel
        panels.append(padded.reshape(groups, -1))
    return np.ascontiguousarray(np.concatenate(panels, axis=1))


def pack_bias(bias: Float32) -> Float32:
    """The bias, padded with 0 to whole panels."""
    return np.pad(bias, (0, -len(bias) % COLUMNS))


@cpu_kernel()
def multiply_cells(
    x: Float32, cell: Int64, count: int, tap: Int64, channels: int, w: Float32, w_at: int, bias: Float32, columns: int,
    out: Float32, out_cell: Int64, residual: Float32, add: bool, floor: float,
) -> None:  # fmt: skip
    """The module's equation for the first ``count`` cells.

    Args:
        x: (X,) float32, the input as flat numbers.
        cell: (P,) int64, where the cells begin in x.
        count: cells, at most P.
        tap: (T,) int64, where the taps begin, from a cell on.
        channels: C, numbers that follow one another at a tap.
        w: flat float32, from ``w_at`` on packed by `pack_columns`.
        w_at: where the weights begin.
        bias: float32, packed by `pack_bias`.
        columns: K.
        out: flat float32; must not be x or, where ``add``, the residual: cells may be computed twice.
        out_cell: (P,) int64, where the cells begin in out and in the residual.
        residual: flat float32, of out's layout; any array without ``add``.
        add: whether the residual is added.
        floor: 0 for ReLU, -inf for none.
    """
    lowest = np.float32(floor)
    for column in range(0, columns, COLUMNS):
        left = columns - column
        at = w_at + tap.shape[0] * channels * column
        for first in range(0, count, _CELLS):
            if left > LANES:
                _wide_block(
                    x, cell, first, count - 1, tap, channels, w, at, bias, column, left, out, out_cell, residual, add,
                    lowest,
                )  # fmt: skip
            else:
                _narrow_block(
                    x, cell, first, count - 1, tap, channels, w, at, bias, column, left, out, out_cell, residual, add,
                    lowest,
                )  # fmt: skip
