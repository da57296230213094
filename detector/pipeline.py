"""`Pipeline`: one frame from points to boxes, as straight-line code. The only place where stages meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.config import Config, load_config
from detector.errors import ConfigError
from detector.sources import open_sources
from detector.stages import Stage, StageClock
from detector.types import Detections, Frame, FrameResult
from kernels.decode import decode
from kernels.nms import nms
from kernels.reduce_mask import reduce_mask
from kernels.tiles import ActiveTiles, TileSpec
from kernels.voxelize import voxelize
from kernels.workspace import Workspace
from models.dense import DenseExecutor
from models.errors import ModelError
from models.masks import MASK_SOURCES, MASK_STRIDE, mask_shape
from models.network import Network, load_network
from models.plan import GRID_TILE
from models.sparse import TileExecutor
from models.tuning import load_choices

# Half a millimetre of a cell: what a margin may lack before it takes one more.
_ROUNDING = 1e-6


class Pipeline:
    """Detects vehicles in LiDAR frames.

    One pipeline owns its buffers: use it from one thread at a time, or make one per thread.

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
        self._executor = _executor(self.network, config, threads)
        self.device = self._executor.device
        self._mask = MASK_SOURCES[config.mask.source](self.spec)
        self._workspace = Workspace()
        self.tiles = TileSpec.covering((self.spec.rows, self.spec.cols), GRID_TILE)
        self._mask_tiles = self._tiles_with_margin()

    @classmethod
    def from_config(
        cls,
        config: str | Path | Config = "kitti",
        *,
        device: str | None = None,
        mask: str | None = None,
        execution: str | None = None,
        score: float | None = None,
        threads: int | None = None,
    ) -> Pipeline:
        """The pipeline of a shipped configuration, a YAML file or a `Config`; the keywords override it.

        Args:
            config: name, path or value.
            device: "auto", "cpu" or "cuda".
            mask: source of the computation mask.
            execution: "sparse": active tiles only; "dense": the whole grid through onnxruntime.
            score: least score of a box, 0..1.
            threads: CPU threads, None for all cores.

        Raises:
            RoadblocksError: as the constructor, or if the configuration cannot be read.
        """
        values = config if isinstance(config, Config) else load_config(config)
        changes: dict[str, Any] = {"device": device, "execution": execution, "score": score}
        values = replace(values, **{key: value for key, value in changes.items() if value is not None})
        if mask is not None:
            values = replace(values, mask=replace(values.mask, source=mask))
        return cls(values, threads)

    def detect(self, frame: Frame | NDArray[np.float32]) -> FrameResult:
        """Boxes of one frame.

        Args:
            frame: a `Frame`, or its points: (N, 4) float32, columns x, y, z [m, LiDAR], intensity [0, 1].

        Raises:
            FrameError: if the points have another shape or dtype.
        """
        if not isinstance(frame, Frame):
            frame = Frame(frame)
        config, spec, clock = self.config, self.spec, StageClock()
        grid, tiles = self.prepare(frame, clock)
        with clock(Stage.BACKBONE):
            score, regression = self._executor.run(grid, tiles)
        with clock(Stage.DECODE):
            origin, cell_m = (spec.x_min_m, spec.y_min_m), spec.cell_m * self.network.info.output_stride
            limits = (config.score, config.nms.max_candidates)
            boxes, scores = decode(score, regression, origin, cell_m, *limits, workspace=self._workspace)
        with clock(Stage.NMS):
            keep = nms(boxes, scores, config.nms.iou, config.nms.max_boxes, workspace=self._workspace)
            label = self.network.info.classes[0]
            detections = Detections(boxes[keep], scores[keep], (label,) * len(keep))
        return FrameResult(frame, detections, clock.elapsed_ms, len(tiles), tiles.spec.total)

    def prepare(self, frame: Frame, clock: StageClock | None = None) -> tuple[NDArray[np.float32], ActiveTiles]:
        """The first half of `detect`, up to the network: the BEV grid and its active tiles.

        Args:
            frame: the frame.
            clock: takes the time of the stages.

        Returns:
            (rows, cols, channels) float32 grid, which the next frame overwrites, and the active tiles.
        """
        spec, clock = self.spec, clock or StageClock()
        with clock(Stage.VOXELIZE):
            points = self._in_view(frame)
            origin = (spec.x_min_m, spec.y_min_m, spec.z_min_m)
            grid = voxelize(points, origin, spec.cell_m, spec.z_bin_m, spec.shape, workspace=self._workspace)
        with clock(Stage.MASK):
            mask = self._mask(points)
        with clock(Stage.REDUCE):
            tiles = ActiveTiles(reduce_mask(mask, self._mask_tiles, workspace=self._workspace).index, self.tiles)
        return grid, tiles

    def stream(self, source: str | Path | Iterable[Frame | NDArray[np.float32]]) -> Iterator[FrameResult]:
        """Results of every frame of a path, or of an iterable of frames or arrays, in order.

        Raises:
            RoadblocksError: if the source or a frame is bad; the frames before it have been yielded.
        """
        if isinstance(source, str | Path):
            source = (file.load() for opened in open_sources([source]) for file in opened.frames)
        for number, frame in enumerate(source):
            yield self.detect(frame if isinstance(frame, Frame) else Frame(frame, id=str(number)))

    def warm_up(self) -> None:
        """Runs one small frame, so that kernels are compiled and the network's buffers exist."""
        spec = self.spec
        point = np.array([[spec.x_min_m + 1, spec.y_min_m + 1, spec.z_min_m + 1, 0.5]], np.float32)
        self.detect(Frame(point, id="warm-up"))
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


def _executor(network: Network, config: Config, threads: int | None) -> DenseExecutor | TileExecutor:
    """What runs the network.

    Raises:
        ModelError: if the device cannot run it in this way.
    """
    if config.execution == "dense":
        return DenseExecutor(network, config.device, threads)
    if config.device == "cuda":
        raise ModelError("device cuda: the tile executor runs on the CPU; expected --execution dense, or --device cpu")
    return TileExecutor(network, load_choices(network, threads), threads)
