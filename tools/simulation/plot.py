"""Who stands where: every standing thing claims its ground, so that no two share it and none is in a lane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.simulation.roads import Use
from tools.simulation.surface import Surface

Float64 = NDArray[np.float64]

ANYWHERE = (Use.OPEN, Use.VERGE, Use.PAVEMENT)


class Plot:
    """The ground that is still free.

    Attributes:
        surface: the ground.
        uses: (R, C) uint8 of `Use`, on the cells of the surface.
        taken: (R, C) bool; lanes are taken from the start.
    """

    def __init__(self, surface: Surface, uses: NDArray[np.uint8]) -> None:
        self.surface, self.uses = surface, uses
        self.taken = uses == Use.LANE

    def claim(self, rectangles: Float64, allowed: tuple[Use, ...] = ANYWHERE) -> bool:
        """Takes the ground under rectangles (K, 5) of x, y, length, width, yaw, if all of it is free and allowed."""
        wanted = [self._cells(*rectangle) for rectangle in np.atleast_2d(rectangles)]
        good = np.zeros(len(Use), bool)
        good[list(allowed)] = True
        for cells in wanted:
            if cells is None or self.taken[cells].any() or not good[self.uses[cells]].all():
                return False
        for cells in wanted:
            self.taken[cells] = True
        return True

    def _cells(
        self, x: float, y: float, length: float, width: float, yaw: float
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Cells that a rectangle touches, and maybe some that it nearly touches; None if it leaves the raster."""
        cell, origin = self.surface.cell_m, self.surface.origin_m
        cos, sin = np.cos(yaw), np.sin(yaw)
        # A point of the rectangle is at most half a diagonal from the middle of its cell.
        half_length, half_width = length / 2 + 0.71 * cell, width / 2 + 0.71 * cell
        reach_x = abs(cos) * half_length + abs(sin) * half_width
        reach_y = abs(sin) * half_length + abs(cos) * half_width
        low_row, high_row = (int((x + way * reach_x - origin[0]) // cell) for way in (-1, 1))
        low_col, high_col = (int((y + way * reach_y - origin[1]) // cell) for way in (-1, 1))
        if low_row < 0 or low_col < 0 or high_row >= self.taken.shape[0] or high_col >= self.taken.shape[1]:
            return None
        dx = (np.arange(low_row, high_row + 1) + 0.5) * cell + origin[0] - x
        dy = (np.arange(low_col, high_col + 1) + 0.5) * cell + origin[1] - y
        forward = np.add.outer(cos * dx, sin * dy)
        left = np.add.outer(-sin * dx, cos * dy)
        row, col = np.nonzero((np.abs(forward) <= half_length) & (np.abs(left) <= half_width))
        return row + low_row, col + low_col
