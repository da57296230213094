"""What a frame lies in on its way: before the network, and back from a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from detector.config import NmsConfig
from detector.types import Detections
from kernels.decode import DeviceCandidates
from kernels.launch import to_device
from kernels.nms import DeviceKept
from kernels.pack_frame import COLUMNS, pack_frame, packed_rows, unpack_frame
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec
from kernels.transfers import Download, Upload
from kernels.workspace import Workspace
from models.grid import BevSpec
from models.masks import MaskSource


@dataclass(frozen=True)
class FrameBuffers:
    """What a frame is prepared in, up to the network. Frames on their way at once need one each.

    Attributes:
        mask: makes the computation mask.
        workspace: of the grid and the tiles.
        place: brings points (N, 4) to where the buffers are.
    """

    mask: MaskSource
    workspace: Workspace
    place: Callable[[Any], Any]


def new_buffers(mask: type[MaskSource], spec: BevSpec, device: bool) -> FrameBuffers:
    """Buffers on the CPU or on the device."""
    return FrameBuffers(mask(spec, device), Workspace(device), Upload() if device else lambda points: points)


class FrameDownload:
    """Brings the boxes of a frame back from the device, and the tiles that they were found on: in one copy.

    Args:
        tiles: geometry of the grid's tiles.
        limits: of the boxes.
    """

    def __init__(self, tiles: TileSpec, limits: NmsConfig) -> None:
        self._tiles, self._max_boxes = tiles, limits.max_boxes
        rows = packed_rows(limits.max_boxes, max(tiles.total, 1))
        self._packed = to_device(np.zeros((rows, COLUMNS), np.float32))
        self._download = Download()

    def queue(self, found: DeviceCandidates, kept: DeviceKept, tiles: DeviceTiles) -> None:
        """Queues the way back of what was found on these tiles."""
        arrays = (found.boxes, found.scores, kept.index, kept.count, tiles.index, tiles.count)
        pack_frame(*arrays, self._tiles.count[1], self._max_boxes, self._packed)
        self._download.queue(self._packed)

    def wait(self, label: str) -> tuple[Detections, ActiveTiles]:
        """The boxes, of one class, and the tiles, as soon as they are here."""
        boxes, scores, index = unpack_frame(self._download.wait(), self._max_boxes, self._tiles.count[1])
        return Detections(boxes, scores, (label,) * len(boxes)), ActiveTiles(index, self._tiles)
