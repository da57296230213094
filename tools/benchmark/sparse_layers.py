"""The sparse side of the benchmark: a row's layers where a mask is active, mask reduction included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.reduce_mask import reduce_mask
from kernels.residual_unit import residual_unit
from kernels.tile_conv import tile_conv
from kernels.tiles import ActiveTiles, TileSpec
from kernels.unit import Unit
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]

UNIT_METHODS = ("fused", "layers")
CONV_METHODS = ("winograd", "direct")


@dataclass(eq=False)
class SparseLayers:
    """A single convolution, or residual units one after the other, on maps that stay.

    Attributes:
        x: (1, H, W, C) float32 input.
        layers: one `Filters`, or any number of `Unit`.
    """

    x: Float32
    layers: Sequence[Unit | Filters]
    _workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        self._maps = tuple(np.zeros_like(self.x) for _ in range(2))
        first = self.layers[0]
        if isinstance(first, Unit):
            inner = (*self.x.shape[:3], first.layers[0].channels[1])
            self._inner = tuple(np.zeros(inner, np.float32) for _ in range(2))

    @property
    def methods(self) -> tuple[str, ...]:
        """The ways to run these layers; there is no kernel for pre-activation outside the fused unit."""
        first = self.layers[0]
        if isinstance(first, Filters):
            return CONV_METHODS
        return UNIT_METHODS if first.scale is None else UNIT_METHODS[:1]

    def clear(self) -> None:
        """Zeros everywhere, as before the first mask.

        Without it, units read outside one mask's tiles what their successors left there for another, and the numbers
        grow from mask to mask until their rounding errors reach the cells that are checked.
        """
        for numbers in self._maps:
            numbers[:] = 0

    def run(self, mask: Float32, tile_cells: int, method: str) -> tuple[Float32, ActiveTiles]:
        """All layers in every tile that the mask touches.

        Units read beyond the active tiles what the unit before left there, so after n units the cells less than n
        from an inactive one differ from the dense layers', as in SBNet.

        Args:
            mask: (1, H, W) float32.
            tile_cells: side of a tile.
            method: one of `methods`.

        Returns:
            (1, H, W, C) float32 map, overwritten by the next run, and the tiles that hold results.
        """
        x = self.x
        tiles = reduce_mask(mask, TileSpec.covering(x.shape[1:3], tile_cells))
        halo = _grown(tiles) if method == "layers" else tiles
        for number, layer in enumerate(self.layers):
            out = self._maps[number % 2]
            if isinstance(layer, Filters):
                tile_conv(x, layer, tiles, out, method=method, workspace=self._workspace)
            elif method == "fused":
                residual_unit(x, layer, tiles, out, self._workspace)
            else:
                self._run_layers(x, layer, tiles, halo, out)
            x = out
        return x, tiles

    def _run_layers(self, x: Float32, unit: Unit, tiles: ActiveTiles, halo: ActiveTiles, out: Float32) -> None:
        """A bottleneck in the folded form, one convolution at a time; the 3×3 reads one cell around its tiles."""
        before, middle, after = unit.layers
        first, second = self._inner
        tile_conv(x, before, halo, first, relu=True, workspace=self._workspace)
        tile_conv(first, middle, tiles, second, relu=True, workspace=self._workspace)
        tile_conv(second, after, tiles, out, unit.relu, x, workspace=self._workspace)


def _grown(tiles: ActiveTiles) -> ActiveTiles:
    """The active tiles of one image and their eight neighbours."""
    active = np.zeros(tiles.spec.count, np.bool_)
    active[tiles.index[:, 1], tiles.index[:, 2]] = True
    from scipy.ndimage import binary_dilation  # imported here: tools.gpu_check runs without SciPy

    places = np.argwhere(binary_dilation(active, np.ones((3, 3)))).astype(np.int32)
    return ActiveTiles(np.pad(places, ((0, 0), (1, 0))), tiles.spec)
