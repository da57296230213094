"""Durations of calls: alone, in turns with others, and of a reference that may take too long."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import RoadblocksError
from kernels.table import OPS

Call = Callable[[], Any]
MOST_CALLS = 2000  # of one measurement


def call_ms(call: Call) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def durations_ms(call: Call, seconds: float, least: int = 5) -> NDArray[np.float64]:
    """Milliseconds of as many calls as fit into ``seconds``, ``least`` at least, after one that does not count."""
    call()
    times: list[float] = []
    while len(times) < least or (sum(times) < seconds * 1e3 and len(times) < MOST_CALLS):
        times.append(call_ms(call))
    return np.array(times)


def in_turns_ms(calls: Sequence[Call], rounds: int) -> NDArray[np.float64]:
    """(rounds, calls) milliseconds: A B A B, so that a change of the machine's mood meets all of them."""
    for call in calls:
        call()
    return np.array([[call_ms(call) for call in calls] for _ in range(rounds)])


def reference_ms(name: str, scale: str, limit_s: float) -> float | None:
    """Milliseconds of one run of an op's reference in a process of its own; None where it takes longer than allowed.

    Raises:
        RoadblocksError: if the process ends without an answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_reference, args=(theirs, name, scale), daemon=True)
    process.start()
    theirs.close()
    try:
        ours.recv()  # its inputs are made
        return float(ours.recv()) if ours.poll(limit_s) else None
    except EOFError as error:
        raise RoadblocksError(f"{name}: the reference failed; what it said is above") from error
    finally:
        process.kill()
        process.join()


def _run_reference(connection: Connection, name: str, scale: str) -> None:
    op = next(op for op in OPS if op.name == name)
    inputs = op.make_inputs(np.random.default_rng(0), scale)
    connection.send("ready")
    connection.send(call_ms(lambda: op.reference(**inputs)))
