"""`sparse_gather`: the cells of the active tiles, copied into a stack of small images.

Equation, for active tile m = (n, r, c) and cell (i, j) of it, all channels at once::

    stack[m, i, j] = x[n, offset_rows + stride_rows * r + i, offset_cols + stride_cols * c + j]
                     0 where that lies outside the map

SBNet's ``sparse_gather`` (CVPR 2018, section 3.1); tiles may overlap and may leave gaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, new_array, on_device, stream
from kernels.op import CudaKernel, Exact, Op
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles

Pair = tuple[int, int]


def sparse_gather_reference(x: NDArray[Any], tiles: ActiveTiles, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """The equation in NumPy. Arguments and result as in `sparse_gather`; ``out`` is left alone."""
    spec = tiles.spec
    stack = np.zeros((len(tiles), *spec.size, x.shape[3]), x.dtype)
    for m, (n, *position) in enumerate(tiles.index):
        for i, j in np.ndindex(*spec.size):
            row, col = (spec.offset[a] + spec.stride[a] * position[a] + (i, j)[a] for a in (0, 1))
            if 0 <= row < x.shape[1] and 0 <= col < x.shape[2]:
                stack[m, i, j] = x[n, row, col]
    return stack


@cpu_kernel(parallel=True)
def _sparse_gather_cpu(
    x: NDArray[Any], index: NDArray[np.int32], stride: Pair, offset: Pair, stack: NDArray[Any]
) -> None:
    _, rows, cols, channels = x.shape
    for m in prange(index.shape[0]):
        left = offset[1] + stride[1] * index[m, 2]
        first, last = max(0, -left), max(0, min(stack.shape[2], cols - left))
        for i in range(stack.shape[1]):
            row = offset[0] + stride[0] * index[m, 1] + i
            if row < 0 or row >= rows:
                stack[m, i] = 0
                continue
            for j in range(stack.shape[2]):
                if j < first or j >= last:
                    for k in range(channels):
                        stack[m, i, j, k] = 0
                else:
                    for k in range(channels):
                        stack[m, i, j, k] = x[index[m, 0], row, left + j, k]


@cuda.jit
def _sparse_gather_cuda(x: Any, index: Any, count: Any, stride: Any, offset: Any, stack: Any) -> None:
    """One tile per thread block at a time; neighbouring threads read neighbouring channels."""
    _, rows, cols, channels = x.shape
    width = stack.shape[2] * channels
    for m in range(cuda.blockIdx.x, count[0], cuda.gridDim.x):
        n = index[m, 0]
        top, left = offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        for element in range(cuda.threadIdx.x, stack.shape[1] * width, cuda.blockDim.x):
            i, rest = element // width, element % width
            j, k = rest // channels, rest % channels
            inside = 0 <= n < x.shape[0] and 0 <= top + i < rows and 0 <= left + j < cols
            if inside:
                stack[m, i, j, k] = x[n, top + i, left + j, k]
            else:
                stack[m, i, j, k] = 0


def sparse_gather(x: Any, tiles: ActiveTiles | DeviceTiles, out: Any | None = None) -> Any:
    """The active tiles of a map, stacked.

    Args:
        x: (N, H, W, C) float32 map; on the device also float16.
        tiles: which tiles; on the device if x is.
        out: (M, rows, cols, C) array of x's dtype to write into, M = tiles (on the device: their capacity).
            None makes a new one.

    Returns:
        The stack, (M, rows, cols, C); 0 for cells outside the map. On the device only the first ``tiles.count``
        images of it mean something.

    Raises:
        TypeError: if a dtype is wrong, or arrays and tiles are not in one place.
        ValueError: if a shape is wrong, or the tiles name an image that x does not have.
    """
    device = on_device(x, tiles.index)
    check_array("x", x, [np.float32, np.float16] if device else np.float32, ("N", "H", "W", "C"))
    shape = (len(tiles.index), *tiles.spec.size, x.shape[3])
    if out is None:
        out = new_array(shape, x.dtype, device)
    on_device(x, out)
    check_array("out", out, x.dtype, shape)
    if isinstance(tiles, DeviceTiles):
        _sparse_gather_cuda[blocks(), THREADS, stream()](
            x, tiles.index, tiles.count, tiles.spec.stride, tiles.spec.offset, out
        )
    else:
        tiles.check_images(x.shape[0])
        _sparse_gather_cpu(x, tiles.index, tiles.spec.stride, tiles.spec.offset, out)
    return out


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    if scale == "small":
        spec = TileSpec((4, 5), (3, 4), (-1, -2), (4, 3))
        return {"x": rng.standard_normal((2, 11, 9, 3), np.float32), "tiles": random_tiles(rng, spec, 0.5, images=2)}
    spec = TileSpec.covering((352, 400), 16)
    return {"x": rng.standard_normal((1, 352, 400, 64), np.float32), "tiles": random_tiles(rng, spec, 0.1)}


_PAIR = "UniTuple(int64, 2)"
OPS = (
    Op(
        name="sparse_gather",
        function=sparse_gather,
        reference=sparse_gather_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(
            CudaKernel(
                _sparse_gather_cuda,
                f"void(float32[:,:,:,::1], int32[:,::1], int32[::1], {_PAIR}, {_PAIR}, float32[:,:,:,::1])",
            ),
        ),
        summary="cells of the active tiles → a stack of tiles; 0 outside the map",
    ),
)
