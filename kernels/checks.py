"""Argument checks that every public op shares: found, expected, before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def check_array(
    name: str, array: Any, dtypes: type | np.dtype[Any] | Sequence[type], shape: Sequence[int | str]
) -> None:
    """Refuses an array of another dtype or shape.

    Args:
        name: what the caller calls it.
        array: NumPy or device array.
        dtypes: the dtype, or a list of those that are allowed.
        shape: the expected sizes; a letter stands for any size.

    Raises:
        TypeError: if the dtype is another.
        ValueError: if the shape is another.
    """
    allowed = [np.dtype(dtype) for dtype in (dtypes if isinstance(dtypes, Sequence) else [dtypes])]
    if array.dtype not in allowed:
        raise TypeError(f"{name} is {array.dtype}, expected {' or '.join(map(str, allowed))}")
    fits = len(array.shape) == len(shape) and all(
        not isinstance(wanted, int) or found == wanted for found, wanted in zip(array.shape, shape, strict=True)
    )
    if not fits:
        expected = ", ".join(str(size) for size in shape)
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}, expected ({expected}{',' if len(shape) == 1 else ''})"
        )
