"""What a frame lies in on its way to the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from kernels.launch import to_host
from kernels.transfers import Turns, Upload
from kernels.workspace import Workspace
from models.masks import MaskSource


@dataclass(frozen=True)
class FrameBuffers:
    """What a frame is prepared in, up to the network. Frames on their way at once need one each.

    Attributes:
        mask: makes the computation mask.
        workspace: of the grid and the tiles.
        place: brings points (N, 4) to where the buffers are.
        turns: of preparation and network with them, on a GPU.
    """

    mask: MaskSource
    workspace: Workspace
    place: Callable[[Any], Any]
    turns: Turns | None

    def filling(self) -> AbstractContextManager[None]:
        """Around all that fills them; on a GPU it is queued, beside the network of another frame."""
        return self.turns.filling() if self.turns is not None else nullcontext()


def new_buffers(mask: MaskSource, device: bool) -> FrameBuffers:
    """Buffers on the CPU or on the device, where the mask has to be too."""
    if device:
        return FrameBuffers(mask, Workspace(device), Upload(4), Turns())
    return FrameBuffers(mask, Workspace(), lambda points: points, None)


class Prepared(NamedTuple):
    """A frame before its network, on the CPU or on a GPU.

    Attributes:
        grid: (rows, cols, channels) float32 BEV grid.
        mask: (rows / 4, cols / 4) float32 values of the mask's source.
        tiles: the active tiles of the grid, `ActiveTiles` or `DeviceTiles`.
        turns: of the buffers that all this lies in.
    """

    grid: Any
    mask: Any
    tiles: Any
    turns: Turns | None = None

    def reading(self) -> AbstractContextManager[None]:
        """Around all that reads it; on a GPU it is queued."""
        return self.turns.reading() if self.turns is not None else nullcontext()

    def on_host(self) -> Prepared:
        """The same with mask and tiles on the CPU; waits for a GPU."""
        return self._replace(mask=to_host(self.mask), tiles=to_host(self.tiles))
