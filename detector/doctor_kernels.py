"""Checks of the kernels: every operation of the kernel table against its NumPy reference, on this very machine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from detector.doctor import Finding, State
from kernels.op import Exact, Op
from kernels.tiles import ActiveTiles

SEED = 0
Place = Callable[[Any], Any]


def check_kernels(config: str) -> Iterator[Finding]:
    """The self-test on the CPU, and on the GPU where Numba can use one."""
    from kernels.jit import cache_folder
    from kernels.launch import SIMULATED, cuda, to_device, to_host
    from kernels.table import OPS

    advice = (
        f"delete {cache_folder()} and try again; if it stays, results here cannot be trusted: "
        "pip install --upgrade numba, and report it"
    )
    yield from self_test(OPS, "CPU", lambda value: value, lambda value: value, advice)
    if cuda.is_available() and not SIMULATED:
        yield from self_test(OPS, "GPU", to_device, to_host, "use --device cpu, update driver and numba-cuda")


def self_test(ops: tuple[Op, ...], where: str, place: Place, fetch: Place, advice: str) -> Iterator[Finding]:
    """A finding per operation that is wrong, or one for all that are right.

    Args:
        ops: of the kernel table.
        where: what they run on, in words.
        place: brings an argument there.
        fetch: brings a result back.
        advice: what to do if one is wrong.
    """
    wrong = 0
    for op in ops:
        problem = problem_of(op, place, fetch)
        if problem:
            wrong += 1
            yield Finding("kernels", f"{op.name}, {where}", problem, State.FAILURE, advice)
    if not wrong:
        yield Finding("kernels", where, f"{len(ops)} operations give what their references give")


def problem_of(op: Op, place: Place, fetch: Place) -> str | None:
    """What is wrong with an operation on its small example; None if nothing."""
    inputs = op.make_inputs(np.random.default_rng(SEED), "small")
    expected = _arrays(op.reference(**copy.deepcopy(inputs)))
    try:
        found = _arrays(fetch(op.function(**{name: place(copy.deepcopy(value)) for name, value in inputs.items()})))
    except Exception as error:  # compilers and drivers raise what they like
        return f"{type(error).__name__}: {error}"
    if [array.shape for array in found] != [array.shape for array in expected]:
        return f"gives shapes {[array.shape for array in found]}, expected {[array.shape for array in expected]}"
    most = 0.0 if isinstance(op.equality, Exact) else op.equality.tolerance
    off = max(map(_largest_error, found, expected), default=0.0)
    return None if off <= most else f"differs from its reference by {off:.2g}, expected at most {most:.2g}"


def _largest_error(found: Any, expected: Any) -> float:
    """Largest |a - b| / max(1, |b|), as the table's tolerances are meant; infinite where one is NaN."""
    wanted = np.asarray(expected, np.float64)
    error = np.abs(np.asarray(found, np.float64) - wanted) / np.maximum(1, np.abs(wanted))
    return float(np.nan_to_num(error, nan=np.inf).max()) if error.size else 0.0


def _arrays(result: Any) -> tuple[Any, ...]:
    """The arrays inside a result."""
    if isinstance(result, ActiveTiles):
        return (result.index,)
    return result if isinstance(result, tuple) else (result,)


def check_threading_layer(config: str) -> Iterator[Finding]:
    """What Numba runs threads with; known once a kernel has run on several."""
    import numba

    try:
        layer = numba.threading_layer()
    except ValueError:
        return
    if layer == "workqueue":
        advice = "two threads that each run a pipeline end the process: install OpenMP (libgomp1) or pip install tbb"
        yield Finding("kernels", "threading layer", layer, State.WARNING, advice)
    else:
        yield Finding("kernels", "threading layer", layer)
