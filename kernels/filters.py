"""`Filters`: the weights of one convolution with the geometry that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Filters:
    """Weights of a convolution, or of a transposed one whose kernel equals its stride.

    Attributes:
        weights: (rows, cols, C, K) float32, C channels in, K out.
        bias: (K,) float32.
        stride: cells of the input from one output cell to the next (transposed: the other way round).
        padding: rows above and columns left of the map that count as zeros; below and right follow from the size of
            the output.
        transposed: whether each input cell makes ``stride`` × ``stride`` output cells; then rows = cols = stride
            and the padding is 0.
        packed: the same numbers in the orders that kernels want, filled by them once, by name.

    Raises:
        TypeError: if an array is not float32.
        ValueError: if a shape or the geometry is wrong.
    """

    weights: Float32
    bias: Float32
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    transposed: bool = False
    packed: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_array("weights", self.weights, np.float32, ("rows", "cols", "C", "K"))
        check_array("bias", self.bias, np.float32, (self.weights.shape[3],))
        if self.stride < 1 or min(self.padding) < 0 or min(self.weights.shape) < 1:
            raise ValueError(
                f"weights {self.weights.shape}, stride {self.stride}, padding {self.padding}: "
                "expected sizes and stride of at least 1 and padding of at least 0"
            )
        if self.transposed and (self.weights.shape[:2] != (self.stride,) * 2 or any(self.padding)):
            raise ValueError(
                f"transposed: kernel {self.weights.shape[:2]}, stride {self.stride}, padding {self.padding}; "
                "expected a kernel of the stride's size and no padding"
            )

    @property
    def channels(self) -> tuple[int, int]:
        """Channels in and out."""
        return self.weights.shape[2], self.weights.shape[3]

    def to_device(self) -> Filters:
        """Itself: the CUDA kernels keep their own packed copies on the device."""
        return self
