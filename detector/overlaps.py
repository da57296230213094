"""How much the objects of a frame overlap: in the image, seen from above, and by volume.

G counts ground-truth objects, D detections.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detector.labels import KittiLabels
from kernels.rotated_iou import rotated_intersection

Float64 = NDArray[np.float64]


def ground_range_m(labels: KittiLabels) -> Float64:
    """(N,) float64 distance of the objects from the camera over the ground [m]."""
    range_m: Float64 = np.hypot(labels.locations_m[:, 0], labels.locations_m[:, 2])
    return range_m


def image_overlaps(truth: KittiLabels, found: KittiLabels) -> tuple[Float64, Float64]:
    """Overlaps of the 2D boxes [pixels].

    Returns:
        (G, D) float64, intersection over union, and (G, D) float64, the share of each *detection* that each
        ground-truth box covers, which is how DontCare regions are held against detections.
    """
    a, b = truth.boxes_2d[:, None], found.boxes_2d[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.where((sides > 0).all(axis=-1), sides.prod(axis=-1), 0.0)
    area_a, area_b = ((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (a, b))
    return _ratio(shared, area_a + area_b - shared), _ratio(shared, area_b + 0 * shared)


def box_overlaps(truth: KittiLabels, found: KittiLabels) -> tuple[Float64, Float64]:
    """(G, D) float64 intersection over union of the 3D boxes: seen from above, and by volume."""
    ground_truth, ground_found = _ground_rectangles(truth), _ground_rectangles(found)
    shared = _shared_areas(ground_truth, ground_found)
    area_a, area_b = ground_truth[:, None, 2:4].prod(axis=-1), ground_found[None, :, 2:4].prod(axis=-1)

    # y points down and the location is the bottom face: a box spans y - height .. y.
    bottom_a, bottom_b = truth.locations_m[:, None, 1], found.locations_m[None, :, 1]
    height_a, height_b = truth.dimensions_m[:, None, 0], found.dimensions_m[None, :, 0]
    top, bottom = np.maximum(bottom_a - height_a, bottom_b - height_b), np.minimum(bottom_a, bottom_b)
    volume = shared * np.maximum(bottom - top, 0)
    bev = _ratio(shared, area_a + area_b - shared)
    return bev, _ratio(volume, area_a * height_a + area_b * height_b - volume)


def _ratio(shared: Float64, union: Float64) -> Float64:
    """``shared / union``, and 0 where nothing is shared (boxes without size, or with negative size)."""
    return np.divide(shared, union, out=np.zeros_like(shared), where=(shared > 0) & (union > 0))


def _ground_rectangles(labels: KittiLabels) -> Float64:
    """(N, 5) rectangles in the camera's x-z plane, columns as in `kernels.rotated_iou`.

    rotation_y turns x towards -z (y points down), hence the sign.
    """
    x, _, z = labels.locations_m.T
    _, width, length = labels.dimensions_m.T
    return np.column_stack([x, z, length, width, -labels.rotation_y_rad])


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _shared_areas(boxes_a: Float64, boxes_b: Float64) -> Float64:
    areas = np.empty((len(boxes_a), len(boxes_b)))
    for row in range(len(boxes_a)):
        for col in range(len(boxes_b)):
            areas[row, col] = rotated_intersection(boxes_a[row], boxes_b[col])
    return areas
