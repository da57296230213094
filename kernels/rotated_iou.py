"""`rotated_iou`: how much two sets of rectangles in one plane overlap.

Equation::

    iou[i, j] = area(A_i ∩ B_j) / (area(A_i) + area(B_j) - area(A_i ∩ B_j))        0 where A_i ∩ B_j is empty

A rectangle is ``x, y`` of its centre, length along its heading, width across it, and the heading's angle
from x towards y. The intersection of two rectangles is convex: one is clipped by the four sides of the other
(Sutherland and Hodgman, "Reentrant polygon clipping", CACM 1974) and the shoelace formula gives its area.
Everything is computed in float64: the area is a difference of products of coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, new_array, on_device, stream
from kernels.op import Close, CudaKernel, Op
from kernels.workspace import Workspace

Float64 = NDArray[np.float64]

RECTANGLE_COLUMNS = 5
# Clipping n vertices keeps the k inside and adds at most 2 * min(k, n - k) crossings: at most 1.5 n, whatever
# the rounding. Four sides make that 6, 9, 13, 19. Exact arithmetic would need 8.
SCRATCH_SHAPE = (2, 19, 2)  # float64: x, y of the vertices before and after a side has clipped them


def rotated_iou_reference(boxes_a: NDArray[np.floating], boxes_b: NDArray[np.floating]) -> Float64:
    """The equation above in NumPy, one pair at a time: (N, M) float64. Arguments as `rotated_iou`."""
    iou = np.zeros((len(boxes_a), len(boxes_b)))
    for row, a in enumerate(np.asarray(boxes_a, np.float64)):
        for col, b in enumerate(np.asarray(boxes_b, np.float64)):
            polygon, sides = _corners_reference(a), _corners_reference(b)
            for start, end in zip(sides, np.roll(sides, -1, axis=0), strict=True):
                polygon = _clip_reference(polygon, start, end)
            x, y = (polygon - b[:2]).T if len(polygon) else np.zeros((2, 1))
            shared = 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
            area_a, area_b = a[2] * a[3], b[2] * b[3]
            shared = min(max(shared, 0.0), area_a, area_b)
            iou[row, col] = shared / (area_a + area_b - shared) if shared > 0 else 0.0
    return iou


def _corners_reference(box: Float64) -> Float64:
    """(4, 2) corners of one rectangle (5,), counter-clockwise."""
    cos, sin = np.cos(box[4]), np.sin(box[4])
    local = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * box[2:4] / 2
    corners: Float64 = local @ np.array([[cos, sin], [-sin, cos]]) + box[:2]
    return corners


def _clip_reference(polygon: Float64, start: Float64, end: Float64) -> Float64:
    """The part of a (K, 2) polygon on the left of the line from ``start`` to ``end`` (2,)."""
    left = [float(np.linalg.det(np.array([end - start, vertex - start]))) for vertex in polygon]
    kept = []
    for index, vertex in enumerate(polygon):
        previous, now, before = polygon[index - 1], left[index], left[index - 1]
        if now * before < 0:
            kept.append(previous + (vertex - previous) * before / (before - now))
        if now >= 0:
            kept.append(vertex)
    return np.array(kept).reshape(-1, 2)


def _place(dx: Any, dy: Any, turn: Any, yaw_b: Any, length: Any, width: Any, polygon: Any) -> None:
    """Corners of a rectangle a in the frame of b, where b's sides are x = ±length/2 and y = ±width/2.

    So large coordinates do not cancel, and a side costs one comparison. ``turn`` is a's heading seen from b's.
    """
    cos, sin = math.cos(yaw_b), math.sin(yaw_b)
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    cos, sin = math.cos(turn), math.sin(turn)
    for corner in range(4):
        along = length / 2 if corner == 0 or corner == 3 else -length / 2
        across = width / 2 if corner < 2 else -width / 2
        polygon[corner, 0] = x + cos * along - sin * across
        polygon[corner, 1] = y + sin * along + cos * across


def _clip(polygon: Any, count: Any, axis: Any, sign: Any, limit: Any, clipped: Any) -> Any:
    """Writes the part of ``polygon`` (its first ``count`` vertices) with ``sign * vertex[axis] <= limit``."""
    kept, other = 0, 1 - axis
    for index in range(count):
        before = index - 1 if index > 0 else count - 1
        inside = limit - sign * polygon[index, axis]
        inside_before = limit - sign * polygon[before, axis]
        if inside * inside_before < 0.0:
            share = inside_before / (inside_before - inside)
            clipped[kept, axis] = sign * limit
            clipped[kept, other] = polygon[before, other] + share * (polygon[index, other] - polygon[before, other])
            kept += 1
        if inside >= 0.0:
            clipped[kept, 0], clipped[kept, 1] = polygon[index, 0], polygon[index, 1]
            kept += 1
    return kept


def _twice_area(polygon: Any, count: Any) -> Any:
    total = 0.0
    for index in range(count):
        after = index + 1 if index + 1 < count else 0
        total += polygon[index, 0] * polygon[after, 1] - polygon[after, 0] * polygon[index, 1]
    return total


def _compiled(jit: Any) -> tuple[Any, Any]:
    """Shared area and IoU of two rectangles, compiled by ``jit``: one source for the CPU and for CUDA."""
    place, clip, twice_area = jit(_place), jit(_clip), jit(_twice_area)

    @jit
    def intersection(a: Any, b: Any, scratch: Any) -> Any:
        dx, dy = np.float64(a[0]) - np.float64(b[0]), np.float64(a[1]) - np.float64(b[1])
        length, width = np.float64(a[2]), np.float64(a[3])
        smaller = min(length * width, np.float64(b[2]) * np.float64(b[3]))
        if min(a[2], a[3], b[2], b[3]) <= 0.0:
            return 0.0
        # Circles around the rectangles that do not meet rule out nearly every pair for a few multiplications:
        # diagonals p and q of them have (p + q)² <= 2 (p² + q²).
        squares = length * length + width * width + np.float64(b[2]) * b[2] + np.float64(b[3]) * b[3]
        if 2.0 * (dx * dx + dy * dy) >= squares:
            return 0.0
        yaw_b = np.float64(b[4])
        place(dx, dy, np.float64(a[4]) - yaw_b, yaw_b, length, width, scratch[0])
        count = 4
        for side in range(4):
            axis, now = side // 2, side % 2
            count = clip(scratch[now], count, axis, 1.0 - 2.0 * now, np.float64(b[2 + axis]) / 2, scratch[1 - now])
        area = twice_area(scratch[0], count) / 2
        # Rounding may end above the smaller area, or below zero for a sliver; NaN fails the comparison too.
        return min(area, smaller) if area > 0.0 else 0.0

    @jit
    def pair_iou(a: Any, b: Any, scratch: Any) -> Any:
        shared = intersection(a, b, scratch)
        union = np.float64(a[2]) * np.float64(a[3]) + np.float64(b[2]) * np.float64(b[3]) - shared
        return shared / union if shared > 0.0 else 0.0

    return intersection, pair_iou


# For use inside kernels: (a, b, scratch), two rectangles (5,) float32 or float64, and SCRATCH_SHAPE float64 that they
# overwrite. The area [m²] is at most the smaller one, the IoU in [0, 1]; both are 0 if a size is not positive or a
# number is not finite.
intersection_cpu, pair_iou_cpu = _compiled(cpu_kernel(inline=True))
intersection_cuda, pair_iou_cuda = _compiled(cuda.jit(device=True, inline="always"))


@cpu_kernel()
def rotated_intersection(a: Float64, b: Float64) -> float:
    """Area [m²] that two rectangles (5,) share, as `intersection_cpu`, with scratch of its own; inside kernels."""
    area: float = intersection_cpu(a, b, np.empty(SCRATCH_SHAPE))
    return area


@cpu_kernel()
def _rotated_iou_cpu(boxes_a: Float64, boxes_b: Float64, scratch: Float64, iou: Float64) -> None:
    for row in range(len(boxes_a)):
        for col in range(len(boxes_b)):
            iou[row, col] = pair_iou_cpu(boxes_a[row], boxes_b[col], scratch)


@cuda.jit
def _rotated_iou_cuda(boxes_a: Any, boxes_b: Any, iou: Any) -> None:
    """One pair per thread."""
    scratch = cuda.local.array(SCRATCH_SHAPE, np.float64)
    cols = boxes_b.shape[0]
    for pair in range(cuda.grid(1), boxes_a.shape[0] * cols, cuda.gridsize(1)):
        iou[pair // cols, pair % cols] = pair_iou_cuda(boxes_a[pair // cols], boxes_b[pair % cols], scratch)


def rotated_iou(boxes_a: Any, boxes_b: Any, out: Any | None = None, workspace: Workspace | None = None) -> Any:
    """Intersection over union of every rectangle of ``boxes_a`` with every one of ``boxes_b``.

    Args:
        boxes_a: (N, 5) float32 or float64, columns x, y, length, width [m], yaw [rad], all in one plane.
        boxes_b: (M, 5), likewise.
        out: (N, M) float64 to write into; None makes a new one.
        workspace: scratch for the CPU; None makes a new one.

    Returns:
        (N, M) float64 in [0, 1], where the boxes are; 0 for rectangles without area.

    Raises:
        ValueError: if a shape is not (N, 5), or out does not fit.
        TypeError: if a dtype is neither float32 nor float64, out is not float64, or arrays are not in one place.
    """
    device = on_device(boxes_a, boxes_b) if out is None else on_device(boxes_a, boxes_b, out)
    for name, boxes in (("boxes_a", boxes_a), ("boxes_b", boxes_b)):
        check_array(name, boxes, [np.float32, np.float64], ("N", RECTANGLE_COLUMNS))
    shape = (boxes_a.shape[0], boxes_b.shape[0])
    if out is None:
        out = new_array(shape, np.float64, device)
    check_array("out", out, np.float64, shape)
    if device:
        _rotated_iou_cuda[blocks(), THREADS, stream()](boxes_a, boxes_b, out)
        return out
    scratch = (workspace or Workspace()).array("rotated_iou.scratch", SCRATCH_SHAPE, np.float64)
    # One type and layout: Numba compiles anew for every other.
    boxes_a, boxes_b = (np.ascontiguousarray(boxes, np.float64) for boxes in (boxes_a, boxes_b))
    _rotated_iou_cpu(boxes_a, boxes_b, scratch, out)
    return out


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    """Cars of all headings, crowded: about every sixth pair of the small input overlaps."""
    count, side_m = (8, 12) if scale == "small" else (500, 80)
    low, high = (0, 0, 3.5, 1.5, -np.pi), (side_m, side_m, 5, 2, np.pi)
    boxes_a, boxes_b = (rng.uniform(low, high, (count, RECTANGLE_COLUMNS)).astype(np.float32) for _ in range(2))
    return {"boxes_a": boxes_a, "boxes_b": boxes_b}


OPS = (
    Op(
        name="rotated_iou",
        function=rotated_iou,
        reference=rotated_iou_reference,
        make_inputs=_make_inputs,
        equality=Close(1e-9, "the reference clips in other coordinates, so float64 rounds along another path"),
        cuda=tuple(
            CudaKernel(_rotated_iou_cuda, f"void({boxes}, {boxes}, float64[:,::1])", float64=True)
            for boxes in ("float32[:,::1]", "float64[:,::1]")
        ),
        summary="intersection over union of every two rotated rectangles",
    ),
)
