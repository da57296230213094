"""From the network's maps to boxes, the last stages of a frame: on the CPU, or on a GPU and back in one wait.

Both begin with `start`, after which the frame's mask and tiles may be overwritten, and end with what it returns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.computation import TileChoice
from detector.config import Config
from detector.stages import Stage, StageClock
from kernels.box_voting import box_voting
from kernels.decode import decode
from kernels.launch import Marks, make_current, to_device
from kernels.nms import nms
from kernels.pack_frame import COLUMNS, pack_frame, packed_rows, unpack_frame
from kernels.tiles import ActiveTiles, DeviceTiles
from kernels.transfers import Download
from kernels.workspace import Workspace
from models.network import NetworkInfo

Float32 = NDArray[np.float32]
Maps = tuple[Any, Any]  # score and regression


class Found(NamedTuple):
    """What came of a frame, in memory of its own.

    Attributes:
        boxes: (N, 7) float32, as the network sees them.
        scores: (N,) float32.
        tiles: the tiles that the network ran on.
        mask: (rows, cols) bool, see `TileChoice.is_set`.
    """

    boxes: Float32
    scores: Float32
    tiles: ActiveTiles
    mask: NDArray[np.bool_]


class BoxFinder:
    """Decode, nms and the vote on the CPU.

    Args:
        config: limits of the boxes.
        info: of the network.
        choice: says which mask is set.
    """

    _device = False

    def __init__(self, config: Config, info: NetworkInfo, choice: TileChoice) -> None:
        self._choice, self._nms = choice, config.nms
        self._origin_m = (info.grid.x_min_m, info.grid.y_min_m)
        self._cell_m = info.grid.cell_m * info.output_stride
        self._limits = (config.score, config.nms.max_candidates)
        self._workspace = Workspace(self._device)

    def start(self, maps: Maps, mask: Any, tiles: Any, clock: StageClock) -> Callable[[], Found]:
        """Begins with the maps of a frame.

        Args:
            maps: score (rows, cols) and regression (rows, cols, 8), float32; not overwritten before the end.
            mask: values of the frame's mask.
            tiles: what the network ran on.
            clock: takes the time of the stages.

        Returns:
            What gives the boxes.
        """
        return partial(self._finish, maps, self._choice.is_set(mask), tiles.copy(), clock)

    def _decode(self, maps: Maps) -> Any:
        """Candidates, where the maps are."""
        return decode(*maps, self._origin_m, self._cell_m, *self._limits, workspace=self._workspace)

    def _finish(self, maps: Maps, mask: NDArray[np.bool_], tiles: ActiveTiles, clock: StageClock) -> Found:
        with clock(Stage.DECODE):
            boxes, scores = self._decode(maps)
        with clock(Stage.NMS):
            keep = nms(boxes, scores, self._nms.iou, self._nms.max_boxes, workspace=self._workspace)
            boxes = box_voting(boxes, scores, keep, self._nms.voting_iou, workspace=self._workspace)
            return Found(boxes[keep], scores[keep], tiles, mask)


class _WayBack(NamedTuple):
    """Where a frame arrives on the host. Frames on their way at once need one each."""

    packed: Download
    mask: Download


class CudaBoxFinder(BoxFinder):
    """The same on a GPU: `start` only queues, with the way back of boxes, tiles and mask.

    The next frame may be started before this one is finished: the device works on one after the other.
    """

    _device = True

    def __init__(self, config: Config, info: NetworkInfo, choice: TileChoice) -> None:
        super().__init__(config, info, choice)
        rows = packed_rows(config.nms.max_boxes, max(choice.spec.total, 1))
        self._packed = to_device(np.zeros((rows, COLUMNS), np.float32))
        self._free: list[_WayBack] = []
        self._marks = Marks()

    def start(self, maps: Maps, mask: Any, tiles: DeviceTiles, clock: StageClock) -> Callable[[], Found]:
        """Queues all there is to do, on this thread's stream. Arguments and result as on the CPU."""
        limits = self._nms.iou, self._nms.max_boxes
        with clock.on_device(Stage.DECODE, self._marks):
            found = self._decode(maps)
        with clock.on_device(Stage.NMS, self._marks):
            keep = nms(found.boxes, found.scores, *limits, found.count, self._workspace)
            kept = (keep.index, self._nms.voting_iou, found.count, keep.count)
            boxes = box_voting(found.boxes, found.scores, *kept, self._workspace)
            arrays = (boxes, found.scores, keep.index, keep.count, tiles.index, tiles.count)
            pack_frame(*arrays, self._choice.spec.count[1], self._nms.max_boxes, self._packed)
            back = self._free.pop() if self._free else _WayBack(Download(), Download())
            back.mask.queue(mask)
            back.packed.queue(self._packed)
        return partial(self._wait, back, clock)

    def _wait(self, back: _WayBack, clock: StageClock) -> Found:
        make_current()  # who waits may be another thread than who started
        spec = self._choice.spec
        boxes, scores, index = unpack_frame(back.packed.wait(), self._nms.max_boxes, spec.count[1])
        mask = self._choice.is_set(back.mask.wait())
        self._free.append(back)
        clock.settle()
        return Found(boxes, scores, ActiveTiles(index, spec), mask)
