"""`residual_unit`: a whole residual unit where tiles are active, without leaving the cache.

Equation, with convolutions f_1 … f_L of stride 1 that keep the size, C channels in and out at the ends::

    h_0 = relu(scale * x + shift) inside the map, 0 outside          (pre-activation; without scale: h_0 = x)
    h_l = relu(conv(h_{l-1}, f_l)) inside the map, 0 outside         for l < L
    y   = conv(h_{L-1}, f_L) + x                                     out = y, or relu(y)

for the cells of active tiles; others keep their values. Every cell is as in the dense unit on the same x: the halo of
a tile is computed again inside it instead of being read from neighbours. One gather and one scatter for a whole unit
is where SBNet's gain came from (CVPR 2018, section 3.2). Unlike there, zeros stand outside the map after the
activation, as in a dense network, and out is another map than x: in place, tiles would read what others wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.filters import Filters
from kernels.tile_conv import active_cells, dense_conv
from kernels.tiles import ActiveTiles

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Unit:
    """The weights of a residual unit.

    Attributes:
        layers: convolutions of odd size with stride 1 and padding size // 2; ReLU follows each but the last.
        scale: (C,) float32 of the pre-activation, or None for a unit without.
        shift: (C,) float32, with ``scale``.
        relu: whether ReLU follows the addition.

    Raises:
        TypeError: if an array is not float32.
        ValueError: if the layers do not fit together, or scale and shift are not both there.
    """

    layers: tuple[Filters, ...]
    scale: Float32 | None = None
    shift: Float32 | None = None
    relu: bool = False

    def __post_init__(self) -> None:
        for number, layer in enumerate(self.layers):
            size = layer.weights.shape[0]
            geometry = (layer.weights.shape[:2], layer.stride, layer.padding, layer.transposed)
            if geometry != ((size, size), 1, (size // 2,) * 2, False) or size % 2 == 0:
                raise ValueError(f"layer {number}: {geometry}, expected an odd square, stride 1, padding size // 2")
            if layer.channels[0] != self.layers[number - 1].channels[1]:
                raise ValueError(f"layer {number} takes {layer.channels[0]} channels, the one before gives others")
        if not self.layers or (self.scale is None) != (self.shift is None):
            raise ValueError("expected at least one layer, and scale and shift both or neither")
        if self.scale is not None and self.shift is not None:
            check_array("scale", self.scale, np.float32, (self.channels,))
            check_array("shift", self.shift, np.float32, (self.channels,))

    @property
    def channels(self) -> int:
        """Channels in and out."""
        return self.layers[0].channels[0]

    @property
    def halo(self) -> int:
        """Cells around a tile that its output depends on."""
        return sum(layer.padding[0] for layer in self.layers)

    def to_device(self) -> Unit:
        """Itself: the CUDA kernels keep their own packed copies on the device."""
        return self


def residual_unit_reference(x: Float32, unit: Unit, tiles: ActiveTiles, out: Float32) -> Float32:
    """The equation in NumPy. Arguments and result as in `residual_unit`, but ``out`` is left alone."""
    hidden = x.astype(np.float64)
    if unit.scale is not None:
        hidden = np.maximum(hidden * unit.scale + unit.shift, 0)
    for layer in unit.layers[:-1]:
        hidden = np.maximum(dense_conv(hidden, layer, (x.shape[1], x.shape[2])), 0)
    y = dense_conv(hidden, unit.layers[-1], (x.shape[1], x.shape[2])) + x
    if unit.relu:
        y = np.maximum(y, 0)
    return np.where(active_cells(tiles, out.shape)[..., None], y, out).astype(np.float32)
