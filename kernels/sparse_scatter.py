"""`sparse_scatter`: a stack of tiles, written or added into a map.

Equation, for active tile m = (n, r, c) and cell (i, j) of it, all channels at once::

    out[n, offset_rows + stride_rows * r + i, offset_cols + stride_cols * c + j]  =  stack[m, i, j]
                                                                  (with ``add``) +=  stack[m, i, j]

and nothing where that lies outside the map. SBNet's ``sparse_scatter`` (CVPR 2018, section 3.1), in place as its
``sparse_scatter_var``. Overlapping tiles cannot be written, only added; there the CPU adds in the order of the
tiles and CUDA atomically in any order.
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
from kernels.op import Close, CudaKernel, Exact, Op
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles

Pair = tuple[int, int]


def sparse_scatter_reference(
    stack: NDArray[Any], tiles: ActiveTiles, out: NDArray[Any], add: bool = False
) -> NDArray[Any]:
    """The equation in NumPy. Arguments and result as in `sparse_scatter`, but ``out`` is left alone."""
    spec, result = tiles.spec, out.copy()
    for m, (n, *position) in enumerate(tiles.index):
        for i, j in np.ndindex(*spec.size):
            row, col = (spec.offset[a] + spec.stride[a] * position[a] + (i, j)[a] for a in (0, 1))
            if 0 <= row < out.shape[1] and 0 <= col < out.shape[2]:
                result[n, row, col] = stack[m, i, j] + (result[n, row, col] if add else 0)
    return result


@cpu_kernel(inline=True)
def _scatter_tile(stack: NDArray[Any], m: int, n: int, top: int, left: int, add: bool, out: NDArray[Any]) -> None:
    first, last = max(0, -left), min(stack.shape[2], out.shape[2] - left)
    for i in range(max(0, -top), min(stack.shape[1], out.shape[1] - top)):
        for j in range(first, last):
            for k in range(stack.shape[3]):
                value = stack[m, i, j, k]
                out[n, top + i, left + j, k] = out[n, top + i, left + j, k] + value if add else value


@cpu_kernel(parallel=True)
def _sparse_scatter_cpu(
    stack: NDArray[Any], index: NDArray[np.int32], stride: Pair, offset: Pair, add: bool, out: NDArray[Any]
) -> None:
    for m in prange(index.shape[0]):
        n, top, left = index[m, 0], offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        _scatter_tile(stack, m, n, top, left, add, out)


@cpu_kernel()
def _overlapping_add_cpu(
    stack: NDArray[Any], index: NDArray[np.int32], stride: Pair, offset: Pair, out: NDArray[Any]
) -> None:
    """One thread, one order: sums of the same cell come out the same every time."""
    for m in range(index.shape[0]):
        n, top, left = index[m, 0], offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        _scatter_tile(stack, m, n, top, left, True, out)


@cuda.jit
def _sparse_scatter_cuda(stack: Any, index: Any, count: Any, stride: Any, offset: Any, add: Any, out: Any) -> None:
    """One tile per thread block at a time; atomic only when adding, where tiles may share cells."""
    channels = stack.shape[3]
    width = stack.shape[2] * channels
    for m in range(cuda.blockIdx.x, count[0], cuda.gridDim.x):
        n = index[m, 0]
        top, left = offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        for element in range(cuda.threadIdx.x, stack.shape[1] * width, cuda.blockDim.x):
            i, rest = element // width, element % width
            j, k = rest // channels, rest % channels
            if 0 <= n < out.shape[0] and 0 <= top + i < out.shape[1] and 0 <= left + j < out.shape[2]:
                if add:
                    cuda.atomic.add(out, (n, top + i, left + j, k), stack[m, i, j, k])
                else:
                    out[n, top + i, left + j, k] = stack[m, i, j, k]


def sparse_scatter(stack: Any, tiles: ActiveTiles | DeviceTiles, out: Any, add: bool = False) -> Any:
    """Puts a stack of tiles back into a map, in place.

    Args:
        stack: (M, rows, cols, C) float32, M = tiles (on the device: their capacity); on the device also float16,
            but not with ``add``.
        tiles: where the images of the stack belong.
        out: (N, H, W, C) map of the stack's dtype; cells outside the tiles keep their values.
        add: add instead of write; then tiles may overlap.

    Returns:
        ``out``.

    Raises:
        TypeError: if a dtype is wrong, or arrays and tiles are not in one place.
        ValueError: if a shape is wrong, tiles overlap without ``add``, or they name an image that out does not have.
    """
    device = on_device(stack, tiles.index, out)
    half = [np.float16] if device and not add else []
    check_array("stack", stack, [np.float32, *half], (len(tiles.index), *tiles.spec.size, "C"))
    check_array("out", out, stack.dtype, ("N", "H", "W", stack.shape[3]))
    spec = tiles.spec
    if spec.overlapping and not add:
        raise ValueError(
            f"tiles of {spec.size} cells every {spec.stride} overlap, so what is written would depend on the order; "
            "expected a stride of at least the size, or add=True"
        )
    if isinstance(tiles, DeviceTiles):
        _sparse_scatter_cuda[blocks(), THREADS, stream()](
            stack, tiles.index, tiles.count, spec.stride, spec.offset, add, out
        )
        return out
    tiles.check_images(out.shape[0])
    if add and spec.overlapping:
        _overlapping_add_cpu(stack, tiles.index, spec.stride, spec.offset, out)
    else:
        _sparse_scatter_cpu(stack, tiles.index, spec.stride, spec.offset, add, out)
    return out


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    spec = TileSpec((3, 4), (4, 5), (-1, -2), (3, 3)) if scale == "small" else TileSpec.covering((352, 400), 16)
    images, rows, cols, channels = (2, 11, 12, 3) if scale == "small" else (1, 352, 400, 64)
    tiles = random_tiles(rng, spec, 0.5 if scale == "small" else 0.1, images)
    stack = rng.standard_normal((len(tiles), *spec.size, channels), np.float32)
    return {"stack": stack, "tiles": tiles, "out": np.full((images, rows, cols, channels), 10, np.float32)}


def _make_overlapping(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    inputs = dict(_make_inputs(rng, scale))
    spec = inputs["tiles"].spec
    closer = TileSpec(spec.size, (spec.size[0] - 1, spec.size[1] - 1), spec.offset, spec.count)
    return {**inputs, "tiles": ActiveTiles(inputs["tiles"].index, closer), "add": True}


_PAIR = "UniTuple(int64, 2)"
_MAP = "float32[:,:,:,::1]"
_CUDA = (
    CudaKernel(_sparse_scatter_cuda, f"void({_MAP}, int32[:,::1], int32[::1], {_PAIR}, {_PAIR}, boolean, {_MAP})"),
)
OPS = (
    Op(
        name="sparse_scatter",
        function=sparse_scatter,
        reference=sparse_scatter_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=_CUDA,
        summary="a stack of tiles written into a map in place; outside it dropped",
    ),
    Op(
        name="sparse_scatter_add",
        function=sparse_scatter,
        reference=sparse_scatter_reference,
        make_inputs=_make_overlapping,
        equality=Close(1e-6, "CUDA adds overlapping tiles in any order"),
        cuda=_CUDA,
        summary="the same, added; tiles may overlap",
    ),
)
