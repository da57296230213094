"""Dense layers at their best: onnxruntime on all cores, in a process of its own.

A process of its own, because its worker threads wait busily and would take the cores from whatever runs beside them.
The layout is as onnxruntime likes it: input and output are NCHW and lie ready in its own memory, so no conversion of
ours and no copy into Python is counted; how it lays out what is between is its affair. Two levels of its
optimisations are tried, with its blocked layout and without, since neither is always ahead; the faster one counts.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import RoadblocksError
from models.dense import import_onnxruntime
from tools.benchmark.dense_unit import INPUT, OUTPUT

Float32 = NDArray[np.float32]

LEVELS = {"blocked": "ORT_ENABLE_ALL", "plain": "ORT_ENABLE_EXTENDED"}
PHASE_S = 0.15  # how long one measurement lasts at least
RUNS = (3, 40)  # fewest and most calls of one measurement


def median_ms(call: Callable[[], Any], seconds: float = PHASE_S) -> float:
    """Median duration of a call [ms], after one that does not count; as many calls as fit, within `RUNS`."""
    times: list[float] = []
    call()
    while len(times) < RUNS[0] or (sum(times) < seconds and len(times) < RUNS[1]):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


class DenseProcess:
    """onnxruntime with one model and one input, waiting in another process; a context manager.

    Args:
        content: ONNX model from `INPUT` to `OUTPUT`, of one shape.
        x: (1, H, W, C) float32 input.

    Attributes:
        level: key of `LEVELS` that is faster here.

    Raises:
        RoadblocksError: if the process ends; what it said is on stderr.
    """

    def __init__(self, content: bytes, x: Float32) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would share this process's threads and locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._connection.send((content, np.ascontiguousarray(x.transpose(0, 3, 1, 2))))
        self.level: str = self._receive()

    def run(self) -> Float32:
        """The output, (1, H, W, C) float32."""
        self._connection.send("run")
        return np.ascontiguousarray(self._receive().transpose(0, 2, 3, 1))

    def median_ms(self) -> float:
        """Median duration of a run [ms]."""
        self._connection.send("median_ms")
        return float(self._receive())

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise RoadblocksError("the process of the dense layers ended; what it said is above") from error

    def __enter__(self) -> DenseProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.close()  # ends the loop on the other side
        self._process.join(10)
        self._process.kill()


class _Layers:
    """A session with its input and output bound to memory that stays."""

    def __init__(self, content: bytes, x: Float32, level: str) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()  # all cores and spinning are the defaults
        options.log_severity_level = 3
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, LEVELS[level])
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self._result = runtime.OrtValue.ortvalue_from_shape_and_type(x.shape, np.float32)
        self._ends = self._session.io_binding()
        self._ends.bind_ortvalue_input(INPUT, runtime.OrtValue.ortvalue_from_numpy(x))
        self._ends.bind_ortvalue_output(OUTPUT, self._result)

    def run(self) -> None:
        self._session.run_with_iobinding(self._ends)

    def output(self) -> Float32:
        self.run()
        return np.asarray(self._result.numpy())


def _serve(connection: Connection) -> None:
    """What the other process does until the connection closes."""
    content, x = connection.recv()
    durations = {level: median_ms(_Layers(content, x, level).run) for level in LEVELS}
    level = min(durations, key=lambda name: durations[name])
    layers = _Layers(content, x, level)
    connection.send(level)
    while True:
        try:
            order = connection.recv()
        except EOFError:
            return
        connection.send(layers.output() if order == "run" else median_ms(layers.run))
