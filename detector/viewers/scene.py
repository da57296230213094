"""What every viewer shows of a frame, in metres of the LiDAR frame, and whether there is a display to show it on."""

from __future__ import annotations

import os
import sys

import numpy as np
from numpy.typing import NDArray

from detector.canvas import height_colours, tile_cells
from kernels.tiles import ActiveTiles
from models.grid import BevSpec

_LEVELS = 256


def has_display() -> bool:
    """Whether a window can be opened here: on Linux an X or Wayland server must be named."""
    return not sys.platform.startswith("linux") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def point_colours(points: NDArray[np.float32], spec: BevSpec) -> NDArray[np.uint8]:
    """(N, 3) uint8 colours of (N, 4) points by height, those of the pictures.

    A table of 256 heights: the viewers colour a whole sweep in the thread that streams.
    """
    table = height_colours(np.linspace(spec.z_min_m, spec.z_max_m, _LEVELS), spec).round().astype(np.uint8)
    level = (points[:, 2] - spec.z_min_m) * np.float32((_LEVELS - 1) / (spec.z_max_m - spec.z_min_m))
    colours: NDArray[np.uint8] = table[np.clip(level.round(), 0, _LEVELS - 1).astype(np.uint8)]
    return colours


def tile_corners(tiles: ActiveTiles, spec: BevSpec) -> NDArray[np.float64]:
    """(M, 4, 3) float64 corners [m] of the active tiles, counter-clockwise, on the floor of the grid."""
    cells = tile_cells(tiles, spec)
    x_m = spec.x_min_m + spec.cell_m * cells[:, [0, 2, 2, 0]]
    y_m = spec.y_min_m + spec.cell_m * cells[:, [1, 1, 3, 3]]
    return np.stack([x_m, y_m, np.full_like(x_m, spec.z_min_m)], axis=-1)
