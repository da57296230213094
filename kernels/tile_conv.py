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

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.filters import Filters
from kernels.launch import on_device
from kernels.op import Close, Inputs, Op
from kernels.tile_conv_cpu import tile_conv_cpu
from kernels.tile_conv_cuda import CUDA_KERNELS, tile_conv_cuda
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles
from kernels.workspace import Workspace

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
        cells = np.einsum("nijc,rsck->nirjsk", x.astype(np.float64), weights)
        n, rows, r, cols, s, k = cells.shape
        return np.asarray(cells.reshape(n, rows * r, cols * s, k)[:, : shape[0], : shape[1]] + filters.bias)
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


def tile_conv(
    x: Any,
    filters: Filters,
    tiles: ActiveTiles | DeviceTiles,
    out: Any,
    relu: bool = False,
    residual: Any | None = None,
    method: str = "auto",
    workspace: Workspace | None = None,
) -> Any:
    """Convolves where tiles are active, in place in ``out``.

    Args:
        x: (N, H, W, C) float32 map; on the device also float16. Sums are in float32.
        filters: weights, bias and geometry.
        tiles: active tiles of the output map; they may not overlap.
        out: (N, rows, cols, K) map, another one than x; float32, on the device also float16. Tensor cores multiply
            where both are float16.
        relu: whether ReLU follows.
        residual: map of out's shape and dtype that is added before ReLU, another one than ``out``; or None.
        method: on the CPU "direct", "winograd" (3×3, stride 1; about 5e-6 off), "nonzero" (skips the zeros of x: for
            maps that hold little else, such as BEV grids), or "auto", one of the first two.
        workspace: scratch for the CPU kernels; None makes a new one.

    Returns:
        ``out``.

    Raises:
        TypeError: if a dtype is wrong, or arrays and tiles are not in one place.
        ValueError: if a shape or the method does not fit, an array is not contiguous, arrays are one and the same,
            tiles overlap, or they name an image that the maps do not have.
    """
    maps = (x, out) if residual is None else (x, out, residual)
    device = on_device(*maps, tiles.index)
    channels, columns = filters.channels
    dtypes = [np.float32, np.float16] if device else np.float32
    check_array("x", x, dtypes, ("N", "H", "W", channels))
    check_array("out", out, dtypes, (x.shape[0], "rows", "cols", columns))
    if residual is not None:
        check_array("residual", residual, out.dtype, out.shape)
    if x is out or residual is out:
        raise ValueError("out is also the input or the residual; expected a map of its own")
    if tiles.spec.overlapping:
        raise ValueError(f"tiles of {tiles.spec.size} cells every {tiles.spec.stride} overlap; expected none to")
    if isinstance(tiles, DeviceTiles):
        tile_conv_cuda(x, filters, tiles, out, relu, residual)
        return out
    if not all(array.flags.c_contiguous for array in maps):
        raise ValueError("a map is not contiguous; expected C order without gaps (numpy.ascontiguousarray)")
    tiles.check_images(x.shape[0])
    if len(tiles):
        tile_conv_cpu(x, filters, tiles, out, relu, residual, method, workspace or Workspace())
    return out


def _make_inputs(kernel: int, stride: int, transposed: bool) -> Callable[[np.random.Generator, str], Inputs]:
    """An input maker for one geometry: on a frame, a layer of a typical network at /4 with 10 % of its tiles."""

    def make(rng: np.random.Generator, scale: str) -> Inputs:
        small = scale == "small"
        images, rows, cols, channels, columns, tile = (2, 9, 10, 5, 6, 4) if small else (1, 176, 200, 64, 64, 8)
        weights = rng.standard_normal((kernel, kernel, channels, columns), np.float32)
        weights /= np.float32(np.sqrt(kernel * kernel * channels))
        padding = (0, 0) if transposed else (kernel // 2, kernel // 2)
        filters = Filters(weights, rng.standard_normal(columns, np.float32), stride, padding, transposed)
        shape = (rows * stride, cols * stride) if transposed else (-(-rows // stride), -(-cols // stride))
        tiles = random_tiles(rng, TileSpec.covering(shape, tile), 0.5 if small else 0.1, images)
        out = rng.standard_normal((images, *shape, columns), np.float32)
        return {
            "x": rng.standard_normal((images, rows, cols, channels), np.float32),
            "filters": filters,
            "tiles": tiles,
            "out": out,
            "relu": True,
            "residual": rng.standard_normal(out.shape, np.float32),
        }

    return make


OPS = tuple(
    Op(
        name=f"tile_conv_{name}",
        function=tile_conv,
        reference=tile_conv_reference,
        make_inputs=_make_inputs(kernel, stride, transposed),
        equality=Close(1e-4, "float32 sums in another order than the reference's float64; Winograd's transforms"),
        cuda=CUDA_KERNELS,
        summary=summary,
    )
    for name, kernel, stride, transposed, summary in (
        ("3x3", 3, 1, False, "3×3 convolution with bias, residual and ReLU where tiles are active"),
        ("3x3_stride2", 3, 2, False, "the same with stride 2"),
        ("1x1", 1, 1, False, "the same, 1×1"),
        ("1x1_stride2", 1, 2, False, "the same, 1×1 with stride 2"),
        ("transposed", 2, 2, True, "transposed convolution whose kernel equals its stride"),
    )
)
