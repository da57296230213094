"""Rotated IoU: how much two sets of rectangles in one plane overlap.

``iou[i, j] = area(A_i ∩ B_j) / (area(A_i) + area(B_j) - area(A_i ∩ B_j))``, and 0 where A_i ∩ B_j is empty.

A rectangle is ``x, y`` of its centre, length along its heading, width across it, and the heading's angle
from x towards y. The intersection of two rectangles is convex: one is clipped by the four sides of the other
(Sutherland and Hodgman, "Reentrant polygon clipping", CACM 1974) and the shoelace formula gives its area.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

RECTANGLE_COLUMNS = 5
# Clipping n vertices keeps the k inside and adds at most 2 * min(k, n - k) crossings: at most 1.5 n, whatever
# the rounding. Four sides make that 6, 9, 13, 19. Exact arithmetic would need 8.
_MAX_VERTICES = 19


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


def rotated_iou(boxes_a: NDArray[np.floating], boxes_b: NDArray[np.floating]) -> Float64:
    """Intersection over union of every rectangle of ``boxes_a`` with every one of ``boxes_b``.

    Args:
        boxes_a: (N, 5) float32 or float64, columns x, y, length, width [m], yaw [rad], all in one plane.
        boxes_b: (M, 5), likewise.

    Returns:
        (N, M) float64 in [0, 1]; 0 for rectangles without area.

    Raises:
        ValueError: if a shape is not (N, 5).
        TypeError: if a dtype is neither float32 nor float64.
    """
    return _rotated_iou_cpu(_checked("boxes_a", boxes_a), _checked("boxes_b", boxes_b))  # type: ignore[no-any-return]


def _checked(name: str, boxes: NDArray[np.floating]) -> Float64:
    """The rectangles as contiguous float64, refused if they are of another shape or type."""
    if boxes.ndim != 2 or boxes.shape[1] != RECTANGLE_COLUMNS:
        raise ValueError(f"{name} has shape {boxes.shape}, expected (N, {RECTANGLE_COLUMNS}): x, y, length, width, yaw")
    if boxes.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} is {boxes.dtype}, expected float32 or float64")
    return np.ascontiguousarray(boxes, np.float64)


@njit(cache=True, nogil=True)
def _rotated_iou_cpu(boxes_a: Float64, boxes_b: Float64) -> Float64:
    iou = np.empty((len(boxes_a), len(boxes_b)))
    for row in range(len(boxes_a)):
        for col in range(len(boxes_b)):
            iou[row, col] = rotated_pair_iou(boxes_a[row], boxes_b[col])
    return iou


@njit(cache=True, nogil=True)
def rotated_pair_iou(a: Float64, b: Float64) -> float:
    """IoU in [0, 1] of two rectangles (5,) float64, columns as in `rotated_iou`; for use inside kernels."""
    shared = rotated_intersection(a, b)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared) if shared > 0.0 else 0.0


@njit(cache=True, nogil=True)
def rotated_intersection(a: Float64, b: Float64) -> float:
    """Area [m²] that two rectangles (5,) float64 share, columns as in `rotated_iou`; for use inside kernels.

    At most the smaller area, 0 if a size is not positive or a number is not finite.
    """
    dx, dy = a[0] - b[0], a[1] - b[1]
    if min(a[2], a[3], b[2], b[3]) <= 0.0:
        return 0.0
    # Circles around the rectangles that do not meet rule out nearly every pair for a few multiplications.
    reach = math.hypot(a[2], a[3]) + math.hypot(b[2], b[3])
    if 4.0 * (dx * dx + dy * dy) >= reach * reach:
        return 0.0

    # Corners of a in the frame of b, where b's sides are x = ±length/2 and y = ±width/2: no cancellation
    # of large coordinates, and a side costs one comparison.
    cos_b, sin_b = math.cos(b[4]), math.sin(b[4])
    cos, sin = math.cos(a[4] - b[4]), math.sin(a[4] - b[4])
    centre_x, centre_y = cos_b * dx + sin_b * dy, cos_b * dy - sin_b * dx
    polygon, clipped = np.empty((_MAX_VERTICES, 2)), np.empty((_MAX_VERTICES, 2))
    for corner in range(4):
        along = a[2] / 2 if corner in (0, 3) else -a[2] / 2
        across = a[3] / 2 if corner < 2 else -a[3] / 2
        polygon[corner, 0] = centre_x + cos * along - sin * across
        polygon[corner, 1] = centre_y + sin * along + cos * across
    count = 4
    for axis in range(2):
        for sign in (1.0, -1.0):
            count = _clip(polygon, count, axis, sign, b[2 + axis] / 2, clipped)
            polygon, clipped = clipped, polygon

    twice_area = 0.0
    for index in range(count):
        after = index + 1 if index + 1 < count else 0
        twice_area += polygon[index, 0] * polygon[after, 1] - polygon[after, 0] * polygon[index, 1]
    # Rounding may end above the smaller area, or below zero for a sliver; NaN fails the comparison too.
    return min(twice_area / 2, a[2] * a[3], b[2] * b[3]) if twice_area > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _clip(polygon: Float64, count: int, axis: int, sign: float, limit: float, clipped: Float64) -> int:
    """Writes the part of ``polygon`` (its first ``count`` vertices) with ``sign * vertex[axis] <= limit``."""
    kept = 0
    for index in range(count):
        before = index - 1 if index > 0 else count - 1
        inside = limit - sign * polygon[index, axis]
        inside_before = limit - sign * polygon[before, axis]
        if inside * inside_before < 0.0:
            share = inside_before / (inside_before - inside)
            clipped[kept, axis] = sign * limit
            other = 1 - axis
            clipped[kept, other] = polygon[before, other] + share * (polygon[index, other] - polygon[before, other])
            kept += 1
        if inside >= 0.0:
            clipped[kept, 0], clipped[kept, 1] = polygon[index, 0], polygon[index, 1]
            kept += 1
    return kept
