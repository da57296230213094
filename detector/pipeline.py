"""`Pipeline`: one frame from points to boxes, as straight-line code. The only place where stages meet."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.arrivals import SourceClock, open_arrivals
from detector.budget import Budget, CostModel
from detector.buffers import FrameBuffers, FrameDownload, new_buffers
from detector.config import Config, load_config
from detector.errors import ConfigError, RoadblocksError
from detector.sources import FrameFile
from detector.stages import Stage, StageClock
from detector.stream import OnBadFrame, stream_frames
from detector.types import Detections, Frame, FrameResult
from kernels.decode import decode
from kernels.launch import cuda, on_stream, to_host
from kernels.nms import nms
from kernels.reduce_mask import reduce_mask
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec
from kernels.voxelize import voxelize
from models.execute import make_executor
from models.masks import MASK_SOURCES, MASK_STRIDE, mask_shape
from models.network import load_network
from models.plan import GRID_TILE
from models.sparse_cuda import CudaTileExecutor

# Half a millimetre of a cell: what a margin may lack before it takes one more.
_ROUNDING = 1e-6
COST_RUNS = 4  # of each kind; the first may compile


class Pipeline:
    """Detects vehicles in LiDAR frames.

    One pipeline owns its buffers: use it from one thread at a time, or make one per thread. While one thread runs
    a frame, another one that tries gets a `RoadblocksError`.

    Example::

        pipeline = Pipeline.from_config("kitti")
        for result in pipeline.stream("drive/"):
            print(result.frame_id, result.detections.boxes, result.stage_ms)
    """

    def __init__(self, config: Config, threads: int | None = None) -> None:
        """Loads the network that the configuration names.

        Raises:
            RoadblocksError: if the configuration, the network or the device cannot be used.
        """
        if config.mask.source not in MASK_SOURCES:
            raise ConfigError(f"mask.source is '{config.mask.source}', expected one of: {', '.join(MASK_SOURCES)}")
        self.config = config
        self.network = load_network(config.model)
        self.spec = self.network.info.grid
        self._executor = make_executor(self.network, config.execution, config.device, config.precision, threads)
        self.device = self._executor.device
        self._on_device = isinstance(self._executor, CudaTileExecutor)
        self._stream = cuda.stream() if self._on_device else None
        self._buffers = self.new_buffers()
        self._user = threading.RLock()
        self.tiles = TileSpec.covering((self.spec.rows, self.spec.cols), GRID_TILE)
        self._mask_tiles = self._tiles_with_margin()
        self._budget = Budget(config.budget, self.spec, self.tiles)
        self._download = FrameDownload(self.tiles, config.nms) if self._on_device else None

    @classmethod
    def from_config(
        cls,
        config: str | Path | Config = "kitti",
        *,
        device: str | None = None,
        mask: str | None = None,
        execution: str | None = None,
        score: float | None = None,
        budget_ms: float | None = None,
        threads: int | None = None,
    ) -> Pipeline:
        """The pipeline of a shipped configuration, a YAML file or a `Config`; the keywords override it.

        Args:
            config: name, path or value.
            device: "auto", "cpu" or "cuda".
            mask: source of the computation mask.
            execution: "sparse": active tiles only; "dense": the whole grid through onnxruntime.
            score: least score of a box, 0..1.
            budget_ms: time that a frame may take, load to nms [ms]; see `detector.budget`.
            threads: CPU threads, None for all cores.

        Raises:
            RoadblocksError: as the constructor, or if the configuration cannot be read.
        """
        values = config if isinstance(config, Config) else load_config(config)
        changes: dict[str, Any] = {"device": device, "execution": execution, "score": score}
        values = replace(values, **{key: value for key, value in changes.items() if value is not None})
        if mask is not None:
            values = replace(values, mask=replace(values.mask, source=mask))
        if budget_ms is not None:
            values = replace(values, budget=replace(values.budget, ms=budget_ms))
        return cls(values, threads)

    def detect(self, frame: Frame | NDArray[np.float32], clock: StageClock | None = None) -> FrameResult:
        """Boxes of one frame.

        Args:
            frame: a `Frame`, or its points: (N, 4) float32, columns x, y, z [m, LiDAR], intensity [0, 1].
            clock: takes the time of the stages.

        Raises:
            FrameError: if the points have another shape or dtype.
            RoadblocksError: if another thread runs a frame on this pipeline.
        """
        if not isinstance(frame, Frame):
            frame = Frame(frame)
        clock = clock or StageClock()
        with self._one_thread():
            grid, tiles = self.prepare(frame, clock)
            return self.detect_prepared(frame, grid, tiles, clock)

    def prepare(
        self, frame: Frame, clock: StageClock | None = None, buffers: FrameBuffers | None = None
    ) -> tuple[Any, Any]:
        """The first half of `detect`, up to the network: the BEV grid and its active tiles.

        Runs no kernel on several threads, so that it may overlap the network of another frame. On a GPU it is queued.

        Args:
            frame: the frame.
            clock: takes the time of the stages.
            buffers: what the result lies in; None for those of the pipeline, which `detect` uses too.

        Returns:
            (rows, cols, channels) float32 grid, and the active tiles, on a GPU both there: the next frame in these
            buffers overwrites them.
        """
        spec, clock, buffers = self.spec, clock or StageClock(), buffers or self._buffers
        timed = self._timed(clock)
        with self._queue():
            with timed(Stage.VOXELIZE):
                points = buffers.place(self._in_view(frame))
                origin = (spec.x_min_m, spec.y_min_m, spec.z_min_m)
                grid = voxelize(points, origin, spec.cell_m, spec.z_bin_m, spec.shape, workspace=buffers.workspace)
            with timed(Stage.MASK):
                mask = buffers.mask(points)
            with timed(Stage.REDUCE):
                tiles = replace(reduce_mask(mask, self._mask_tiles, workspace=buffers.workspace), spec=self.tiles)
        return grid, tiles

    def active_tiles(self, frame: Frame) -> ActiveTiles:
        """The active tiles of a frame, wherever the pipeline runs."""
        tiles: ActiveTiles = to_host(self.prepare(frame)[1])
        return tiles.copy()

    def detect_prepared(
        self,
        frame: Frame,
        grid: Any,
        tiles: Any,
        clock: StageClock,
        after_network: Callable[[], None] = lambda: None,
    ) -> FrameResult:
        """The second half of `detect`: network, decode, nms.

        Args:
            frame: the frame.
            grid: (rows, cols, channels) float32, from `prepare`.
            tiles: its active tiles.
            clock: takes the time of the stages.
            after_network: called when grid and tiles may be overwritten; on a GPU, by what is queued from then on.

        Raises:
            RoadblocksError: if another thread runs a frame on this pipeline.
        """
        with self._one_thread(), self._queue():
            if self._budget.wants_costs:
                self._budget.start(self._measure_cost(grid))
            start_s = time.perf_counter()
            kept, left_out = self._within_budget(tiles, clock)
            with self._timed(clock)(Stage.BACKBONE):
                score, regression = self._executor.run(grid, kept)
            if self._download is None:
                ran = kept.copy()  # before the next frame may be prepared
                after_network()
                detections = self._boxes(score, regression, clock)
            else:
                self._queue_boxes(score, regression, kept, clock)
                after_network()
                detections, ran = self._download.wait(self.network.info.classes[0])
                clock.settle()
            self._budget.learn(len(ran), 1e3 * (time.perf_counter() - start_s), left_out)
        return FrameResult(frame, detections, clock.elapsed_ms, len(ran), ran.spec.total, left_out, tiles=ran)

    def _within_budget(self, tiles: Any, clock: StageClock) -> tuple[Any, int]:
        """The active tiles that may run, and how many may not. On a GPU their number stays there without a budget."""
        if not self._budget.limited:
            return tiles, 0
        listed = tiles.to_host() if self._on_device else tiles
        clock.settle()
        kept = self._budget.keep(listed, sum(clock.elapsed_ms.values()))
        return kept.to_device() if self._on_device else kept, len(listed) - len(kept)

    def _boxes(self, score: Any, regression: Any, clock: StageClock) -> Detections:
        """The boxes in the network's maps."""
        with clock(Stage.DECODE):
            boxes, scores = self._decode(score, regression)
        with clock(Stage.NMS):
            limits = (self.config.nms.iou, self.config.nms.max_boxes)
            keep = nms(boxes, scores, *limits, workspace=self._buffers.workspace)
            label = self.network.info.classes[0]
            return Detections(boxes[keep], scores[keep], (label,) * len(keep))

    def _queue_boxes(self, score: Any, regression: Any, tiles: DeviceTiles, clock: StageClock) -> None:
        """The same on a GPU, with the way back of boxes and tiles: only queued."""
        assert self._download is not None
        with clock.on_device(Stage.DECODE):
            found = self._decode(score, regression)
        with clock.on_device(Stage.NMS):
            limits = (self.config.nms.iou, self.config.nms.max_boxes)
            keep = nms(found.boxes, found.scores, *limits, found.count, self._buffers.workspace)
            self._download.queue(found, keep, tiles)

    def _decode(self, score: Any, regression: Any) -> Any:
        """Candidates, where the maps are."""
        config, spec = self.config, self.spec
        origin, cell_m = (spec.x_min_m, spec.y_min_m), spec.cell_m * self.network.info.output_stride
        limits = (config.score, config.nms.max_candidates)
        return decode(score, regression, origin, cell_m, *limits, workspace=self._buffers.workspace)

    def _measure_cost(self, grid: Any) -> CostModel:
        """What frames with all tiles active take and frames without, in turns: the fastest of a few each."""
        taken_ms: dict[int, list[float]] = {self.tiles.total: [], 0: []}
        for _ in range(COST_RUNS):
            for tiles in (ActiveTiles.all(self.tiles), ActiveTiles(np.zeros((0, 3), np.int32), self.tiles)):
                start_s, clock = time.perf_counter(), StageClock()
                placed: Any = tiles.to_device() if self._on_device else tiles
                score, regression = self._executor.run(grid, placed)
                if self._download is None:
                    self._boxes(score, regression, clock)
                else:
                    self._queue_boxes(score, regression, placed, clock)
                    self._download.wait(self.network.info.classes[0])
                taken_ms[len(tiles)].append(1e3 * (time.perf_counter() - start_s))
        return CostModel(min(taken_ms[0]), min(taken_ms[self.tiles.total]), self.tiles.total)

    def stream(
        self,
        source: str | Path | Iterable[Frame | NDArray[np.float32] | FrameFile | str | Path],
        policy: str = "every",
        rate_hz: float | None = None,
        loop: int = 1,
        follow: bool = False,
        *,
        frames: slice | None = None,
        on_bad_frame: OnBadFrame | None = None,
    ) -> Generator[FrameResult, None, None]:
        """Results of a source, in order, the next frame being prepared while the network runs on this one.

        A worker thread reads the source; it ends with the source, or when the generator is closed. Between results
        the pipeline is free for `detect` and other streams of the same thread.

        Args:
            source: a path as `detector.sources.open_sources` takes it, or any iterable of frames, points
                ((N, 4) float32, as for `detect`) and paths. An iterable that waits for a sensor is the way to go live.
            policy: "every": nothing is lost, and the source waits for the network; "latest": the newest frame next,
                those that it overtook are dropped and counted in `FrameResult.dropped_before`.
            rate_hz: frames per second. None: a path's frames come at the times that they were recorded at, or without
                such times as fast as they are taken; an iterable's come when it gives them. ``math.inf``: as fast as
                they are taken.
            loop: how often the source is repeated, a path or a list.
            follow: the source is a folder that grows; frames come as files become complete, until the generator is
                closed (see `detector.follow.GrowingFolder`).
            frames: which frames to keep of every recording of a path.
            on_bad_frame: called in the worker thread with the error of a frame that cannot be loaded, which is then
                skipped, and the number of frames that were dropped before it; None ends the stream with the error.

        Raises:
            ConfigError: if the arguments do not fit one another.
            SourceError: if a path is no source.
            RoadblocksError: while iterating, after the results of the frames before: if a frame is bad and
                ``on_bad_frame`` is None, or another thread runs a frame on this pipeline. What an iterable raises is
                passed on in the same way.
        """
        clock = SourceClock()
        arrivals = open_arrivals(source, clock, policy=policy, rate_hz=rate_hz, loop=loop, follow=follow, frames=frames)
        return stream_frames(self, arrivals, clock, policy, on_bad_frame)

    def new_buffers(self) -> FrameBuffers:
        """Buffers for one more frame to be prepared while others are on their way."""
        source = "all" if self.config.execution == "dense" else self.config.mask.source
        return new_buffers(MASK_SOURCES[source], self.spec, self._on_device)

    def _queue(self) -> AbstractContextManager[None]:
        """Where kernels of the ``with`` body are queued: on a GPU every pipeline has a stream of its own."""
        return on_stream(self._stream) if self._on_device else nullcontext()

    def _timed(self, clock: StageClock) -> Callable[[Stage], AbstractContextManager[None]]:
        """What times a stage of `prepare` or the network: the clock, or the device's own."""
        return clock.on_device if self._on_device else clock

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        """Refuses a second thread: it would write into the maps that the first one reads."""
        if not self._user.acquire(blocking=False):
            raise RoadblocksError(
                "this pipeline is running a frame in another thread, expected one thread at a time; "
                "make one pipeline per thread"
            )
        try:
            yield
        finally:
            self._user.release()

    def warm_up(self) -> None:
        """Runs two small frames, so that kernels are compiled and the network's buffers exist."""
        spec = self.spec
        point = np.array([[spec.x_min_m + 1, spec.y_min_m + 1, spec.z_min_m + 1, 0.5]], np.float32)
        for points in (point, point[:0]):  # the second puts back what the first left, which takes kernels of its own
            self.detect(Frame(points, id="warm-up"))
        if not self._on_device:
            nms(np.ones((2, 7), np.float32), np.ones(2, np.float32), 0.5, 2)

    def _tiles_with_margin(self) -> TileSpec:
        """The grid's tiles on the mask: each looks at its cells and at those of the margin around them."""
        cells = GRID_TILE // MASK_STRIDE
        margin = math.ceil(self.config.mask.margin_m / (self.spec.cell_m * MASK_STRIDE) - _ROUNDING)
        count = TileSpec.covering(mask_shape(self.spec), cells).count
        return TileSpec((cells + 2 * margin,) * 2, (cells,) * 2, (-margin,) * 2, count)

    def _in_view(self, frame: Frame) -> NDArray[np.float32]:
        if frame.calibration is None or not self.config.sensor.crop_to_camera:
            return frame.points
        inside = frame.calibration.in_view(frame.points)
        return frame.points if inside.all() else frame.points[inside]
