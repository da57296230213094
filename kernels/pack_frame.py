"""`pack_frame`: what a frame's result is, gathered in one array, so that it leaves the device in one copy.

Equation, with K boxes kept and M tiles run; numbers of tiles are exact in float32, as there are less than 2**24::

    out[0, :2]       = K, M
    out[1 + i]       = boxes[kept[i]], scores[kept[i]]                                   for i < K
    tail[m]          = index[m, 1] * tile_cols + index[m, 2]                             for m < M

where ``tail`` is ``out`` from row 1 + R on, flat. All else keeps its values.
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

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
COLUMNS = 8  # of a row: seven of the box, and its score
MOST_TILES = 1 << 24


def packed_rows(max_boxes: int, tiles: int) -> int:
    """Rows of the packed array for at most so many boxes and tiles."""
    return 1 + max_boxes + -(-tiles // COLUMNS)


def pack_frame_reference(
    boxes: Float32,
    scores: Float32,
    kept: Int32,
    kept_count: Int32,
    index: Int32,
    tile_count: Int32,
    tile_cols: int,
    max_boxes: int,
    out: Float32,
) -> Float32:
    """The equation in NumPy. Arguments and result as in `pack_frame`, but ``out`` is left alone."""
    result, chosen, tiles = out.copy(), kept[: kept_count[0]], index[: tile_count[0]]
    result[0, :2] = len(chosen), len(tiles)
    result[1 : 1 + len(chosen)] = np.column_stack([boxes[chosen], scores[chosen]])
    result[1 + max_boxes :].reshape(-1)[: len(tiles)] = tiles[:, 1] * tile_cols + tiles[:, 2]
    return result


def _pack(
    boxes: Any,
    scores: Any,
    kept: Any,
    kept_count: Any,
    index: Any,
    tile_count: Any,
    tile_cols: Any,
    max_boxes: Any,
    out: Any,
    first: Any,
    step: Any,
) -> None:
    """Every ``step``-th number from ``first`` on."""
    if first == 0:
        out[0, 0], out[0, 1] = np.float32(kept_count[0]), np.float32(tile_count[0])
    for place in range(first, kept_count[0] * COLUMNS, step):
        row, column = place // COLUMNS, place % COLUMNS
        chosen = kept[row]
        out[1 + row, column] = scores[chosen] if column == COLUMNS - 1 else boxes[chosen, column]
    for m in range(first, tile_count[0], step):
        out[1 + max_boxes + m // COLUMNS, m % COLUMNS] = np.float32(index[m, 1] * tile_cols + index[m, 2])


_pack_cpu = cpu_kernel()(_pack)
_pack_on_device = cuda.jit(device=True, inline="always")(_pack)


@cuda.jit
def _pack_cuda(
    boxes: Any,
    scores: Any,
    kept: Any,
    kept_count: Any,
    index: Any,
    tile_count: Any,
    tile_cols: Any,
    max_boxes: Any,
    out: Any,
) -> None:
    """One number per thread."""
    first, step = cuda.grid(1), cuda.gridsize(1)
    _pack_on_device(boxes, scores, kept, kept_count, index, tile_count, tile_cols, max_boxes, out, first, step)


def pack_frame(
    boxes: Any,
    scores: Any,
    kept: Any,
    kept_count: Any,
    index: Any,
    tile_count: Any,
    tile_cols: int,
    max_boxes: int,
    out: Any,
) -> Any:
    """Gathers boxes, scores and tiles of one frame, in place in ``out``.

    Args:
        boxes: (N, 7) float32 candidates, columns as in `kernels.decode`.
        scores: (N,) float32.
        kept: (at least K,) int32, which of them are kept.
        kept_count: (1,) int32, K; at most ``max_boxes``.
        index: (at least M, 3) int32, image, row, column of the tiles that ran; one image.
        tile_count: (1,) int32, M.
        tile_cols: tiles along the columns; a tile's number is ``row * tile_cols + column``.
        max_boxes: room for boxes, R.
        out: (`packed_rows`, 8) float32.

    Returns:
        ``out``; `unpack_frame` reads it.

    Raises:
        TypeError: if a dtype is wrong, or arrays are not in one place.
        ValueError: if a shape is wrong, ``out`` has too few rows, or there are too many tiles to number.
    """
    device = on_device(boxes, scores, kept, kept_count, index, tile_count, out)
    check_array("boxes", boxes, np.float32, ("N", COLUMNS - 1))
    check_array("scores", scores, np.float32, (boxes.shape[0],))
    check_array("kept", kept, np.int32, ("K",))
    check_array("index", index, np.int32, ("M", 3))
    for name, count in (("kept_count", kept_count), ("tile_count", tile_count)):
        check_array(name, count, np.int32, (1,))
    check_array("out", out, np.float32, ("rows", COLUMNS))
    if out.shape[0] < packed_rows(max_boxes, index.shape[0]) or index.shape[0] >= MOST_TILES:
        raise ValueError(
            f"out has {out.shape[0]} rows, expected {packed_rows(max_boxes, index.shape[0])} for {max_boxes} boxes and "
            f"{index.shape[0]} tiles, and less than {MOST_TILES} tiles"
        )
    arguments = (boxes, scores, kept, kept_count, index, tile_count, tile_cols, max_boxes, out)
    if device:
        _pack_cuda[blocks(), THREADS, stream()](*arguments)
    else:
        _pack_cpu(*arguments, 0, 1)
    return out


def unpack_frame(packed: Float32, max_boxes: int, tile_cols: int) -> tuple[Float32, Float32, Int32]:
    """What `pack_frame` gathered, on the host.

    Args:
        packed: (rows, 8) float32.
        max_boxes: as there.
        tile_cols: as there.

    Returns:
        (K, 7) float32 boxes, (K,) float32 scores, (M, 3) int32 tiles.
    """
    boxes, tiles = int(packed[0, 0]), int(packed[0, 1])
    numbers = packed[1 + max_boxes :].reshape(-1)[:tiles].astype(np.int32)
    rows, cols = np.divmod(numbers, tile_cols)
    kept = packed[1 : 1 + boxes]
    index = np.column_stack([np.zeros_like(rows), rows, cols]).astype(np.int32)
    return kept[:, : COLUMNS - 1].copy(), kept[:, COLUMNS - 1].copy(), index


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    candidates, most, shape = (9, 5, (4, 5)) if scale == "small" else (2000, 200, (44, 50))
    index = np.argwhere(rng.random((1, *shape)) < 0.4).astype(np.int32)
    return {
        "boxes": rng.standard_normal((candidates, COLUMNS - 1), np.float32),
        "scores": rng.random(candidates, np.float32),
        "kept": rng.permutation(candidates).astype(np.int32),
        "kept_count": np.array([most - 1], np.int32),
        "index": np.concatenate([index, np.full((shape[0], 3), -1, np.int32)]),  # room for more
        "tile_count": np.array([len(index)], np.int32),
        "tile_cols": shape[1],
        "max_boxes": most,
        "out": np.full((packed_rows(most, len(index) + shape[0]), COLUMNS), -5, np.float32),
    }


_FLAT, _LIST = "int32[::1]", "int32[:,::1]"
_BOXES = "float32[:,::1]"
OPS = (
    Op(
        name="pack_frame",
        function=pack_frame,
        reference=pack_frame_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(
            CudaKernel(
                _pack_cuda,
                f"void({_BOXES}, float32[::1], {_FLAT}, {_FLAT}, {_LIST}, {_FLAT}, int64, int64, {_BOXES})",
            ),
        ),
        summary="kept boxes, scores and tiles of a frame, gathered for one copy",
    ),
)
