"""`Pipeline`: one frame from points to boxes, as straight-line code. The only place where stages meet."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.arrivals import SourceClock, open_arrivals
from detector.box_finder import BoxFinder, CudaBoxFinder, Found
from detector.budget import Budget, CostModel, first_tiles, tile_range_m
from detector.buffers import FrameBuffers, Prepared, RoundTrip, new_buffers
from detector.computation import TileChoice, resolve_mask
from detector.config import Config, SensorConfig, load_config
from detector.errors import RoadblocksError
from detector.frame_checks import check_seen
from detector.mounting import Mounting
from detector.sources import FrameFile
from detector.stages import Stage, StageClock
from detector.stream import OnBadFrame, stream_frames
from detector.types import Detections, Frame, FrameResult
from kernels.box_voting import box_voting
from kernels.launch import Marks, cuda, on_stream
from kernels.nms import nms
from kernels.tiles import ActiveTiles
from kernels.voxelize import voxelize
from models.dense_cuda import CudaDenseExecutor
from models.errors import NoGpuError
from models.execute import go_on_on_the_cpu, make_executor
from models.mask_network import mask_network_of
from models.masks import mask_source
from models.network import load_network
from models.sparse_cuda import CudaTileExecutor

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
        self.network = load_network(config.model)
        self._mask_network = mask_network_of(self.network)
        config = replace(config, mask=resolve_mask(config.mask, self._mask_network is not None))
        self.config = config
        self.spec = self.network.info.grid
        self._mounting = Mounting.of(config.sensor, self.network.info)
        self._place(config.device, threads)
        self._user = threading.RLock()
        self.choice = TileChoice(self.spec, config.mask)
        self.tiles = self.choice.spec
        self._trip = RoundTrip(self.tiles) if self._on_device else None
        self._range_m = tile_range_m(self.spec, self.tiles)
        self._budget = Budget(config.budget)
        self._box_finder = (CudaBoxFinder if self._on_device else BoxFinder)(config, self.network.info, self.choice)

    def _place(self, device: str, threads: int | None) -> None:
        """Puts the network, and the mask network with the first buffers, on a device; "auto" puts both on one."""
        config = self.config
        self._executor = make_executor(
            self.network, config.execution, device, config.precision, config.cuda_graph, threads
        )
        self.device = self._executor.device
        self._on_device = isinstance(self._executor, CudaTileExecutor | CudaDenseExecutor)
        self._stream = cuda.stream() if self._on_device else None
        self._marks = Marks()
        try:
            self._buffers = self.new_buffers(threads)
        except NoGpuError as error:
            go_on_on_the_cpu(device, error)
            self._place("cpu", threads)

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
        sensor: SensorConfig | None = None,
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
            sensor: how the points reach the pipeline: height of the sensor, scale of intensities.
            threads: CPU threads, None for all cores.

        Raises:
            RoadblocksError: as the constructor, or if the configuration cannot be read.
        """
        values = config if isinstance(config, Config) else load_config(config)
        changes: dict[str, Any] = {"device": device, "execution": execution, "score": score, "sensor": sensor}
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
            FrameError: if the points have another shape or dtype, or their values make no sense.
            RoadblocksError: if another thread runs a frame on this pipeline.
        """
        if not isinstance(frame, Frame):
            frame = Frame(frame)
        with self._one_thread():
            return self.start(frame, clock)()

    def prepare(self, frame: Frame, clock: StageClock | None = None, buffers: FrameBuffers | None = None) -> Prepared:
        """The first half of `detect`, up to the network: the BEV grid and its active tiles.

        In `new_buffers` it runs no kernel on several threads, so that it may overlap the network of another frame. On a
        GPU it is queued.

        Args:
            frame: the frame.
            clock: takes the time of the stages.
            buffers: what the result lies in; None for those of the pipeline, which `detect` uses too.

        Returns:
            What the next frame in these buffers overwrites.
        """
        spec, clock, buffers = self.spec, clock or StageClock(), buffers or self._buffers
        timed = self._timed(clock)
        with buffers.filling():
            with timed(Stage.VOXELIZE):
                points = buffers.place(self._in_view(frame))
                origin = (spec.x_min_m, spec.y_min_m, spec.z_min_m)
                grid = voxelize(points, origin, spec.cell_m, spec.z_bin_m, spec.shape, workspace=buffers.workspace)
            with timed(Stage.MASK):
                mask = buffers.mask(points, frame.pose)
            with timed(Stage.REDUCE):
                tiles = self.choice.active(mask, buffers.workspace)
        return Prepared(grid, mask, tiles, buffers.turns)

    def first_tiles(self, prepared: Prepared, count: int) -> ActiveTiles:
        """The active tiles of a frame that run where so many may: those that matter most, in their order.

        Args:
            prepared: the frame, on the host.
            count: how many tiles may run.
        """
        likely = self.choice.values(prepared.mask, prepared.tiles) if self._buffers.mask.ranks else None
        return first_tiles(prepared.tiles, likely, self._range_m, count)

    def active_tiles(self, frame: Frame) -> ActiveTiles:
        """The active tiles of a frame, wherever the pipeline runs."""
        tiles: ActiveTiles = self.prepare(frame).on_host().tiles
        return tiles.copy()

    @property
    def crops_to_camera(self) -> bool:
        """Whether points that the camera does not see are left out, where there is a calibration."""
        return self.config.sensor.crops(self.spec.all_round)

    @property
    def frames_ahead(self) -> int:
        """How many frames may be started before the first of them is finished, to keep a GPU busy."""
        return int(self._on_device and not self._budget.limited)

    def start(
        self,
        frame: Frame,
        clock: StageClock | None = None,
        prepared: Prepared | None = None,
        after_network: Callable[[], None] = lambda: None,
    ) -> Callable[[], FrameResult]:
        """Runs a frame through the network, decode and nms; on a GPU all of it is only queued.

        Args:
            frame: the frame.
            clock: takes the time of the stages.
            prepared: the frame's first half, from `prepare`; None makes it here.
            after_network: called when ``prepared`` may be overwritten; on a GPU, by what is queued from then on.

        Returns:
            What gives the result; on a GPU it waits. Frames finish in the order in which they started.

        Raises:
            RoadblocksError: if another thread runs a frame on this pipeline.
        """
        clock = clock or StageClock()
        with self._one_thread(), self._queue():
            prepared = prepared or self.prepare(frame, clock)
            with prepared.reading():
                if self._budget.wants_costs:
                    self._budget.start(self._measure_cost(prepared))
                start_s = time.perf_counter()
                with self._timed(clock)(Stage.BACKBONE):
                    kept, left_out = self._within_budget(prepared, clock)
                    maps = self._executor.run(prepared.grid, kept)
                found = self._box_finder.start(maps, prepared.mask, kept, clock)
            after_network()
            finish = partial(self._finish, frame, clock, found, start_s, left_out)
            if self._on_device:
                return finish
            result = finish()
        return lambda: result

    def _finish(
        self, frame: Frame, clock: StageClock, boxes: Callable[[], Found], start_s: float, left_out: int
    ) -> FrameResult:
        """The rest of a frame that `start` began at ``start_s``."""
        with self._one_thread():
            found = boxes()
            ran = found.tiles
            self._budget.learn(len(ran), 1e3 * (time.perf_counter() - start_s), left_out)
        camera = frame.calibration if self.crops_to_camera else None
        warnings = frame.warnings + check_seen(frame.points, frame.where, self.spec, camera)
        times, counts = clock.elapsed_ms, (len(ran), ran.spec.total, left_out)
        detections = self._detections(found)
        return FrameResult(frame, detections, times, *counts, tiles=ran, mask=found.mask, warnings=warnings)

    def _within_budget(self, prepared: Prepared, clock: StageClock) -> tuple[Any, int]:
        """The active tiles that may run, and how many may not. Without a budget, nobody waits to know their number."""
        if not self._budget.limited:
            return prepared.tiles, 0
        listed = self._trip.to_host(prepared) if self._trip else prepared
        clock.settle()
        active, spent_ms = len(listed.tiles), sum(clock.elapsed_ms.values())
        kept = self.first_tiles(listed, self._budget.tiles_within(active, spent_ms))
        return self._placed(kept), active - len(kept)

    def _placed(self, tiles: ActiveTiles) -> Any:
        """Tiles where the network takes them; the next call may overwrite them."""
        return self._trip.to_device(tiles) if self._trip else tiles

    def _detections(self, found: Found) -> Detections:
        """Boxes where the recording has them."""
        labels = (self.network.info.classes[0],) * len(found.boxes)
        return Detections(self._mounting.from_network(found.boxes), found.scores, labels)

    def _measure_cost(self, prepared: Prepared) -> CostModel:
        """What frames with all tiles active take and frames without, in turns: the fastest of a few each."""
        taken_ms: dict[int, list[float]] = {self.tiles.total: [], 0: []}
        for _ in range(COST_RUNS):
            for tiles in (ActiveTiles.all(self.tiles), ActiveTiles(np.zeros((0, 3), np.int32), self.tiles)):
                start_s = time.perf_counter()
                placed = self._placed(tiles)
                maps = self._executor.run(prepared.grid, placed)
                self._box_finder.start(maps, prepared.mask, placed, StageClock())()
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

    def new_buffers(self, threads: int | None = 1) -> FrameBuffers:
        """Buffers for one more frame to be prepared while others are on their way.

        Args:
            threads: CPU threads for it, None for all cores. More than one does not go with another frame's network.
        """
        source = "all" if self.config.execution == "dense" else self.config.mask.source
        mask = mask_source(source, self.spec, self._mask_network, threads, self._on_device, self.config.cuda_graph)
        return new_buffers(mask, self._on_device)

    def _queue(self) -> AbstractContextManager[None]:
        """Where kernels of the ``with`` body are queued: on a GPU every pipeline has a stream of its own."""
        return on_stream(self._stream) if self._on_device else nullcontext()

    def _timed(self, clock: StageClock) -> Callable[[Stage], AbstractContextManager[None]]:
        """What times a stage of `prepare` or the network: the clock, or the device's own."""
        return partial(clock.on_device, marks=self._marks) if self._on_device else clock

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
            boxes, scores = np.ones((2, 7), np.float32), np.ones(2, np.float32)
            box_voting(boxes, scores, nms(boxes, scores, 0.5, 2), 0.5)

    def _in_view(self, frame: Frame) -> NDArray[np.float32]:
        """The points that count, as the network's LiDAR would give them."""
        points = frame.points
        if frame.calibration is not None and self.crops_to_camera:
            inside = frame.calibration.in_view(points)
            points = points if inside.all() else points[inside]
        return self._mounting.to_network(points)
