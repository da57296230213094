"""`Unit`: the weights of one residual unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.filters import Filters

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Unit:
    """The weights of a residual unit.

    Attributes:
        layers: convolutions of odd size with stride 1 and padding size // 2; ReLU follows each but the last.
        scale: (C,) float32 of the pre-activation, or None for a unit without.
        shift: (C,) float32, with ``scale``.
        relu: whether ReLU follows the addition.
        packed: the same numbers in the orders that kernels want, filled by them once, by name.

    Raises:
        TypeError: if an array is not float32.
        ValueError: if the layers do not fit together, or scale and shift are not both there.
    """

    layers: tuple[Filters, ...]
    scale: Float32 | None = None
    shift: Float32 | None = None
    relu: bool = False
    packed: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

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
