"""Where the computation mask comes from: one class per source, chosen by name in the configuration."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.voxelize import EXTRA_CHANNELS, voxelize
from kernels.workspace import Workspace
from models.grid import BevSpec

MASK_STRIDE = 4  # grid cells per mask cell: 0.4 m on KITTI's grid, the step in which a margin can be chosen

Float32 = NDArray[np.float32]


def mask_shape(spec: BevSpec) -> tuple[int, int]:
    """Cells of a mask over this grid."""
    return -(-spec.rows // MASK_STRIDE), -(-spec.cols // MASK_STRIDE)


class MaskSource(Protocol):
    """Says where vehicles can be, for frames on one grid."""

    def __init__(self, spec: BevSpec) -> None:
        """Makes the buffers for this grid."""

    def __call__(self, points: Float32) -> Float32:
        """The mask of a frame, (1, rows / 4, cols / 4) float32: compute where it is above 0.

        Args:
            points: (N, 4) float32, columns x, y, z [m] and intensity, frame of the grid.
        """


class AllCells:
    """Everything is computed."""

    def __init__(self, spec: BevSpec) -> None:
        self._mask = np.ones((1, *mask_shape(spec)), np.float32)

    def __call__(self, points: Float32) -> Float32:
        """Ones."""
        return self._mask


class OccupiedCells:
    """Where points are: without any, there is nothing to find."""

    def __init__(self, spec: BevSpec) -> None:
        self._origin = (spec.x_min_m, spec.y_min_m, spec.z_min_m)
        self._cell_m, self._height_m = spec.cell_m * MASK_STRIDE, spec.z_max_m - spec.z_min_m
        self._mask = np.zeros((1, *mask_shape(spec)), np.float32)
        self._workspace = Workspace()

    def __call__(self, points: Float32) -> Float32:
        """1 where a mask cell holds a point of any height, else 0; the next frame overwrites it."""
        shape = (*self._mask.shape[1:], 1 + EXTRA_CHANNELS)  # a single height bin, and what is below and above it
        coarse = voxelize(points, self._origin, self._cell_m, self._height_m, shape, workspace=self._workspace)
        np.maximum(coarse[:, :, 0], coarse[:, :, 1], out=self._mask[0])
        np.maximum(self._mask[0], coarse[:, :, 2], out=self._mask[0])
        return self._mask


MASK_SOURCES: dict[str, type[MaskSource]] = {"occupied": OccupiedCells, "all": AllCells}
