"""`tile_max_pool`: the largest number under a sliding window, where tiles are active, from map to map.

Equation, for every cell (i, j) of ``out`` that lies in an active tile and inside the map, all channels k::

    out[n, i, j, k] = max over r, s < size of x[n, stride * i + r - p_rows, stride * j + s - p_cols, k]

where cells outside x are left out: ONNX's MaxPool, with (p_rows, p_cols) the padding above and left; padding below
and right follows from the size of ``out``. NaN under a window gives NaN. Other cells keep their values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream
from kernels.op import CudaKernel, Exact, Inputs, Op
from kernels.tile_conv import active_cells
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles

Float32 = NDArray[np.float32]
Pair = tuple[int, int]


def tile_max_pool_reference(
    x: NDArray[Any], tiles: ActiveTiles, out: NDArray[Any], *, size: int, stride: int, padding: Pair = (0, 0)
) -> NDArray[Any]:
    """The equation in NumPy. Arguments and result as in `tile_max_pool`, but ``out`` is left alone."""
    result = out.copy()
    for n, i, j in np.argwhere(active_cells(tiles, out.shape)):
        top, left = stride * i - padding[0], stride * j - padding[1]
        window = x[n, max(top, 0) : top + size, max(left, 0) : left + size]
        result[n, i, j] = window.max(axis=(0, 1))
    return result


@cpu_kernel()
def _raise(best: Float32, values: Float32) -> None:
    """Raises the channels of one cell to those of another where these are larger, or NaN."""
    for k in range(values.shape[0]):
        value = values[k]
        best[k] = value if value > best[k] or value != value else best[k]


@cpu_kernel(parallel=True)
def _tile_max_pool_cpu(
    x: Float32,
    index: NDArray[np.int32],
    tile_size: Pair,
    tile_stride: Pair,
    offset: Pair,
    size: int,
    stride: int,
    padding: Pair,
    out: Float32,
) -> None:
    """One tile per thread at a time; the channels of a cell grow together."""
    _, rows, cols, _ = x.shape
    for m in prange(index.shape[0]):
        n, first_row = index[m, 0], offset[0] + tile_stride[0] * index[m, 1]
        first_col = offset[1] + tile_stride[1] * index[m, 2]
        for i in range(max(first_row, 0), min(first_row + tile_size[0], out.shape[1])):
            for j in range(max(first_col, 0), min(first_col + tile_size[1], out.shape[2])):
                top, left = stride * i - padding[0], stride * j - padding[1]
                out[n, i, j] = -np.inf
                for row in range(max(top, 0), min(top + size, rows)):
                    for col in range(max(left, 0), min(left + size, cols)):
                        _raise(out[n, i, j], x[n, row, col])


@cuda.jit
def _tile_max_pool_cuda(
    x: Any,
    index: Any,
    count: Any,
    tile_size: Any,
    tile_stride: Any,
    offset: Any,
    size: Any,
    stride: Any,
    padding: Any,
    out: Any,
) -> None:
    """One tile per thread block at a time; neighbouring threads work on neighbouring channels."""
    _, rows, cols, channels = x.shape
    width = tile_size[1] * channels
    for m in range(cuda.blockIdx.x, count[0], cuda.gridDim.x):
        n = index[m, 0]
        first_row, first_col = offset[0] + tile_stride[0] * index[m, 1], offset[1] + tile_stride[1] * index[m, 2]
        for element in range(cuda.threadIdx.x, tile_size[0] * width, cuda.blockDim.x):
            rest, k = element % width, element % channels
            i, j = first_row + element // width, first_col + rest // channels
            if 0 <= n < out.shape[0] and 0 <= i < out.shape[1] and 0 <= j < out.shape[2]:
                top, left, best = stride * i - padding[0], stride * j - padding[1], np.float32(-np.inf)
                for row in range(max(top, 0), min(top + size, rows)):
                    for col in range(max(left, 0), min(left + size, cols)):
                        value = np.float32(x[n, row, col, k])
                        best = value if value > best or value != value else best
                out[n, i, j, k] = best


def tile_max_pool(
    x: Any, tiles: ActiveTiles | DeviceTiles, out: Any, *, size: int, stride: int, padding: Pair = (0, 0)
) -> Any:
    """Takes the maximum of each window where tiles are active, in place in ``out``.

    Args:
        x: (N, H, W, C) float32 map; on the device also float16.
        tiles: active tiles of ``out``; they may not overlap.
        out: (N, rows, cols, C) map of x's dtype, another one than x. Its last windows must still touch x:
            stride * (rows - 1) - padding < H, and likewise along the columns.
        size: cells along a side of the window.
        stride: cells of x from one window to the next.
        padding: rows above and columns left of x where windows begin; less than ``size``.

    Returns:
        ``out``.

    Raises:
        TypeError: if a dtype is wrong, or arrays and tiles are not in one place.
        ValueError: if a shape or a number does not fit, a map is not contiguous, the maps share memory, tiles
            overlap, or they name an image that the maps do not have.
    """
    device = on_device(x, tiles.index, out)
    check_array("x", x, [np.float32, np.float16] if device else np.float32, ("N", "H", "W", "C"))
    check_array("out", out, x.dtype, (x.shape[0], "rows", "cols", x.shape[3]))
    _check_windows(x.shape[1:3], out.shape[1:3], size, stride, padding)
    if x is out if device else np.may_share_memory(x, out):
        raise ValueError("out shares memory with x; expected a map of its own: windows read their neighbours")
    spec = tiles.spec
    if spec.overlapping:
        raise ValueError(f"tiles of {spec.size} cells every {spec.stride} overlap; expected none to")
    arguments = (spec.size, spec.stride, spec.offset, size, stride, padding, out)
    if isinstance(tiles, DeviceTiles):
        _tile_max_pool_cuda[blocks(), THREADS, stream()](x, tiles.index, tiles.count, *arguments)
        return out
    if not (x.flags.c_contiguous and out.flags.c_contiguous):
        raise ValueError("a map is not contiguous; expected C order without gaps (numpy.ascontiguousarray)")
    tiles.check_images(x.shape[0])
    _tile_max_pool_cpu(x, tiles.index, *arguments)
    return out


def _check_windows(cells: Pair, made: Pair, size: int, stride: int, padding: Pair) -> None:
    """Refuses windows that lie wholly outside a map of ``cells``: they have no maximum."""
    if size < 1 or stride < 1 or min(padding) < 0 or max(padding) >= size:
        raise ValueError(
            f"window {size}, stride {stride}, padding {padding}; "
            "expected window and stride of at least 1, and padding of at least 0 and less than the window"
        )
    most = tuple((cells[a] + padding[a] - 1) // stride + 1 for a in (0, 1))
    if made[0] > most[0] or made[1] > most[1]:
        raise ValueError(
            f"out has {tuple(made)} cells, expected at most {most}: further windows lie outside x's {tuple(cells)}"
        )


def _make_inputs(rng: np.random.Generator, scale: str) -> Inputs:
    """On a frame: the pooling that follows the first layer of a typical network, /2 to /4, with 10 % of its tiles."""
    small = scale == "small"
    images, rows, cols, channels, tile = (2, 9, 10, 5, 4) if small else (1, 352, 400, 64, 8)
    shape = (-(-rows // 2), -(-cols // 2))
    return {
        "x": rng.standard_normal((images, rows, cols, channels), np.float32),
        "tiles": random_tiles(rng, TileSpec.covering(shape, tile), 0.5 if small else 0.1, images),
        "out": rng.standard_normal((images, *shape, channels), np.float32),
        "size": 3,
        "stride": 2,
        "padding": (1, 1),
    }


def _cuda(number: str) -> CudaKernel:
    """The CUDA kernel for maps of float32 or float16."""
    pair, a_map = "UniTuple(int64, 2)", f"{number}[:,:,:,::1]"
    tiles = f"int32[:,::1], int32[::1], {pair}, {pair}, {pair}"
    return CudaKernel(_tile_max_pool_cuda, f"void({a_map}, {tiles}, int64, int64, {pair}, {a_map})")


OPS = (
    Op(
        name="tile_max_pool",
        function=tile_max_pool,
        reference=tile_max_pool_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(_cuda("float32"), _cuda("float16")),
        summary="3×3 maximum with stride 2 where tiles are active",
    ),
)
