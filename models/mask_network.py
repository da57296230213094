"""The road-mask network: a small CNN on a coarse grid that says where the road is, and where vehicles are.

It reads the detector's grid at `MASK_STRIDE` times the cell size, so its input is the same op on the same points and a
sixteenth of the numbers, and answers at twice that. Every tile of it is active: it is small enough.
It plays the part of SBNet's predicted masks (Ren et al., CVPR 2018, section 4.1).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kernels.tiles import ActiveTiles, TileSpec
from models.errors import ModelError
from models.grid import BevSpec
from models.network import Network, load_network
from models.plan import GRID_TILE
from models.sparse import TileExecutor

Float32 = NDArray[np.float32]

MASK_STRIDE = 4  # grid cells per mask cell: 0.4 m on KITTI's grid, the step in which a margin can be chosen
OUTPUT_STRIDE = 2  # mask cells per cell of the network's output
MASK_NAME = "mask"  # the output, (1, 2, h, w), probabilities
CLASSES = ("road", "foreground")
SUFFIX = ".mask.onnx"


def mask_spec(spec: BevSpec) -> BevSpec:
    """The coarse grid over a detector's grid."""
    return replace(spec, cell_m=spec.cell_m * MASK_STRIDE)


def mask_network_of(network: Network) -> Network | None:
    """The mask network that lies beside a detector: ``NAME.mask.onnx``; None where there is none.

    Raises:
        ModelError: if it cannot be read, or is for another grid.
    """
    path = Path(network.path)
    path = path.with_name(path.name.removesuffix(".onnx") + SUFFIX)
    if not path.is_file():
        return None
    found = load_network(path)
    expected = mask_spec(network.info.grid)
    if found.info.grid != expected or found.info.classes != CLASSES:
        raise ModelError(
            f"{path}: for {found.info.grid} and {found.info.classes}; {network.path} expects {expected} and {CLASSES}"
        )
    return found


class MaskNetwork:
    """Runs a mask network on one thread, so that it may overlap the detector of another frame.

    Args:
        network: from `mask_network_of`.

    Raises:
        ModelError: if the network cannot be planned, or its output has another size.
    """

    def __init__(self, network: Network) -> None:
        self._executor = TileExecutor(network, threads=1, outputs=(MASK_NAME,))
        rows, cols, _ = network.info.grid.shape
        self._tiles = ActiveTiles.all(TileSpec.covering((rows, cols), GRID_TILE))
        found = self._executor.plan.maps[MASK_NAME].shape[1:]
        expected = (rows // OUTPUT_STRIDE, cols // OUTPUT_STRIDE, len(CLASSES))
        if found != expected:
            raise ModelError(f"{network.path}: output {MASK_NAME} {found}, expected {expected}")

    def __call__(self, grid: Float32) -> Float32:
        """Probabilities of `CLASSES`, (rows / 2, cols / 2, 2) float32, which the next call overwrites.

        Args:
            grid: (rows, cols, channels) float32 of the coarse grid.
        """
        (mask,) = self._executor.run_maps(grid, self._tiles)
        return mask
