"""One way of running the pipeline, measured inside the process that it has for itself."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from detector.config import BudgetConfig, Config, load_config
from detector.machine import peak_memory_mb
from detector.pipeline import Pipeline
from detector.sources import FrameFile
from detector.stages import Stage, StageClock
from detector.view import render_bev
from kernels.gpu import gpu_name
from kernels.launch import elapsed_ms
from models.tile_network import TileNetwork

# What each way changes in the configuration. The first is what the others are compared with.
MODES: Mapping[str, Mapping[str, str]] = {
    "sparse": {"execution": "sparse"},
    "dense": {"execution": "dense"},
    "tiles_all": {"execution": "sparse", "mask": "all"},
}
WARM_UP_FRAMES = 5  # run before anything counts, and run again when they count
CLOCK_CALLS = 20_000
GPU_TRACK = 1 << 22  # in the place of a thread: Linux gives threads smaller numbers than this
PICTURE_COLOURS = 96  # a map of few hues: a palette makes the file a third as large


class Span(NamedTuple):
    """One stage of one frame, by the monotonic clock that all processes of a machine share [ns].

    On a GPU ``thread_id`` is `GPU_TRACK`, and ``thread`` the GPU's name.
    """

    stage: str
    start_ns: int
    end_ns: int
    thread_id: int
    thread: str


class SpanClock(StageClock):
    """A stage clock that also keeps when, and on which thread, every stage ran."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[Span] = []

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        """Adds the time of the ``with`` body to ``stage``, and its span to the list."""
        start_ns = time.perf_counter_ns()
        with super().__call__(stage):
            yield
        end_ns, thread = time.perf_counter_ns(), threading.current_thread()
        self.spans.append(Span(stage.value, start_ns, end_ns, thread.native_id or thread.ident or 0, thread.name))

    def settle(self) -> None:
        """Adds the times of what was queued on the device, and their spans.

        The device has a clock of its own that tells lengths only. So all stages are put as early as can be: none
        begins before it was queued, and one begins just then.
        """
        if self._queued:
            first = self._queued[0].begin
            begin_ns, end_ns = (
                [round(1e6 * elapsed_ms(first, mark)) for mark in marks]
                for marks in zip(*((queued.begin, queued.end) for queued in self._queued), strict=True)
            )
            first_ns = max(queued.queued_ns - later for queued, later in zip(self._queued, begin_ns, strict=True))
            self.spans += [
                Span(queued.stage.value, first_ns + begin, first_ns + end, GPU_TRACK, gpu_name())
                for queued, begin, end in zip(self._queued, begin_ns, end_ns, strict=True)
            ]
        super().settle()


@dataclass(frozen=True)
class Sample:
    """One frame, run once.

    Attributes:
        index: of the frame, in the list that is measured.
        stage_ms: milliseconds per stage, load to nms.
        tiles: active tiles.
        spans: when and where the stages ran.
    """

    index: int
    stage_ms: Mapping[str, float]
    tiles: int
    spans: tuple[Span, ...]

    @property
    def total_ms(self) -> float:
        """Load to nms [ms]."""
        return sum(self.stage_ms.values())


@dataclass(frozen=True)
class Facts:
    """What one way of running says of itself.

    Attributes:
        device: "cpu" or "cuda".
        config: the whole configuration.
        model: name and SHA-256 of the network.
        pid: the process.
        warmed: frames that were run before anything counted.
        tiles_total: tiles of the grid.
        clock_us: cost of timing one stage [microseconds].
        computed_fraction: operations on the active tiles, halo included, over those of all cells; mean over the
            frames; None where nothing runs on tiles.
        gflop: operations of the network on the whole grid [1e9]; None where nothing runs on tiles.
    """

    device: str
    config: Mapping[str, Any]
    model: Mapping[str, str]
    pid: int
    warmed: int
    tiles_total: int
    clock_us: float
    computed_fraction: float | None = None
    gflop: float | None = None


class Meter:
    """Runs frames and takes their times.

    Args:
        mode: key of `MODES`.
        files: the frames.
        settings: keywords of `Pipeline.from_config`.

    Raises:
        RoadblocksError: if the pipeline cannot be made, or a frame is bad.
    """

    def __init__(self, mode: str, files: Sequence[FrameFile], settings: Mapping[str, Any]) -> None:
        config: Config = load_config(settings["config"])
        config = replace(config, budget=BudgetConfig())  # a budget would hide what frames cost
        self._pipeline = Pipeline.from_config(**{**settings, **MODES[mode], "config": config})
        self._pipeline.warm_up()
        self._files = files
        for index in range(self._warmed):
            self._sample(index)

    @property
    def _warmed(self) -> int:
        return min(WARM_UP_FRAMES, len(self._files))

    def facts(self) -> Facts:
        """What this way of running is, and what share of the network it computes."""
        pipeline = self._pipeline
        fraction, gflop = None, None
        executor = pipeline._executor
        if isinstance(executor, TileNetwork):
            tiles = (pipeline.active_tiles(file.load()) for file in self._files)
            fraction = float(np.mean([executor.computed_fraction(active) for active in tiles]))
            gflop = executor.plan.operations / 1e9
        model = {"name": pipeline.network.info.name, "sha256": pipeline.network.sha256}
        config = asdict(pipeline.config)
        return Facts(
            pipeline.device, config, model, os.getpid(), self._warmed, pipeline.tiles.total, clock_us(), fraction, gflop
        )

    def turn(self, indices: Sequence[int]) -> list[Sample]:
        """Runs these frames. The first runs twice: before it the process slept while others had their turns."""
        self._sample(indices[0])
        return [self._sample(index) for index in indices]

    def peak_mb(self) -> float:
        """Most memory that this process has held [MB, 1e6 bytes]."""
        return peak_memory_mb()

    def picture(self, index: int, stage_ms: Mapping[str, float]) -> bytes:
        """The BEV picture of a frame with its active tiles and boxes, PNG.

        Args:
            index: of the frame.
            stage_ms: milliseconds to write under it.
        """
        pipeline, frame = self._pipeline, self._files[index].load()
        result = pipeline.detect(frame)
        image = render_bev(
            frame,
            result.detections,
            pipeline.spec,
            tiles=result.tiles,
            mask=result.mask,
            display_score=pipeline.network.info.display_score,
            stage_ms=stage_ms,
        )
        content = io.BytesIO()
        image.quantize(PICTURE_COLOURS, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
        return content.getvalue()

    def _sample(self, index: int) -> Sample:
        clock = SpanClock()
        with clock(Stage.LOAD):
            frame = self._files[index].load()
        result = self._pipeline.detect(frame, clock)
        return Sample(index, clock.elapsed_ms, result.tiles_run, tuple(clock.spans))


def clock_us() -> float:
    """What timing one stage costs [microseconds]: a mean over many empty stages."""
    clock = SpanClock()
    start_ns = time.perf_counter_ns()
    for _ in range(CLOCK_CALLS):
        with clock(Stage.MASK):
            pass
    return (time.perf_counter_ns() - start_ns) / CLOCK_CALLS / 1e3
