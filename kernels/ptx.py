"""Instructions of NVIDIA GPUs that Numba does not offer, and their emulation where no GPU is.

Each function here is one PTX instruction, called from a `cuda.jit` kernel. Compiled, it is that instruction (LLVM
inline assembly); in Numba's simulator a Python function of the same name moves the same bytes. Names in brackets are
those of NVIDIA's *PTX ISA*, where the layouts below come from. All need compute capability 8.0.

Matrix instructions belong to a *warp*, 32 threads that all have to make the same call together. *Lane* is a thread's
number in its warp, and everywhere below ``row = lane // 4`` and ``pair = 2 * (lane % 4)``.

Shared memory of these instructions is counted in *pieces* of 16 bytes, that is 8 half-precision numbers: both the
copy and the matrix load want addresses that are multiples of 16. An array of `PIECE` has that alignment by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.launch import SIMULATED

PIECE = np.complex128  # any type of 16 bytes: Numba aligns a shared array to the size of its elements
PIECE_HALVES = 8

__all__ = [
    "PIECE",
    "PIECE_HALVES",
    "activate_pair",
    "commit_copies",
    "copy_piece",
    "load_matrices",
    "multiply_matrices",
    "store_pair",
    "wait_for_copies",
    "wait_for_older_copies",
]

if not SIMULATED:
    from llvmlite import ir
    from numba import types
    from numba.cuda.extending import intrinsic

    _I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
    _SHARED, _GLOBAL = 3, 1  # address spaces
    _NOTHING = ir.VoidType()

    def _address(context: Any, builder: Any, kind: Any, array: Any, offset: Any, space: int, unit: int) -> Any:
        """Address of ``offset`` × ``unit`` bytes into an array: 32 bits in shared memory, 64 in global memory."""
        data = context.make_array(kind)(context, builder, array).data
        pointer = builder.addrspacecast(data, ir.PointerType(data.type.pointee, addrspace=space))
        number = _I32 if space == _SHARED else _I64
        distance = builder.trunc(offset, number) if number is _I32 else offset
        return builder.add(builder.ptrtoint(pointer, number), builder.mul(distance, number(unit)))

    def _assemble(builder: Any, result: Any, text: str, constraints: str, args: list[Any], moves: bool) -> Any:
        """One line of PTX; ``moves``: it reads or writes memory, or has to stay in its place."""
        kind = ir.FunctionType(result, [arg.type for arg in args])
        constraints = ",".join(filter(None, [constraints, "~{memory}" if moves else ""]))
        return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=moves), args)

    def _statement(text: str) -> Callable[..., Any]:
        """Code generator of an instruction without operands."""

        def generate(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
            _assemble(builder, _NOTHING, text, "", [], moves=True)
            return context.get_dummy_value()

        return generate

    def _tuple_of(context: Any, builder: Any, kind: Any, struct: Any) -> Any:
        return context.make_tuple(builder, kind, [builder.extract_value(struct, n) for n in range(len(kind))])

    @intrinsic
    def copy_piece(_typing: Any, shared: Any, piece: Any, source: Any, element: Any, inside: Any) -> Any:
        """Starts to copy one piece to shared memory, or to fill it with zeros [cp.async.ca].

        Args:
            shared: array of `PIECE` in shared memory, to be written at ``piece``.
            piece: int64.
            source: contiguous float16 array in global memory.
            element: int64, where in the flat ``source`` the 8 numbers start; a multiple of 8.
            inside: bool; where it is False nothing is read and zeros are written.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            to = _address(context, builder, signature.args[0], args[0], args[1], _SHARED, 16)
            element = builder.select(args[4], args[3], _I64(0))  # an address that may be read, come what may
            start = _address(context, builder, signature.args[2], args[2], element, _GLOBAL, 2)
            count = builder.select(args[4], _I32(16), _I32(0))
            text = "cp.async.ca.shared.global [$0], [$1], 16, $2;"
            _assemble(builder, _NOTHING, text, "r,l,r", [to, start, count], moves=True)
            return context.get_dummy_value()

        return types.void(shared, types.int64, source, types.int64, types.boolean), generate

    @intrinsic
    def commit_copies(_typing: Any) -> Any:
        """Closes a group: the copies that this thread started since the last one [cp.async.commit_group]."""
        return types.void(), _statement("cp.async.commit_group;")

    @intrinsic
    def wait_for_older_copies(_typing: Any) -> Any:
        """Waits for all groups of this thread but the newest [cp.async.wait_group 1]."""
        return types.void(), _statement("cp.async.wait_group 1;")

    @intrinsic
    def wait_for_copies(_typing: Any) -> Any:
        """Waits for all copies of this thread [cp.async.wait_all]."""
        return types.void(), _statement("cp.async.wait_all;")

    @intrinsic
    def load_matrices(_typing: Any, shared: Any, piece: Any) -> Any:
        """Loads four 8×8 matrices of float16 from shared memory into a warp's registers [ldmatrix.x4].

        Args:
            shared: array of `PIECE` in shared memory.
            piece: int64, where a row lies: lane ``8 * m + r`` names row r of matrix m.

        Returns:
            Four uint32, one for each matrix: its elements (row, pair) and (row, pair + 1), the first in the low half.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = _address(context, builder, signature.args[0], args[0], args[1], _SHARED, 16)
            text = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0,$1,$2,$3}, [$4];"
            four = ir.LiteralStructType([_I32] * 4)
            found = _assemble(builder, four, text, "=r,=r,=r,=r,r", [address], moves=True)
            return _tuple_of(context, builder, signature.return_type, found)

        return types.UniTuple(types.uint32, 4)(shared, types.int64), generate

    @intrinsic
    def multiply_matrices(
        _typing: Any, a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any
    ) -> Any:
        """``A @ B + C`` of a warp: A 16×16 and B 16×8 float16, C 16×8 float32 [mma.sync.m16n8k16].

        Args:
            a0: uint32, A at (row, pair) and the column after.
            a1: A at (row + 8, pair).
            a2: A at (row, pair + 8).
            a3: A at (row + 8, pair + 8).
            b0: uint32, B at (pair, row) and the row after: B comes with its columns where A has its rows.
            b1: B at (pair + 8, row).
            c0: float32, C at (row, pair).
            c1: C at (row, pair + 1).
            c2: C at (row + 8, pair).
            c3: C at (row + 8, pair + 1).

        Returns:
            Four float32, the sum where C was.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            text = (
                "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                "{$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};"
            )
            constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)
            four = ir.LiteralStructType([_F32] * 4)
            found = _assemble(builder, four, text, constraints, list(args), moves=False)
            return _tuple_of(context, builder, signature.return_type, found)

        wanted = [types.uint32] * 6 + [types.float32] * 4
        return types.UniTuple(types.float32, 4)(*wanted), generate

    @intrinsic
    def activate_pair(_typing: Any, numbers: Any, scale: Any, shift: Any) -> Any:
        """``relu(numbers * scale + shift)`` of two float16 at once, rounded once [fma.rn.relu.f16x2].

        Args:
            numbers: uint32 of two float16; so are the others.
            scale: their factors.
            shift: what is added.

        Returns:
            uint32 of two float16.
        """

        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return _assemble(builder, _I32, "fma.rn.relu.f16x2 $0, $1, $2, $3;", "=r,r,r,r", list(args), moves=False)

        return types.uint32(types.uint32, types.uint32, types.uint32), generate

    @intrinsic
    def store_pair(_typing: Any, array: Any, element: Any, first: Any, second: Any) -> Any:
        """Rounds two numbers to float16 and stores them side by side in one go [cvt.rn.f16x2.f32, st.b32].

        Args:
            array: contiguous, in shared or global memory, of any type.
            element: int64, where the pair starts, counted in halves from the array's start; even.
            first: float32.
            second: float32.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            place = builder.gep(builder.bitcast(data, _I32.as_pointer()), [builder.ashr(args[1], _I64(1))])
            text = "cvt.rn.f16x2.f32 $0, $2, $1;"
            builder.store(_assemble(builder, _I32, text, "=r,f,f", [args[2], args[3]], moves=False), place, align=4)
            return context.get_dummy_value()

        return types.void(array, types.int64, types.float32, types.float32), generate

else:
    import threading

    _creating = threading.Lock()

    class _Warp:
        """32 simulated threads that meet at every matrix instruction; one of them computes for all."""

        def __init__(self) -> None:
            self._given: list[Any] = [None] * 32
            self._found: list[Any] = []
            self._compute: Callable[[list[Any]], list[Any]] = list
            self._meeting = threading.Barrier(32, action=self._run)

        def _run(self) -> None:
            self._found = self._compute(self._given)

        def exchange(self, lane: int, value: Any, compute: Callable[[list[Any]], list[Any]]) -> Any:
            """Hands in a lane's value; ``compute`` turns the list of all 32 into the list of their results."""
            self._given[lane] = value
            self._compute = compute
            self._meeting.wait(60)
            # The next meeting cannot end before this lane reaches it, so what was found stays until it is read.
            return self._found[lane]

    def _exchange(value: Any, compute: Callable[[list[Any]], list[Any]]) -> Any:
        thread: Any = threading.current_thread()
        number, lane = divmod(thread.thread_id, 32)
        with _creating:
            warps = thread._manager.__dict__.setdefault("warps", {})
            warp = warps.setdefault(number, None) or _Warp()
            warps[number] = warp
        return warp.exchange(lane, value, compute)

    def _halves(array: Any) -> Any:
        """An array's memory as flat float16."""
        array = getattr(array, "_item", array)
        return getattr(array, "_ary", array).reshape(-1).view(np.float16)

    def _groups() -> list[list[tuple[Any, Any]]]:
        """This thread's copies that nobody waited for yet, the open group last."""
        found: list[list[tuple[Any, Any]]] = threading.current_thread().__dict__.setdefault("copies", [[]])
        return found

    def copy_piece(shared: Any, piece: Any, source: Any, element: Any, inside: Any) -> None:
        """Emulation: what is copied arrives when it is waited for, and not before."""
        assert not inside or element % PIECE_HALVES == 0, "a copy's source has to be aligned"
        numbers = _halves(source)[element : element + PIECE_HALVES] if inside else 0
        _groups()[-1].append((_halves(shared)[PIECE_HALVES * piece :][:PIECE_HALVES], numbers))

    def commit_copies() -> None:
        """Emulation."""
        _groups().append([])

    def wait_for_older_copies() -> None:
        """Emulation."""
        groups = _groups()
        for to, numbers in [copy for group in groups[:-2] for copy in group]:
            to[:] = numbers
        del groups[:-2]

    def wait_for_copies() -> None:
        """Emulation."""
        commit_copies()
        commit_copies()
        wait_for_older_copies()

    def load_matrices(shared: Any, piece: Any) -> Any:
        """Emulation."""

        def load(pieces: list[Any]) -> list[Any]:
            rows = _halves(shared).view(np.uint32).reshape(-1, 4)[np.array(pieces, np.int64)]
            return [tuple(rows[lane // 4 :: 8, lane % 4]) for lane in range(32)]

        return _exchange(piece, load)

    def multiply_matrices(
        a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, c0: Any, c1: Any, c2: Any, c3: Any
    ) -> Any:
        """Emulation."""

        def multiply(lanes: list[Any]) -> list[Any]:
            packed = np.array([lane[0] for lane in lanes], np.uint32).view(np.float16).astype(np.float32)
            # (row, pair / 2, quadrant of A or half of B, element of the pair)
            parts = packed.reshape(8, 4, 6, 2)
            a = parts[:, :, :4].reshape(8, 4, 2, 2, 2).transpose(3, 0, 2, 1, 4).reshape(16, 16)
            b = parts[:, :, 4:].transpose(2, 1, 3, 0).reshape(16, 8)
            c = np.array([lane[1] for lane in lanes], np.float32).reshape(8, 4, 2, 2).transpose(2, 0, 1, 3)
            found = a @ b + c.reshape(16, 8)
            return [tuple(four) for four in found.reshape(2, 8, 4, 2).transpose(1, 2, 0, 3).reshape(32, 4)]

        return _exchange(((a0, a1, a2, a3, b0, b1), (c0, c1, c2, c3)), multiply)

    def activate_pair(numbers: Any, scale: Any, shift: Any) -> Any:
        """Emulation: a product of two float16 is exact in float32, and the sum nearly so."""
        x, a, b = np.array([numbers, scale, shift], np.uint32).view(np.float16).astype(np.float32).reshape(3, 2)
        return np.maximum(x * a + b, 0).astype(np.float16).view(np.uint32)[0]

    def store_pair(array: Any, element: Any, first: Any, second: Any) -> None:
        """Emulation."""
        assert element % 2 == 0, "a pair has to be aligned"
        with np.errstate(over="ignore"):  # to infinity, as there
            _halves(array)[element : element + 2] = first, second
