"""`tile_conv`: convolution where tiles are active, from map to map.

Equation, for every cell (i, j) of the output map that lies in an active tile and inside the map, p the padding::

    y[n, i, j, k] = bias[k] + sum over r, s, c of x[n, stride * i + r - p_rows, stride * j + s - p_cols, c]
                                                  * weights[r, s, c, k]              x = 0 outside the map
    out[n, i, j, k] = act(y[n, i, j, k] + residual[n, i, j, k])                      act: ReLU, or nothing

and for the transposed convolution, whose kernel equals its stride::

    y[n, i, j, k] = bias[k] + sum over c of x[n, i // stride, j // stride, c] * weights[i % stride, j % stride, c, k]

Cells outside the active tiles keep their values. SBNet's gather, convolution of the stacked tiles and scatter (CVPR
2018, section 3) in one pass: the overlap of neighbouring tiles is read where it lies instead of being copied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.tiles import ActiveTiles

Float32 = NDArray[np.float32]


def active_cells(tiles: ActiveTiles, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """(N, H, W) bool: which cells of a map of ``shape`` (N, H, W, …) lie in an active tile."""
    cells, spec = np.zeros(shape[:3], np.bool_), tiles.spec
    for n, row, col in tiles.index:
        top, left = spec.offset[0] + spec.stride[0] * row, spec.offset[1] + spec.stride[1] * col
        cells[n, max(top, 0) : max(top + spec.size[0], 0), max(left, 0) : max(left + spec.size[1], 0)] = True
    return cells


def dense_conv(x: NDArray[np.floating], filters: Filters, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The equation's y on the whole map, in float64: (N, *shape, K)."""
    weights, stride = filters.weights.astype(np.float64), filters.stride
    if filters.transposed:
        y = np.einsum("nijc,rsck->nirjsk", x.astype(np.float64), weights)
        n, rows, r, cols, s, k = y.shape
        y = y.reshape(n, rows * r, cols * s, k)[:, : shape[0], : shape[1]]
        return np.asarray(y + filters.bias)
    reach = [stride * (size - 1) + kernel for size, kernel in zip(shape, weights.shape[:2], strict=True)]
    after = [max(0, reach[a] - filters.padding[a] - x.shape[1 + a]) for a in (0, 1)]
    pads = [(filters.padding[a], after[a]) for a in (0, 1)]
    padded = np.pad(x.astype(np.float64), [(0, 0), *pads, (0, 0)])
    y: NDArray[np.float64] = np.zeros((x.shape[0], *shape, weights.shape[3]))
    for r, s in np.ndindex(*weights.shape[:2]):
        rows = slice(r, r + stride * (shape[0] - 1) + 1, stride)
        cols = slice(s, s + stride * (shape[1] - 1) + 1, stride)
        y += padded[:, rows, cols] @ weights[r, s]
    y += filters.bias
    return y


def tile_conv_reference(
    x: Float32,
    filters: Filters,
    tiles: ActiveTiles,
    out: Float32,
    relu: bool = False,
    residual: Float32 | None = None,
) -> Float32:
    """The equation in NumPy. Arguments and result as in `tile_conv`, but ``out`` is left alone."""
    y = dense_conv(x, filters, (out.shape[1], out.shape[2]))
    if residual is not None:
        y = y + residual
    if relu:
        y = np.maximum(y, 0)
    return np.where(active_cells(tiles, out.shape)[..., None], y, out).astype(out.dtype)
