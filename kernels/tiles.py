"""`TileSpec` and `ActiveTiles`: how a map is cut into tiles, and which tiles run.

A *tile* is a rectangle of BEV cells processed together (SBNet's "block"; here that word is left to CUDA).
Tile ``(n, r, c)`` covers rows ``offset + stride * r`` up to ``+ size`` of image ``n``, and columns likewise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.launch import to_device, to_host


@dataclass(frozen=True)
class TileSpec:
    """Geometry of the tiles on one map; every pair is (rows, cols), in cells of that map.

    Attributes:
        size: cells per tile.
        stride: cells from one tile to the next.
        offset: first cell of tile (0, 0); may be negative.
        count: tiles along rows and cols.

    Raises:
        ValueError: if a size, stride or count is not positive (a count may be 0).
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    offset: tuple[int, int]
    count: tuple[int, int]

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("stride", 1), ("count", 0)):
            if min(getattr(self, name)) < least:
                raise ValueError(f"tile {name} is {getattr(self, name)}, expected at least {least} each")

    @classmethod
    def covering(cls, shape: tuple[int, int], tile_cells: int) -> TileSpec:
        """Square tiles of ``tile_cells`` without overlap that cover a map of ``shape``; the last may stick out."""
        rows, cols = (-(-cells // tile_cells) for cells in shape)
        return cls((tile_cells,) * 2, (tile_cells,) * 2, (0, 0), (rows, cols))

    @property
    def total(self) -> int:
        """Number of tiles."""
        return self.count[0] * self.count[1]

    @property
    def overlapping(self) -> bool:
        """Whether neighbouring tiles share cells."""
        return any(
            stride < size and count > 1 for stride, size, count in zip(self.stride, self.size, self.count, strict=True)
        )


@dataclass(frozen=True)
class ActiveTiles:
    """The tiles that run, sorted by batch, row, column, so that runs repeat.

    Attributes:
        index: (M, 3) int32, columns batch, tile row, tile column; M may be 0.
        spec: geometry of the tiles.

    Raises:
        ValueError: if the index has another shape or dtype, or names a tile outside ``spec``.
    """

    index: NDArray[np.int32]
    spec: TileSpec

    def __post_init__(self) -> None:
        index = self.index
        if index.ndim != 2 or index.shape[1] != 3 or index.dtype != np.int32:
            raise ValueError(f"tile index is {index.dtype} {index.shape}, expected int32 (M, 3)")
        if len(index) and (index.min() < 0 or (index[:, 1:].max(axis=0) >= self.spec.count).any()):
            raise ValueError(f"tile index names tiles outside the {self.spec.count} tiles of the map")
        if (np.diff(index[:, 0]) < 0).any():
            raise ValueError("tile index is not sorted by image; expected image, row, column in ascending order")

    def __len__(self) -> int:
        return len(self.index)

    def copy(self) -> ActiveTiles:
        """The same tiles in memory of their own: lists of a pipeline lie in buffers that the next frame overwrites."""
        return ActiveTiles(self.index.copy(), self.spec)

    @classmethod
    def all(cls, spec: TileSpec) -> ActiveTiles:
        """Every tile of one image: the dense case."""
        rows, cols = np.indices(spec.count, dtype=np.int32).reshape(2, -1)
        return cls(np.column_stack([np.zeros_like(rows), rows, cols]), spec)

    def check_images(self, count: int) -> None:
        """Refuses tiles of images that a batch of ``count`` does not have.

        Raises:
            ValueError: if there are such tiles.
        """
        if len(self.index) and self.index[-1, 0] >= count:
            raise ValueError(
                f"tile index names image {self.index[-1, 0]}, expected images 0 to {count - 1} of the batch"
            )

    def to_device(self) -> DeviceTiles:
        """The same tiles for CUDA kernels."""
        count = np.array([len(self.index)], np.int32)
        index = self.index if len(self.index) else np.zeros((1, 3), np.int32)  # CUDA has no arrays of size 0
        return DeviceTiles(to_device(np.ascontiguousarray(index)), to_device(count), self.spec)


@dataclass(frozen=True)
class DeviceTiles:
    """Active tiles on the device. Their number stays there too, so that no frame waits for the host.

    Attributes:
        index: (capacity, 3) int32 device array; the first ``count`` rows are as in `ActiveTiles`.
        count: (1,) int32 device array.
        spec: geometry of the tiles.
    """

    index: Any
    count: Any
    spec: TileSpec

    def to_host(self) -> ActiveTiles:
        """Copies the list back; waits for the device."""
        return ActiveTiles(to_host(self.index)[: int(to_host(self.count)[0])], self.spec)


def random_tiles(rng: np.random.Generator, spec: TileSpec, share: float, images: int = 1) -> ActiveTiles:
    """About this share of all tiles of ``images`` images, for tests and benchmarks."""
    chosen = np.argwhere(rng.random((images, *spec.count)) < share)
    return ActiveTiles(chosen.astype(np.int32).reshape(-1, 3), spec)
