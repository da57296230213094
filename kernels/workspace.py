"""`Workspace`: named buffers that live from frame to frame, so that a running pipeline allocates nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from kernels.launch import new_array


class Workspace:
    """Scratch arrays by name, on the CPU or on the device.

    An array grows when more is asked of it than it holds and never shrinks, so a pipeline stops allocating once it
    has seen its largest frame. One workspace serves one caller at a time.

    Attributes:
        allocations: how often memory was asked for so far; constant in steady state.
    """

    def __init__(self, device: bool = False) -> None:
        self.device = device
        self.allocations = 0
        self._buffers: dict[tuple[str, np.dtype[Any]], Any] = {}
        self._views: dict[tuple[str, np.dtype[Any]], Any] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
        """An array of this shape, holding whatever the last user of ``name`` left there."""
        key, size = (name, np.dtype(dtype)), math.prod(shape)
        if key in self._views and self._views[key].shape == shape:  # on the device a view takes as long as a launch
            return self._views[key]
        if key not in self._buffers or self._buffers[key].size < size:
            self._buffers[key] = new_array((max(size, 1),), dtype, self.device)
            self.allocations += 1
        self._views[key] = self._buffers[key][:size].reshape(shape)
        return self._views[key]
