"""`box_voting`: kept boxes moved to the mean of the candidates that agree with them.

Equation, for every kept box i, over the candidates j with ``iou(i, j) > iou_threshold`` and a positive score s_j::

    box_i' = box_i + sum_j s_j (box_j - box_i) / sum_j s_j

where a difference of yaws is folded into [-pi/2, pi/2), as a rectangle that is turned by half a turn is the same one,
and the new yaw into [-pi, pi].
The other boxes stay as they are, as does a box that nothing votes for; ``iou`` is that of `kernels.rotated_iou` on
the boxes' x, y, length, width and yaw. Neighbouring cells of the network see a car independently enough for their mean
to be better than the best of them. After Gidaris and Komodakis, ICCV 2015, "bounding box voting".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream
from kernels.nms import BEV_COLUMNS, BOX_COLUMNS, heaps_of_boxes, nms
from kernels.op import Close, CudaKernel, Op
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

YAW = BOX_COLUMNS - 1
SUMS = BOX_COLUMNS + 1  # of the weighted differences, and of the weights
WARP = 32
ROUNDING = 1.0 + 1e-9  # so that the bound never refuses what the overlap itself would let through


def box_voting_reference(
    boxes: Float32,
    scores: Float32,
    kept: NDArray[np.integer],
    iou_threshold: float,
    count: NDArray[np.int32] | None = None,
    kept_count: NDArray[np.int32] | None = None,
) -> Float32:
    """The equation above in NumPy. Arguments and result as in `box_voting`."""
    voted = boxes.copy()
    if count is not None:
        boxes, scores = boxes[: count[0]], scores[: count[0]]
    if kept_count is not None:
        kept = kept[: kept_count[0]]
    overlap = rotated_iou_reference(boxes[kept][:, BEV_COLUMNS], boxes[:, BEV_COLUMNS])
    for row, index in enumerate(kept):
        voters = (overlap[row] > iou_threshold) & (scores > 0)
        if voters.any():
            apart = boxes[voters].astype(np.float64) - boxes[index]
            apart[:, YAW] = (apart[:, YAW] + np.pi / 2) % np.pi - np.pi / 2
            moved = boxes[index] + np.average(apart, axis=0, weights=scores[voters])
            moved[YAW] -= np.trunc(moved[YAW] / np.pi) * 2 * np.pi
            voted[index] = moved
    return voted


def _folded(apart: Any) -> Any:
    """A difference of two yaws between -pi/2 and pi/2."""
    return apart - math.pi * math.floor(apart / math.pi + 0.5)


def _wrapped(yaw: Any) -> Any:
    """A yaw that left [-pi, pi] by less than half a turn."""
    if yaw > math.pi:
        return yaw - 2 * math.pi
    return yaw + 2 * math.pi if yaw < -math.pi else yaw


def _may_agree(a: Any, b: Any, iou_threshold: Any) -> Any:
    """Whether two rectangles can overlap by more than that: by the box around b along the sides of a, without clipping.

    The area they share, S, is at most that of this box with a; an IoU above t means S (1 + t) > t (A + B).
    """
    dx, dy = b[0] - a[0], b[1] - a[1]
    squares = a[2] * a[2] + a[3] * a[3] + b[2] * b[2] + b[3] * b[3]
    if not 2.0 * (dx * dx + dy * dy) < squares:  # circles around them do not meet, as with nearly every pair
        return False
    cos, sin = math.cos(a[4]), math.sin(a[4])
    x, y = abs(cos * dx + sin * dy), abs(cos * dy - sin * dx)
    cos, sin = abs(math.cos(b[4] - a[4])), abs(math.sin(b[4] - a[4]))
    length, width = (cos * b[2] + sin * b[3]) / 2, (sin * b[2] + cos * b[3]) / 2
    along = min(a[2] / 2, x + length) - max(-a[2] / 2, x - length)
    across = min(a[3] / 2, y + width) - max(-a[3] / 2, y - width)
    areas = a[2] * a[3] + b[2] * b[3]
    return along > 0.0 and across > 0.0 and along * across * (1.0 + iou_threshold) * ROUNDING > iou_threshold * areas


def _rectangle(box: Any, rectangle: Any) -> None:
    for column in range(RECTANGLE_COLUMNS):
        rectangle[column] = box[BEV_COLUMNS[column]]


_PARTS = (_folded, _wrapped, _may_agree, _rectangle)
_folded_cpu, _wrapped_cpu, _may_agree_cpu, _rectangle_cpu = (cpu_kernel(inline=True)(each) for each in _PARTS)
_folded_cuda, _wrapped_cuda, _may_agree_cuda, _rectangle_cuda = (
    cuda.jit(device=True, inline="always")(each) for each in _PARTS
)


@cpu_kernel()
def _box_voting_cpu(
    boxes: Float32,
    scores: Float32,
    kept: NDArray[np.int64],
    iou_threshold: float,
    rectangles: Float64,
    sums: Float64,
    scratch: Float64,
    voted: Float32,
) -> None:
    """Writes the kept boxes. ``rectangles``, ``sums`` and ``scratch`` are scratch."""
    for index in range(len(boxes)):
        _rectangle_cpu(boxes[index], rectangles[index])
    for index in kept:
        sums[:] = 0
        for other in range(len(boxes)):
            if not (scores[other] > 0 and _may_agree_cpu(rectangles[index], rectangles[other], iou_threshold)):
                continue
            if pair_iou_cpu(rectangles[index], rectangles[other], scratch) > iou_threshold:
                weight = np.float64(scores[other])
                for column in range(YAW):
                    sums[column] += weight * (np.float64(boxes[other, column]) - boxes[index, column])
                sums[YAW] += weight * _folded_cpu(np.float64(boxes[other, YAW]) - boxes[index, YAW])
                sums[BOX_COLUMNS] += weight
        if sums[BOX_COLUMNS] > 0:
            for column in range(BOX_COLUMNS):
                moved = boxes[index, column] + sums[column] / sums[BOX_COLUMNS]
                voted[index, column] = _wrapped_cpu(moved) if column == YAW else moved


@cuda.jit
def _copy_boxes_cuda(boxes: Any, voted: Any) -> None:
    for place in range(cuda.grid(1), boxes.size, cuda.gridsize(1)):
        voted[place // BOX_COLUMNS, place % BOX_COLUMNS] = boxes[place // BOX_COLUMNS, place % BOX_COLUMNS]


@cuda.jit
def _box_voting_cuda(
    boxes: Any, scores: Any, count: Any, kept: Any, kept_count: Any, iou_threshold: Any, voted: Any
) -> None:
    """A warp per kept box; the sums of its threads are added up in a fixed order."""
    scratch = cuda.local.array(SCRATCH_SHAPE, np.float64)
    mine, theirs = cuda.local.array(RECTANGLE_COLUMNS, np.float64), cuda.local.array(RECTANGLE_COLUMNS, np.float64)
    sums = cuda.shared.array((WARP, SUMS), np.float64)
    thread = cuda.threadIdx.x
    for place in range(cuda.blockIdx.x, kept_count[0], cuda.gridDim.x):
        index = kept[place]
        _rectangle_cuda(boxes[index], mine)
        for column in range(SUMS):
            sums[thread, column] = 0.0
        for other in range(thread, count[0], WARP):
            _rectangle_cuda(boxes[other], theirs)
            if not (scores[other] > np.float32(0) and _may_agree_cuda(mine, theirs, iou_threshold)):
                continue
            if pair_iou_cuda(mine, theirs, scratch) > iou_threshold:
                weight = np.float64(scores[other])
                for column in range(YAW):
                    sums[thread, column] += weight * (np.float64(boxes[other, column]) - boxes[index, column])
                sums[thread, YAW] += weight * _folded_cuda(np.float64(boxes[other, YAW]) - boxes[index, YAW])
                sums[thread, BOX_COLUMNS] += weight
        cuda.syncthreads()
        if thread < SUMS:
            total = 0.0
            for each in range(WARP):
                total += sums[each, thread]
            sums[0, thread] = total
        cuda.syncthreads()
        if thread < BOX_COLUMNS and sums[0, BOX_COLUMNS] > 0.0:
            moved = boxes[index, thread] + sums[0, thread] / sums[0, BOX_COLUMNS]
            voted[index, thread] = _wrapped_cuda(moved) if thread == YAW else moved
        cuda.syncthreads()


def box_voting(
    boxes: Any,
    scores: Any,
    kept: Any,
    iou_threshold: float,
    count: Any | None = None,
    kept_count: Any | None = None,
    workspace: Workspace | None = None,
) -> Any:
    """Moves the boxes that `nms` kept to the mean of the candidates that overlap them, weighted with their scores.

    Args:
        boxes: (N, 7) float32, columns x, y, z of the centre, length, width, height [m], yaw [rad].
        scores: (N,) float32.
        kept: (K,) int64 or int32, the boxes to move, each once.
        iou_threshold: candidates that overlap more than this have a vote; 1 leaves all boxes as they are.
        count: (1,) int32: only so many boxes count, as in `DeviceCandidates`; None for all N, on the CPU only.
        kept_count: (1,) int32: only so many of ``kept`` count, as in `DeviceKept`; None for all K, on the CPU only.
        workspace: where scratch and the result are kept, until the next call with it; None makes a new one.

    Returns:
        (N, 7) float32, where the boxes are: ``boxes`` with the kept ones moved, their yaws in [-pi, pi].

    Raises:
        ValueError: if a shape is wrong, or a count is missing on the device.
        TypeError: if a dtype is wrong, or arrays are not in one place.
    """
    counts = [each for each in (count, kept_count) if each is not None]
    device = on_device(boxes, scores, kept, *counts)
    check_array("boxes", boxes, np.float32, ("N", BOX_COLUMNS))
    check_array("scores", scores, np.float32, (boxes.shape[0],))
    check_array("kept", kept, [np.int32, np.int64], ("K",))
    for each in counts:
        check_array("count", each, np.int32, (1,))
    workspace = workspace or Workspace(device)
    voted = workspace.array("box_voting.voted", boxes.shape, np.float32)
    if device:
        if len(counts) < 2:
            raise ValueError("no count or no kept_count, expected both for arrays on the device")
        _copy_boxes_cuda[blocks(), THREADS, stream()](boxes, voted)
        _box_voting_cuda[blocks(), WARP, stream()](boxes, scores, count, kept, kept_count, float(iou_threshold), voted)
        return voted
    size = len(boxes) if count is None else int(count[0])
    chosen = kept if kept_count is None else kept[: kept_count[0]]
    rectangles = workspace.array("box_voting.rectangles", (size, RECTANGLE_COLUMNS), np.float64)
    sums = workspace.array("box_voting.sums", (SUMS,), np.float64)
    scratch = workspace.array("box_voting.scratch", SCRATCH_SHAPE, np.float64)
    np.copyto(voted, boxes)
    _box_voting_cpu(boxes[:size], scores[:size], chosen, float(iou_threshold), rectangles, sums, scratch, voted)
    return voted


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    """What `nms` keeps of heaps of candidates, with room behind what counts."""
    candidates = heaps_of_boxes(rng, scale)
    size = len(candidates["scores"]) - 5
    kept = nms(candidates["boxes"][:size], candidates["scores"][:size], 0.1, 100)
    counts = {"count": size, "kept_count": len(kept) - 1}
    return {
        **candidates,
        "kept": kept.astype(np.int32),
        "iou_threshold": 0.5,
        **{name: np.array([value], np.int32) for name, value in counts.items()},
    }


_FLAT, _INDEX, _BOXES = "float32[::1]", "int32[::1]", "float32[:,::1]"
OPS = (
    Op(
        name="box_voting",
        function=box_voting,
        reference=box_voting_reference,
        make_inputs=_make_inputs,
        equality=Close(1e-5, "sums of weighted differences in another order"),
        cuda=(
            CudaKernel(_copy_boxes_cuda, f"void({_BOXES}, {_BOXES})"),
            CudaKernel(
                _box_voting_cuda,
                f"void({_BOXES}, {_FLAT}, {_INDEX}, {_INDEX}, {_INDEX}, float64, {_BOXES})",
                threads=WARP,
                float64=True,
            ),
        ),
        summary="kept boxes moved to the mean of the candidates that agree with them",
    ),
)
