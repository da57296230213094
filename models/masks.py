"""Where the computation mask comes from: one class per source, chosen by name in the configuration."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.launch import to_device
from kernels.mark_cells import mark_cells
from models.grid import BevSpec

MASK_STRIDE = 4  # grid cells per mask cell: 0.4 m on KITTI's grid, the step in which a margin can be chosen

Float32 = NDArray[np.float32]


def mask_shape(spec: BevSpec) -> tuple[int, int]:
    """Cells of a mask over this grid."""
    return -(-spec.rows // MASK_STRIDE), -(-spec.cols // MASK_STRIDE)


class MaskSource(Protocol):
    """Says where vehicles can be, for frames on one grid."""

    def __init__(self, spec: BevSpec, device: bool = False) -> None:
        """Makes the buffers for this grid, on the CPU or on the device."""

    def __call__(self, points: Any) -> Any:
        """The mask of a frame, (1, rows / 4, cols / 4) float32: compute where it is above 0.

        On the device it is only queued, on this thread's stream (`kernels.launch.stream`).

        Args:
            points: (N, 4) float32, columns x, y, z [m] and intensity, frame of the grid; where the buffers are.
        """


def _mask(spec: BevSpec, value: float, device: bool) -> Any:
    mask = np.full((1, *mask_shape(spec)), value, np.float32)
    return to_device(mask) if device else mask


class AllCells:
    """Everything is computed."""

    def __init__(self, spec: BevSpec, device: bool = False) -> None:
        self._mask = _mask(spec, 1, device)

    def __call__(self, points: Any) -> Any:
        """Ones."""
        return self._mask


class OccupiedCells:
    """Where points are: without any, there is nothing to find."""

    def __init__(self, spec: BevSpec, device: bool = False) -> None:
        self._origin_m, self._cell_m = (spec.x_min_m, spec.y_min_m), spec.cell_m * MASK_STRIDE
        self._mask = _mask(spec, 0, device)

    def __call__(self, points: Any) -> Any:
        """1 where a mask cell holds a point of any height, else 0; the next frame overwrites it."""
        return mark_cells(points, self._origin_m, self._cell_m, self._mask)


MASK_SOURCES: dict[str, type[MaskSource]] = {"occupied": OccupiedCells, "all": AllCells}
