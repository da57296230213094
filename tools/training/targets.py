"""Boxes to training targets on the output grid.

As in PIXOR, cells in the core of a car are positive, cells in the rest of it are left out, all others are
negative. A car always gets at least the cell nearest to its centre.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.decode import REGRESSION_CHANNELS

OUTPUT_STRIDE = 4  # grid cells per output cell of the network
CORE = 0.3  # half-size of the positive core, as a share of the box's length and width
IGNORE = 0.6  # half-size of the zone left out of the loss


def make_targets(
    boxes: NDArray[np.floating],
    counted: NDArray[np.bool_],
    origin_m: tuple[float, float],
    cell_m: float,
    shape: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Score, regression and ignore targets.

    Args:
        boxes: (N, 7) boxes, columns as in `detector.types` [m, rad].
        counted: (N,) bool: True for a car to learn, False for one to leave out of the loss altogether.
        origin_m: x, y of the lower edges of row 0 and column 0.
        cell_m: side of an output cell.
        shape: (rows, cols) of the output.

    Returns:
        score (rows, cols) float32, 1 in the cores; regression (8, rows, cols) float32: dx, dy, z [m],
        log length, log width, log height, cos yaw, sin yaw; ignored (rows, cols) bool.
    """
    score = np.zeros(shape, np.float32)
    regression = np.zeros((REGRESSION_CHANNELS, *shape), np.float32)
    ignored = np.zeros(shape, bool)
    # Cars last, so that an ignored neighbour never hides one.
    for index in np.argsort(counted, kind="stable"):
        box = boxes[index]
        radius = IGNORE * np.hypot(box[3], box[4]) + cell_m
        low = np.clip(np.floor((box[:2] - radius - origin_m) / cell_m).astype(int), 0, shape)
        high = np.clip(np.ceil((box[:2] + radius - origin_m) / cell_m).astype(int), 0, shape)
        rows, cols = slice(low[0], high[0]), slice(low[1], high[1])
        row, col = np.mgrid[rows, cols]
        if not row.size:
            continue
        dx = box[0] - (origin_m[0] + (row + 0.5) * cell_m)
        dy = box[1] - (origin_m[1] + (col + 0.5) * cell_m)
        cos, sin = np.cos(box[6]), np.sin(box[6])
        along, across = np.abs(cos * dx + sin * dy) / box[3], np.abs(cos * dy - sin * dx) / box[4]
        zone = (along < IGNORE) & (across < IGNORE)
        if not counted[index]:
            ignored[rows, cols] |= zone
            continue
        distance = np.hypot(dx, dy)
        core = ((along < CORE) & (across < CORE)) | ((distance == distance.min()) & (distance < cell_m))
        ignored[rows, cols] |= zone & ~core
        ignored[rows, cols] &= ~core
        score[rows, cols][core] = 1
        one = np.array([0, 0, box[2], *np.log(box[3:6]), cos, sin], np.float32)
        values = np.repeat(one[:, None], int(core.sum()), axis=1)
        values[0], values[1] = dx[core], dy[core]
        regression[:, rows, cols][:, core] = values
    ignored &= score == 0
    return score, regression, ignored


def vehicle_cells(
    boxes: NDArray[np.floating],
    origin_m: tuple[float, float],
    cell_m: float,
    shape: tuple[int, int],
    margin_m: float,
) -> NDArray[np.bool_]:
    """(rows, cols) bool: cells whose middle lies in one of the boxes (N, 7), grown by a margin on every side."""
    cells = np.zeros(shape, bool)
    x = origin_m[0] + (np.arange(shape[0])[:, None] + 0.5) * cell_m
    y = origin_m[1] + (np.arange(shape[1])[None, :] + 0.5) * cell_m
    for box in boxes:
        cos, sin = np.cos(box[6]), np.sin(box[6])
        along = np.abs(cos * (x - box[0]) + sin * (y - box[1]))
        across = np.abs(cos * (y - box[1]) - sin * (x - box[0]))
        cells |= (along < box[3] / 2 + margin_m) & (across < box[4] / 2 + margin_m)
    return cells
