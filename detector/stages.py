"""The stages of a frame: one table, read by the pipeline, its timings, the documentation and a test."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from kernels.launch import Marks, elapsed_ms


class Stage(Enum):
    """Names of the stages, in the order in which a frame passes them."""

    LOAD = "load"
    VOXELIZE = "voxelize"
    MASK = "mask"
    REDUCE = "reduce"
    BACKBONE = "backbone"
    DECODE = "decode"
    NMS = "nms"
    WRITE = "write"


@dataclass(frozen=True)
class StageRow:
    """One line of the stage table."""

    stage: Stage
    owner: str  # who runs it: the source, the pipeline or the sink
    takes: str
    gives: str


STAGES: tuple[StageRow, ...] = (
    StageRow(Stage.LOAD, "source", "path", "Frame: points (N, 4), LiDAR frame"),
    StageRow(Stage.VOXELIZE, "pipeline", "points", "BEV grid (rows, cols, channels)"),
    StageRow(Stage.MASK, "pipeline", "points", "computation mask, binary, at low resolution"),
    StageRow(Stage.REDUCE, "pipeline", "mask", "ActiveTiles: which tiles to compute"),
    StageRow(Stage.BACKBONE, "pipeline", "BEV grid, active tiles", "score map and regression map"),
    StageRow(Stage.DECODE, "pipeline", "score and regression maps", "candidate boxes, LiDAR frame"),
    StageRow(Stage.NMS, "pipeline", "candidate boxes", "Detections"),
    StageRow(Stage.WRITE, "sink", "FrameResult", "label file, JSON line, picture"),
)


class Queued(NamedTuple):
    """A stage on the device: when it was queued, by the host's clock [ns], and the marks of its begin and end."""

    stage: Stage
    queued_ns: int
    begin: Any
    end: Any
    marks: Marks


class StageClock:
    """Wall-clock milliseconds per stage of one frame.

    Example::

        clock = StageClock()
        with clock(Stage.VOXELIZE):
            ...
        clock.elapsed_ms["voxelize"]
    """

    def __init__(self) -> None:
        self.elapsed_ms: dict[str, float] = {}
        self._queued: list[Queued] = []

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Adds the time of the ``with`` body to ``stage``."""
        start = time.perf_counter_ns()
        try:
            yield
        finally:
            elapsed = (time.perf_counter_ns() - start) / 1e6
            self._add(stage, elapsed)

    @contextmanager
    def on_device(self, stage: Stage, marks: Marks) -> Iterator[None]:
        """Adds the time that the device takes for what the ``with`` body queues, once it is known: see `settle`."""
        queued_ns, begin = time.perf_counter_ns(), marks.now()
        yield
        self._queued.append(Queued(stage, queued_ns, begin, marks.now(), marks))

    def settle(self) -> None:
        """The device is done with all that was queued: adds the times that it took, and gives the marks back."""
        settled, self._queued = self._queued, []
        for stage, _, begin, end, marks in settled:
            self._add(stage, elapsed_ms(begin, end))
            marks.give_back(begin, end)

    def _add(self, stage: Stage, ms: float) -> None:
        self.elapsed_ms[stage.value] = self.elapsed_ms.get(stage.value, 0.0) + ms


def summarize(frames: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Percentiles over frames of every stage, and of "total": load to nms, writing excluded.

    Args:
        frames: milliseconds per stage name, one mapping per frame; may be empty.

    Returns:
        Per stage name ``{"p50_ms", "p95_ms", "p99_ms", "max_ms"}``, in the order of the stage table.
    """
    if not frames:
        return {}
    columns = {row.stage.value: [frame.get(row.stage.value, 0.0) for frame in frames] for row in STAGES}
    columns["total"] = [sum(ms for name, ms in frame.items() if name != Stage.WRITE.value) for frame in frames]
    summary = {}
    for name, values in columns.items():
        p50, p95, p99 = np.percentile(values, [50, 95, 99])
        summary[name] = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(values)}
    return {name: {key: round(float(value), 3) for key, value in row.items()} for name, row in summary.items()}
