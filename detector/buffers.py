"""What a frame lies in on its way to the network."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

from kernels.launch import to_host
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec
from kernels.transfers import Download, TileUpload, Turns, point_upload
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
        return FrameBuffers(mask, Workspace(device), point_upload(), Turns())
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


class RoundTrip:
    """On a GPU, a frame to the host, where a budget chooses among its tiles, and the chosen ones back.

    Memory is kept, and what is chosen lies at the same place for all frames, so that a graph of the network fits them.

    Args:
        spec: geometry of the tiles.
    """

    def __init__(self, spec: TileSpec) -> None:
        self._downloads = Download(), Download(), Download()
        self._upload = TileUpload(spec)

    def to_host(self, prepared: Prepared) -> Prepared:
        """The same with mask and tiles on the CPU, where the next call overwrites them; waits for this stream."""
        parts = (prepared.mask, prepared.tiles.index, prepared.tiles.count)
        for download, part in zip(self._downloads, parts, strict=True):
            download.queue(part)
        mask, index, count = (download.wait() for download in self._downloads)
        return prepared._replace(mask=mask, tiles=ActiveTiles(index[: int(count[0])], prepared.tiles.spec))

    def to_device(self, tiles: ActiveTiles) -> DeviceTiles:
        """Tiles on the GPU, where the next call overwrites them; queued on this thread's stream."""
        return self._upload(tiles)
