"""From a mask's values to the tiles that the network runs on, and to which of them come first."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.config import MaskConfig
from detector.errors import ConfigError
from kernels.reduce_mask import reduce_mask
from kernels.tiles import ActiveTiles, TileSpec
from kernels.workspace import Workspace
from models.grid import BevSpec
from models.mask_network import MASK_STRIDE, mask_spec
from models.masks import LIMITS, PREFERRED, SOURCES, kind_of
from models.plan import GRID_TILE

# Half a millimetre of a cell: what a margin may lack before it takes one more.
_ROUNDING = 1e-6


def resolve_mask(mask: MaskConfig, has_network: bool) -> MaskConfig:
    """The mask with everything said: "auto" is what measured best, of what the model has; see `models.masks`.

    Raises:
        ConfigError: if there is no such source.
    """
    source = mask.source
    if source == "auto":
        source = PREFERRED if has_network else "occupancy"
    if kind_of(source) not in LIMITS:
        raise ConfigError(f"mask.source is '{source}', expected one of: auto, {', '.join(SOURCES)}")
    limits = LIMITS[kind_of(source)]
    return replace(
        mask,
        source=source,
        threshold=limits.threshold if mask.threshold is None else mask.threshold,
        margin_m=limits.margin_m if mask.margin_m is None else mask.margin_m,
    )


class TileChoice:
    """The tiles of a grid that hold, or have within the margin, a mask cell above the threshold.

    Args:
        spec: the grid.
        mask: threshold and margin, resolved.

    Attributes:
        spec: geometry of the tiles on the grid.
    """

    def __init__(self, spec: BevSpec, mask: MaskConfig) -> None:
        assert mask.threshold is not None and mask.margin_m is not None, "see resolve_mask"
        self.spec = TileSpec.covering((spec.rows, spec.cols), GRID_TILE)
        coarse, cells = mask_spec(spec), GRID_TILE // MASK_STRIDE
        margin = math.ceil(mask.margin_m / coarse.cell_m - _ROUNDING)
        self._windows = TileSpec((cells + 2 * margin,) * 2, (cells,) * 2, (-margin,) * 2, self.spec.count)
        self._threshold = mask.threshold

    def is_set(self, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(rows, cols) bool: the mask itself, without its margin."""
        above: NDArray[np.bool_] = values > np.float32(self._threshold)
        return above

    def active(self, values: Any, workspace: Workspace) -> Any:
        """The active tiles of a frame, where its mask is; the next call with this workspace overwrites them.

        Args:
            values: (rows, cols) float32 of the mask.
            workspace: where they lie.
        """
        mask = values.reshape(1, *values.shape)
        found = reduce_mask(mask, self._windows, self._threshold, workspace=workspace)
        return replace(found, spec=self.spec)

    def values(self, values: NDArray[np.float32], tiles: ActiveTiles) -> NDArray[np.float32]:
        """(M,) float32: the largest value that made each tile active."""
        (size, _), (start, _), (step, _) = self._windows.size, self._windows.offset, self._windows.stride
        padded = np.pad(values, ((-start, size), (-start, size)), constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))[::step, ::step]
        largest: NDArray[np.float32] = windows[tiles.index[:, 1], tiles.index[:, 2]].max((1, 2), initial=-np.inf)
        return largest
