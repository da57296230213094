"""`nms`: non-maximum suppression of rotated boxes, seen from above.

Equation: going through the boxes from the best score to the worst (equal scores: lower index first, NaN last),
``kept = kept + [i]  if  iou(i, k) <= iou_threshold for every k in kept``, until ``max_boxes`` are kept;
``iou`` is that of `kernels.rotated_iou` on the boxes' x, y, length, width and yaw.

On the device all pairs are compared at once, then one thread block walks down the list. Overlaps are float64 there
too, so that backends keep the same boxes: an overlap would have to meet the threshold to the last digits to differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream, to_host
from kernels.op import CudaKernel, Exact, Op
from kernels.ordering import rank_of, sort_scores
from kernels.rotated_iou import (
    RECTANGLE_COLUMNS,
    SCRATCH_SHAPE,
    pair_iou_cpu,
    pair_iou_cuda,
    rotated_iou_reference,
)
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BOX_COLUMNS = 7
BEV_COLUMNS = (0, 1, 3, 4, 6)  # x, y, length, width, yaw among x, y, z, length, width, height, yaw
_WORD_BITS = 32


@dataclass(frozen=True)
class DeviceKept:
    """Boxes that were kept, on the device. Their number stays there too, so that no frame waits for the host.

    Attributes:
        index: (capacity,) int32 device array; the first ``count`` are as in `nms`.
        count: (1,) int32 device array.
    """

    index: Any
    count: Any

    def to_host(self) -> NDArray[np.int64]:
        """(K,) int64 as `nms` returns it on the CPU; waits for the device."""
        kept: NDArray[np.int64] = to_host(self.index)[: int(to_host(self.count)[0])].astype(np.int64)
        return kept


def nms_reference(boxes: Float32, scores: Float32, iou_threshold: float, max_boxes: int) -> NDArray[np.int64]:
    """The equation above in NumPy: (K,) int64. Arguments as `nms`."""
    bev = boxes[:, BEV_COLUMNS]
    overlap = rotated_iou_reference(bev, bev)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable").tolist():
        if len(kept) < max_boxes and (overlap[index, kept] <= iou_threshold).all():
            kept.append(index)
    return np.array(kept, np.int64)


@cpu_kernel()
def _nms_cpu(
    boxes: Float32,
    scores: Float32,
    iou_threshold: float,
    order: NDArray[np.int64],
    kept_bev: Float64,
    scratch: Float64,
    kept: NDArray[np.int64],
) -> int:
    """Writes what is kept as long as there is room; returns how many. ``order`` to ``scratch`` are scratch."""
    count: int = 0
    for index in sort_scores(scores, order):
        if count == kept.shape[0]:
            break
        for column in range(RECTANGLE_COLUMNS):
            kept_bev[count, column] = boxes[index, BEV_COLUMNS[column]]
        alone = True
        for better in range(count):
            # Pairs whose circles do not meet, nearly all of them, are settled before any clipping.
            if pair_iou_cpu(kept_bev[count], kept_bev[better], scratch) > iou_threshold:
                alone = False
                break
        if alone:
            kept[count] = index
            count += 1
    return count


@cuda.jit
def _set_cuda(value: Any, target: Any) -> None:
    target[0] = value


@cuda.jit
def _sort_boxes_cuda(boxes: Any, scores: Any, count: Any, order: Any, bev: Any) -> None:
    """One box per thread: it counts the better ones, which gives its place."""
    for index in range(cuda.grid(1), count[0], cuda.gridsize(1)):
        rank = rank_of(index, scores, count[0])
        order[rank] = index
        for column in range(RECTANGLE_COLUMNS):
            bev[rank, column] = boxes[index, BEV_COLUMNS[column]]


@cuda.jit
def _overlaps_cuda(bev: Any, count: Any, iou_threshold: Any, overlaps: Any) -> None:
    """One thread per word: bit b of overlaps[i, w] says that box i overlaps the worse box 32 w + b too much."""
    scratch = cuda.local.array(SCRATCH_SHAPE, np.float64)
    total = count[0]
    words = (total + _WORD_BITS - 1) // _WORD_BITS
    for place in range(cuda.grid(1), total * words, cuda.gridsize(1)):
        row, word = place // words, place % words
        bits = 0
        for col in range(max(row + 1, word * _WORD_BITS), min((word + 1) * _WORD_BITS, total)):
            if pair_iou_cuda(bev[col], bev[row], scratch) > iou_threshold:
                bits |= 1 << (col % _WORD_BITS)
        overlaps[row, word] = bits


@cuda.jit
def _keep_cuda(overlaps: Any, order: Any, count: Any, room: Any, removed: Any, kept: Any, kept_count: Any) -> None:
    """One block, from the best box to the worst: one that is not removed is kept and removes what it overlaps."""
    words = (count[0] + _WORD_BITS - 1) // _WORD_BITS
    for word in range(cuda.threadIdx.x, words, cuda.blockDim.x):
        removed[word] = 0
    found = 0
    for rank in range(count[0]):
        # The bit of this rank is set no more once its turn has come, so all threads see the same.
        cuda.syncthreads()
        if found < room and not (removed[rank // _WORD_BITS] >> (rank % _WORD_BITS)) & 1:
            if cuda.threadIdx.x == 0:
                kept[found] = order[rank]
            found += 1
            for word in range(cuda.threadIdx.x, words, cuda.blockDim.x):
                removed[word] |= overlaps[rank, word]
    if cuda.threadIdx.x == 0:
        kept_count[0] = found


def nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    max_boxes: int,
    count: Any | None = None,
    workspace: Workspace | None = None,
) -> Any:
    """The boxes that no better kept box overlaps by more than ``iou_threshold`` in bird's-eye view.

    Args:
        boxes: (N, 7) float32, columns x, y, z of the centre, length, width, height [m], yaw [rad].
        scores: (N,) float32; N may be 0.
        iou_threshold: largest overlap that is let through, 0..1.
        max_boxes: largest number of boxes kept.
        count: (1,) int32: only so many boxes count; None for all N. On the device, that of `DeviceCandidates`.
        workspace: where scratch and the result are kept, until the next call with it; None makes a new one.

    Returns:
        (K,) int64, indices into ``boxes``, best score first; K <= max_boxes. For boxes on the device `DeviceKept`
        with room for N.

    Raises:
        ValueError: if a shape is wrong, the lengths differ, or ``max_boxes`` is negative.
        TypeError: if boxes or scores are not float32, count is not int32, or arrays are not in one place.
    """
    device = on_device(boxes, scores) if count is None else on_device(boxes, scores, count)
    check_array("boxes", boxes, np.float32, ("N", BOX_COLUMNS))
    size = boxes.shape[0]
    check_array("scores", scores, np.float32, (size,))
    if count is not None:
        check_array("count", count, np.int32, (1,))
    if max_boxes < 0:
        raise ValueError(f"max_boxes is {max_boxes}, expected 0 or more")
    workspace = workspace or Workspace(device)
    if device:
        return _nms_device(boxes, scores, iou_threshold, max_boxes, count, workspace)
    if count is not None:
        boxes, scores = boxes[: count[0]], scores[: count[0]]
    kept = workspace.array("nms.kept", (min(max_boxes, size),), np.int64)
    order = workspace.array("nms.order", (2, len(boxes)), np.int64)
    kept_bev = workspace.array("nms.kept_bev", (len(kept) + 1, RECTANGLE_COLUMNS), np.float64)
    scratch = workspace.array("nms.scratch", SCRATCH_SHAPE, np.float64)
    return kept[: _nms_cpu(boxes, scores, float(iou_threshold), order, kept_bev, scratch, kept)]


def _nms_device(
    boxes: Any, scores: Any, iou_threshold: float, max_boxes: int, count: Any | None, workspace: Workspace
) -> DeviceKept:
    size = boxes.shape[0]
    words = -(-size // _WORD_BITS)
    if count is None:
        count = workspace.array("nms.count", (1,), np.int32)
        _set_cuda[1, 1, stream()](size, count)
    order = workspace.array("nms.order", (size,), np.int32)
    bev = workspace.array("nms.bev", (size, RECTANGLE_COLUMNS), np.float64)
    overlaps = workspace.array("nms.overlaps", (size, words), np.uint32)
    removed = workspace.array("nms.removed", (words,), np.uint32)
    kept = workspace.array("nms.kept", (size,), np.int32)
    kept_count = workspace.array("nms.kept_count", (1,), np.int32)
    _sort_boxes_cuda[blocks(), THREADS, stream()](boxes, scores, count, order, bev)
    _overlaps_cuda[blocks(), THREADS, stream()](bev, count, float(iou_threshold), overlaps)
    _keep_cuda[1, THREADS, stream()](overlaps, order, count, max_boxes, removed, kept, kept_count)
    return DeviceKept(kept, kept_count)


def heaps_of_boxes(rng: np.random.Generator, scale: str) -> Mapping[str, Float32]:
    """Inputs of ops on candidates: heaps of ten around cars of all headings; small ones have few different scores.

    Args:
        rng: of all that is drawn.
        scale: as `Op.make_inputs` has it.

    Returns:
        boxes (N, 7) float32 and scores (N,) float32.
    """
    cars, side_m, steps = (4, 20, 8) if scale == "small" else (50, 70, 10_000)
    low, high = (0, 0, -1.5, 3.5, 1.5, 1.4, -np.pi), (side_m, side_m, -0.5, 5, 2, 1.8, np.pi)
    boxes = rng.uniform(low, high, (cars, BOX_COLUMNS)).repeat(10, axis=0)
    boxes += rng.normal(0, 0.15, boxes.shape)
    scores = rng.integers(0, steps, len(boxes)) / steps
    return {"boxes": boxes.astype(np.float32), "scores": scores.astype(np.float32)}


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    return {**heaps_of_boxes(rng, scale), "iou_threshold": 0.1, "max_boxes": 100}


_FLAT, _INDEX, _WORDS = "float32[::1]", "int32[::1]", "uint32[:,::1]"
OPS = (
    Op(
        name="nms",
        function=nms,
        reference=nms_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=(
            CudaKernel(_set_cuda, f"void(int64, {_INDEX})", threads=1),
            CudaKernel(
                _sort_boxes_cuda,
                f"void(float32[:,::1], {_FLAT}, {_INDEX}, {_INDEX}, float64[:,::1])",
                float64=True,
            ),
            CudaKernel(_overlaps_cuda, f"void(float64[:,::1], {_INDEX}, float64, {_WORDS})", float64=True),
            CudaKernel(_keep_cuda, f"void({_WORDS}, {_INDEX}, {_INDEX}, int64, uint32[::1], {_INDEX}, {_INDEX})"),
        ),
        summary="boxes that no better one overlaps too much, best first",
    ),
)
