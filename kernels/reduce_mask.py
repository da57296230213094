"""`reduce_mask`: a computation mask to the list of active tiles.

Equation, with tile (n, r, c) covering rows ``offset + stride * r`` up to ``+ size`` of image n and columns likewise::

    value = max or mean of the mask over the tile;  active iff value > threshold (strictly)

Cells outside the image do not count, but the mean divides by the full tile area, so a border tile that sticks
out is diluted, as in SBNet's ``reduce_mask`` (sbnet_ops, CVPR 2018). Unlike there the list is sorted, indices
are int32, and an empty mask gives zero tiles instead of a dummy one. A mean adds cells row by row in float32, so
that every backend rounds alike; NaN is above nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream
from kernels.op import CudaKernel, Exact, Op
from kernels.ordering import SCAN_THREADS, sum_before
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec
from kernels.workspace import Workspace

POOLINGS = ("max", "mean")
Pair = tuple[int, int]


def reduce_mask_reference(
    mask: NDArray[np.float32], spec: TileSpec, threshold: float = 0.0, pooling: str = "max"
) -> ActiveTiles:
    """The equation in NumPy. Arguments and result as in `reduce_mask`."""
    active, area = [], np.float32(spec.size[0] * spec.size[1])
    for batch, image in enumerate(mask):
        for row, col in np.ndindex(*spec.count):
            start = [spec.offset[a] + spec.stride[a] * (row, col)[a] for a in (0, 1)]
            stop = [max(start[a] + spec.size[a], 0) for a in (0, 1)]
            tile = image[max(start[0], 0) : stop[0], max(start[1], 0) : stop[1]]
            if not tile.size:
                continue
            value = np.fmax.reduce(tile, axis=None) if pooling == "max" else np.cumsum(tile.ravel())[-1] / area
            if value > np.float32(threshold):
                active.append((batch, row, col))
    return ActiveTiles(np.array(active, np.int32).reshape(-1, 3), spec)


def _is_active(mask: Any, n: Any, row: Any, col: Any, geometry: Any, mean: Any, threshold: Any) -> Any:
    """Whether tile (n, row, col) runs; ``geometry`` is the size, stride and offset of tiles."""
    size, stride, offset = geometry
    top, left = offset[0] + stride[0] * row, offset[1] + stride[1] * col
    bottom, right = min(top + size[0], mask.shape[1]), min(left + size[1], mask.shape[2])
    top, left = max(top, 0), max(left, 0)
    total = np.float32(0)
    for y in range(top, bottom):
        for x in range(left, right):
            if not mean and mask[n, y, x] > threshold:
                return True
            total += mask[n, y, x]
    return mean and top < bottom and left < right and total / np.float32(size[0] * size[1]) > threshold


_is_active_cpu = cpu_kernel(inline=True)(_is_active)
_is_active_cuda = cuda.jit(device=True, inline="always")(_is_active)


@cpu_kernel()
def _reduce_mask_cpu(
    mask: NDArray[np.float32],
    count: Pair,
    geometry: tuple[Pair, Pair, Pair],
    mean: bool,
    threshold: np.float32,
    index: NDArray[np.int32],
) -> int:
    """Writes the active tiles; returns how many."""
    found = 0
    for n in range(mask.shape[0]):
        for row in range(count[0]):
            for col in range(count[1]):
                if _is_active_cpu(mask, n, row, col, geometry, mean, threshold):
                    index[found, 0], index[found, 1], index[found, 2] = n, row, col
                    found += 1
    return found


@cuda.jit
def _pool_cuda(mask: Any, geometry: Any, mean: Any, threshold: Any, active: Any) -> None:
    """One tile per thread: 1 where it is active, else 0."""
    _, rows, cols = active.shape
    for tile in range(cuda.grid(1), active.size, cuda.gridsize(1)):
        n, row, col = tile // (rows * cols), tile // cols % rows, tile % cols
        active[n, row, col] = 1 if _is_active_cuda(mask, n, row, col, geometry, mean, threshold) else 0


@cuda.jit
def _list_cuda(active: Any, index: Any, count: Any) -> None:
    """One block: every thread lists a run of tiles behind those of the threads before it."""
    sums = cuda.shared.array(SCAN_THREADS, np.int32)
    _, rows, cols = active.shape
    run = (active.size + cuda.blockDim.x - 1) // cuda.blockDim.x
    first = cuda.threadIdx.x * run
    last, found = min(first + run, active.size), 0
    for tile in range(first, last):
        found += active[tile // (rows * cols), tile // cols % rows, tile % cols]
    place = sum_before(found, sums)
    for tile in range(first, last):
        n, row, col = tile // (rows * cols), tile // cols % rows, tile % cols
        if active[n, row, col]:
            index[place, 0], index[place, 1], index[place, 2] = n, row, col
            place += 1
    if cuda.threadIdx.x == cuda.blockDim.x - 1:
        count[0] = place


def reduce_mask(
    mask: Any, spec: TileSpec, threshold: float = 0.0, pooling: str = "max", workspace: Workspace | None = None
) -> Any:
    """The active tiles of a batch of masks, sorted by image, row, column.

    Args:
        mask: (N, H, W) float32.
        spec: geometry of the tiles, in cells of the mask.
        threshold: a tile runs iff its pooled value is strictly above.
        pooling: "max" or "mean".
        workspace: where the list is kept, until the next call with it; None makes a new one.

    Returns:
        `ActiveTiles`; for a mask on the device `DeviceTiles` with room for every tile.

    Raises:
        TypeError: if the mask is not float32.
        ValueError: if the mask has another shape or the pooling is unknown.
    """
    device = on_device(mask)
    check_array("mask", mask, np.float32, ("N", "H", "W"))
    if pooling not in POOLINGS:
        raise ValueError(f"pooling is '{pooling}', expected one of {POOLINGS}")
    workspace = workspace or Workspace(device)
    geometry, shape = (spec.size, spec.stride, spec.offset), (mask.shape[0], *spec.count)
    rule = (geometry, pooling == "mean", np.float32(threshold))
    total = mask.shape[0] * spec.total
    index = workspace.array("reduce_mask.index", (max(total, 1), 3), np.int32)
    if not device:
        return ActiveTiles(index[: _reduce_mask_cpu(mask, spec.count, *rule, index)], spec)
    count = workspace.array("reduce_mask.count", (1,), np.int32)
    active = workspace.array("reduce_mask.active", shape, np.int32)
    _pool_cuda[blocks(), THREADS, stream()](mask, *rule, active)
    _list_cuda[1, SCAN_THREADS, stream()](active, index, count)
    return DeviceTiles(index, count, spec)


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    if scale == "small":
        mask = np.where(rng.random((2, 9, 11)) < 0.1, rng.random((2, 9, 11)), 0).astype(np.float32)
        return {"mask": mask, "spec": TileSpec((3, 4), (2, 3), (-1, -2), (5, 4)), "threshold": 0.2, "pooling": "max"}
    mask = (rng.random((1, 88, 100)) < 0.03).astype(np.float32)
    return {"mask": mask, "spec": TileSpec.covering((88, 100), 2), "threshold": 0.0, "pooling": "max"}


def _make_mean(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    inputs = dict(_make_inputs(rng, scale))
    mask = rng.random(inputs["mask"].shape, np.float32)
    return {**inputs, "mask": mask, "threshold": 0.4, "pooling": "mean"}


_GEOMETRY = "UniTuple(UniTuple(int64, 2), 3)"
_CUDA = (
    CudaKernel(_pool_cuda, f"void(float32[:,:,::1], {_GEOMETRY}, boolean, float32, int32[:,:,::1])"),
    CudaKernel(_list_cuda, "void(int32[:,:,::1], int32[:,::1], int32[::1])", threads=SCAN_THREADS),
)
OPS = (
    Op(
        name="reduce_mask",
        function=reduce_mask,
        reference=reduce_mask_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=_CUDA,
        summary="computation mask → sorted list of active tiles, by their largest cell",
    ),
    Op(
        name="reduce_mask_mean",
        function=reduce_mask,
        reference=reduce_mask_reference,
        make_inputs=_make_mean,
        equality=Exact(),
        cuda=_CUDA,
        summary="the same, by their mean",
    ),
)
