"""`reduce_mask`: a computation mask to the list of active tiles.

Equation, with tile (r, c) covering rows ``offset + stride * r`` up to ``+ size`` and columns likewise::

    value = max or mean of the mask over the tile;  active iff value > threshold (strictly)

Cells outside the image do not count, but the mean divides by the full tile area, so a border tile that sticks
out is diluted, as in SBNet's ``reduce_mask`` (sbnet_ops, CVPR 2018). Unlike there the list is sorted, indices
are int32, and an empty mask gives zero tiles instead of a dummy one.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.tiles import ActiveTiles, TileSpec

POOLINGS = ("max", "mean")
Pair = tuple[int, int]


def reduce_mask_reference(mask: NDArray[np.float32], spec: TileSpec, threshold: float, pooling: str) -> ActiveTiles:
    """The equation in NumPy. Arguments and result as in `reduce_mask`."""
    active = []
    for batch, image in enumerate(mask):
        for row, col in np.ndindex(*spec.count):
            start = [spec.offset[a] + spec.stride[a] * (row, col)[a] for a in (0, 1)]
            stop = [max(start[a] + spec.size[a], 0) for a in (0, 1)]
            tile = image[max(start[0], 0) : stop[0], max(start[1], 0) : stop[1]]
            if not tile.size:
                continue
            mean = tile.sum(dtype=np.float64) / (spec.size[0] * spec.size[1])
            if (tile.max() if pooling == "max" else mean) > threshold:
                active.append((batch, row, col))
    return ActiveTiles(np.array(active, np.int32).reshape(-1, 3), spec)


@njit(cache=True, nogil=True, error_model="numpy")
def _tile_values_cpu(
    mask: NDArray[np.float32], size: Pair, stride: Pair, offset: Pair, mean: bool, values: NDArray[np.float64]
) -> None:
    """Pooled value of every tile; -inf where a tile lies wholly outside and is to be passed over."""
    for batch in range(values.shape[0]):
        for row in range(values.shape[1]):
            for col in range(values.shape[2]):
                top, left = offset[0] + stride[0] * row, offset[1] + stride[1] * col
                largest, total = -np.inf, 0.0
                for y in range(max(top, 0), min(top + size[0], mask.shape[1])):
                    for x in range(max(left, 0), min(left + size[1], mask.shape[2])):
                        largest = max(largest, mask[batch, y, x])
                        total += mask[batch, y, x]
                pooled = total / (size[0] * size[1]) if mean else largest
                values[batch, row, col] = -np.inf if largest == -np.inf else pooled


def reduce_mask(mask: NDArray[np.float32], spec: TileSpec, threshold: float = 0.0, pooling: str = "max") -> ActiveTiles:
    """The active tiles of a batch of masks, sorted by image, row, column.

    Args:
        mask: (N, H, W) float32.
        spec: geometry of the tiles, in cells of the mask.
        threshold: a tile runs iff its pooled value is strictly above.
        pooling: "max" or "mean".

    Raises:
        TypeError: if the mask is not float32.
        ValueError: if the mask has another shape or the pooling is unknown.
    """
    if mask.dtype != np.float32:
        raise TypeError(f"mask is {mask.dtype}, expected float32")
    if mask.ndim != 3:
        raise ValueError(f"mask has shape {mask.shape}, expected (N, H, W)")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is '{pooling}', expected one of {POOLINGS}")
    values = np.empty((len(mask), *spec.count))
    _tile_values_cpu(mask, spec.size, spec.stride, spec.offset, pooling == "mean", values)
    return ActiveTiles(np.argwhere(values > threshold).astype(np.int32).reshape(-1, 3), spec)
