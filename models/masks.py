"""Where the computation mask comes from: one function per source, chosen by name in the configuration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.grid import BevSpec

MASK_STRIDE = 8  # grid cells per mask cell, as SBNet's mask network (CVPR 2018, section 4.2)

MaskSource = Callable[[NDArray[np.float32], BevSpec], NDArray[np.float32]]


def all_cells(grid: NDArray[np.float32], spec: BevSpec) -> NDArray[np.float32]:
    """Everything is computed: (1, rows / 8, cols / 8) float32 ones."""
    rows, cols = (-(-cells // MASK_STRIDE) for cells in grid.shape[:2])
    return np.ones((1, rows, cols), np.float32)


MASK_SOURCES: dict[str, MaskSource] = {"all": all_cells}
