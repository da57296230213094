"""`restore_tiles`: the cells of the active tiles, copied from one map into another.

Equation, for active tile m = (n, r, c) and cell (i, j) of it, all channels at once::

    row, col = offset_rows + stride_rows * r + i, offset_cols + stride_cols * c + j
    out[n, row, col] = base[n, row, col]              base[0, row, col] where base has one image only

and nothing where that lies outside the map. With the response to an empty scene as ``base`` this takes back what a
frame changed, so that the next one starts from an empty scene again at the cost of the touched tiles only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream
from kernels.op import CudaKernel, Exact, Op
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles

Pair = tuple[int, int]


def restore_tiles_reference(base: NDArray[Any], tiles: ActiveTiles, out: NDArray[Any]) -> NDArray[Any]:
    """The equation in NumPy. Arguments and result as in `restore_tiles`, but ``out`` is left alone."""
    spec, result, base = tiles.spec, out.copy(), np.broadcast_to(base, out.shape)
    for n, *position in tiles.index:
        for i, j in np.ndindex(*spec.size):
            row, col = (spec.offset[a] + spec.stride[a] * position[a] + (i, j)[a] for a in (0, 1))
            if 0 <= row < out.shape[1] and 0 <= col < out.shape[2]:
                result[n, row, col] = base[n, row, col]
    return result


@cpu_kernel(parallel=True)
def _restore_tiles_cpu(
    base: NDArray[Any], index: NDArray[np.int32], size: Pair, stride: Pair, offset: Pair, out: NDArray[Any]
) -> None:
    """Tiles in parallel: where they overlap, both write the same."""
    _, rows, cols, channels = out.shape
    for m in prange(index.shape[0]):
        n, top, left = index[m, 0], offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        source = n if base.shape[0] > 1 else 0
        for row in range(max(0, top), min(top + size[0], rows)):
            for col in range(max(0, left), min(left + size[1], cols)):
                for k in range(channels):
                    out[n, row, col, k] = base[source, row, col, k]


@cuda.jit
def _restore_tiles_cuda(base: Any, index: Any, count: Any, size: Any, stride: Any, offset: Any, out: Any) -> None:
    """One tile per thread block at a time; neighbouring threads copy neighbouring channels."""
    images, rows, cols, channels = out.shape
    width = size[1] * channels
    for m in range(cuda.blockIdx.x, count[0], cuda.gridDim.x):
        n = index[m, 0]
        source = n if base.shape[0] > 1 else 0
        top, left = offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        for element in range(cuda.threadIdx.x, size[0] * width, cuda.blockDim.x):
            row, rest = top + element // width, element % width
            col, k = left + rest // channels, rest % channels
            if 0 <= n < images and 0 <= row < rows and 0 <= col < cols:
                out[n, row, col, k] = base[source, row, col, k]


def restore_tiles(base: Any, tiles: ActiveTiles | DeviceTiles, out: Any) -> Any:
    """Sets the cells of the active tiles back to those of ``base``, in place.

    Args:
        base: (N, H, W, C) or (1, H, W, C) float32, one image standing for all; on the device also float16.
        tiles: which cells; on the device if the maps are. They may overlap.
        out: (N, H, W, C) map of base's dtype; cells outside the tiles keep their values.

    Returns:
        ``out``.

    Raises:
        TypeError: if a dtype is wrong, or arrays and tiles are not in one place.
        ValueError: if a shape is wrong, or the tiles name an image that out does not have.
    """
    device = on_device(base, tiles.index, out)
    check_array("base", base, [np.float32, np.float16] if device else np.float32, ("N", "H", "W", "C"))
    check_array("out", out, base.dtype, ("N" if base.shape[0] == 1 else base.shape[0], *base.shape[1:]))
    spec = tiles.spec
    if isinstance(tiles, DeviceTiles):
        geometry = (spec.size, spec.stride, spec.offset)
        _restore_tiles_cuda[blocks(), THREADS, stream()](base, tiles.index, tiles.count, *geometry, out)
    else:
        tiles.check_images(out.shape[0])
        _restore_tiles_cpu(base, tiles.index, spec.size, spec.stride, spec.offset, out)
    return out


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    spec = TileSpec((3, 4), (2, 5), (-1, -2), (4, 3)) if scale == "small" else TileSpec.covering((352, 400), 16)
    images, rows, cols, channels = (2, 8, 12, 3) if scale == "small" else (1, 352, 400, 64)
    tiles = random_tiles(rng, spec, 0.4 if scale == "small" else 0.1, images)
    base = rng.standard_normal((1, rows, cols, channels), np.float32)
    return {"base": base, "tiles": tiles, "out": np.full((images, rows, cols, channels), 10, np.float32)}


_PAIR = "UniTuple(int64, 2)"
_TILES = f"int32[:,::1], int32[::1], {_PAIR}, {_PAIR}, {_PAIR}"
OPS = (
    Op(
        name="restore_tiles",
        function=restore_tiles,
        reference=restore_tiles_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=tuple(
            CudaKernel(_restore_tiles_cuda, f"void({number}[:,:,:,::1], {_TILES}, {number}[:,:,:,::1])")
            for number in ("float32", "float16")
        ),
        summary="cells of the active tiles, copied from the response to an empty scene",
    ),
)
