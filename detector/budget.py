"""Frames within a budget: how many active tiles the network may run on, and which go first."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from detector.config import BudgetConfig
from kernels.tiles import ActiveTiles, TileSpec
from models.grid import BevSpec

RECENT = 64  # frames that say how slow the machine is at present
TELLING = 0.25  # share of the time from which a frame says something about frames that fill it
FAR_COUNTS_LESS = 0.5  # what a tile at the far end of the grid matters less than one at the sensor, as a share
IGNORED = 1  # the slowest of them: a hiccup is no reason to leave out tiles of the next 64 frames


class CostModel:
    """What tiles cost: a line measured once, times how much slower than it the last frames were.

    The slowest of the last frames but `IGNORED` counts, so that nearly all frames end in time.

    Args:
        empty_ms: a frame without active tiles, after one with all of them, which it has to put back.
        full_ms: a frame with all tiles active.
        tiles: how many these are.
    """

    def __init__(self, empty_ms: float, full_ms: float, tiles: int) -> None:
        self._empty_ms, self._tile_ms = empty_ms, max(full_ms - empty_ms, 1e-6) / tiles
        self._slowness = deque([1.0] * (IGNORED + 1), maxlen=RECENT)

    def add(self, tiles: int, ms: float) -> None:
        """A frame that ran on so many tiles took so long."""
        self._slowness.append(ms / (self._empty_ms + self._tile_ms * tiles))

    def tiles_within(self, ms: float) -> int:
        """How many tiles a frame can run on in a time; at least 0."""
        slow = sorted(self._slowness)[-1 - IGNORED]
        return max(0, int((ms / slow - self._empty_ms) / self._tile_ms))


class Budget:
    """Keeps the active tiles of a frame within a number, or within a time that is learned from frame to frame.

    Args:
        config: the limits.
    """

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._cost: CostModel | None = None

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self._config != BudgetConfig()

    @property
    def wants_costs(self) -> bool:
        """Whether `start` is to be called before the first frame."""
        return self._config.ms is not None and self._cost is None

    def start(self, cost: CostModel) -> None:
        """What tiles cost on this machine, to begin with."""
        self._cost = cost

    def tiles_within(self, active: int, spent_ms: float) -> int:
        """How many of a frame's active tiles it may run on, if it has taken so long already."""
        limits = [active]
        if self._config.tiles is not None:
            limits.append(self._config.tiles)
        if self._config.ms is not None and self._cost is not None:
            limits.append(self._cost.tiles_within(self._config.ms - spent_ms))
        return min(limits)

    def learn(self, tiles: int, ms: float, left_out: int = 0) -> None:
        """A frame ran on so many tiles; network and all that follows it took so long.

        Of frames far below the budget nothing is learned: a millisecond more or less is much of what they take.
        """
        if self._cost is not None and (left_out or ms >= TELLING * (self._config.ms or 0.0)):
            self._cost.add(tiles, ms)


def first_tiles(
    tiles: ActiveTiles, likely: NDArray[np.float32] | None, range_m: NDArray[np.float64], count: int
) -> ActiveTiles:
    """The ``count`` tiles of one frame that matter most, in their order: the likely and the near ones.

    What is near matters first, and has the most points.

    Args:
        tiles: of one frame.
        likely: (tiles,) float32, how likely each holds a vehicle; None for all alike.
        range_m: (tile rows, tile columns) float64, see `tile_range_m`.
        count: how many; all if there are no more.
    """
    if count >= len(tiles):
        return tiles
    far = range_m[tiles.index[:, 1], tiles.index[:, 2]] / range_m.max()
    matters = (1.0 if likely is None else likely) * (1 - FAR_COUNTS_LESS * far)
    first = np.argsort(-matters, kind="stable")[:count]
    return ActiveTiles(tiles.index[np.sort(first)], tiles.spec)


def tile_range_m(grid: BevSpec, tiles: TileSpec) -> NDArray[np.float64]:
    """(tile rows, tile columns) float64, distance of every tile's middle from the sensor on the ground [m]."""
    x_m, y_m = (
        low_m + (np.arange(count) * stride + offset + size / 2) * grid.cell_m
        for low_m, count, stride, offset, size in zip(
            (grid.x_min_m, grid.y_min_m), tiles.count, tiles.stride, tiles.offset, tiles.size, strict=True
        )
    )
    range_m: NDArray[np.float64] = np.hypot(x_m[:, None], y_m[None, :])
    return range_m
