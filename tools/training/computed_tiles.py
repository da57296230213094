"""Computation masks for training with the mask on, as SBNet does (Ren et al., CVPR 2018, section 3.3).

The masks are drawn tighter, wider and more wrong than the pipeline's own, so that the network bears with any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.mask_network import MASK_STRIDE
from models.plan import GRID_TILE
from tools.training.targets import vehicle_cells

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class ComputedConfig:
    """Which tiles a training sample computes."""

    everything: float = 0.4  # share of the samples without a mask
    vehicles: float = 0.3  # share that computes around vehicles and false alarms; the rest: around all points
    margin_m: float = 1.6  # most around either
    false_alarms: float = 0.1  # most of the occupied cells that count as vehicles, as a share


def draw_tiles(
    occupied: Bool,
    boxes: NDArray[np.float32],
    origin_m: tuple[float, float],
    cell_m: float,
    config: ComputedConfig,
    rng: np.random.Generator,
) -> Bool:
    """The tiles that one sample computes.

    Args:
        occupied: (rows, cols) bool, the grid cells that hold a point; whole tiles.
        boxes: (M, 7) float32, all vehicles [m, rad].
        origin_m: x, y of the lower edges of row 0 and column 0.
        cell_m: side of a grid cell.
        config: what is drawn how often.
        rng: source of the choice.

    Returns:
        (rows / GRID_TILE, cols / GRID_TILE) bool.
    """
    kind, margin_m = rng.random(), rng.uniform(0, config.margin_m)
    mask = pooled(occupied, MASK_STRIDE)
    if kind < config.everything:
        return np.ones_like(pooled(occupied, GRID_TILE))
    mask_cell_m = cell_m * MASK_STRIDE
    if kind < config.everything + config.vehicles:
        mask &= rng.random(mask.shape) < rng.uniform(0, config.false_alarms)
        mask |= vehicle_cells(boxes, origin_m, mask_cell_m, mask.shape, mask_cell_m / 2)
    grown = ndimage.maximum_filter(mask, 2 * round(margin_m / mask_cell_m) + 1)
    return pooled(grown, GRID_TILE // MASK_STRIDE)


def pooled(mask: Bool, cells: int) -> Bool:
    """Whether any of ``cells`` x ``cells`` cells is set, for each such square of a mask."""
    rows, cols = (side // cells for side in mask.shape)
    squares: Bool = mask.reshape(rows, cells, cols, cells).any((1, 3))
    return squares
