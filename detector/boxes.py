"""Boxes between frames: LiDAR boxes to KITTI labels and back, corners, image boxes, points inside.

Box columns and axes are those of `detector.types`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration
from detector.labels import KittiLabels
from detector.types import Detections

Float64 = NDArray[np.float64]

# Corner order: the bottom face counter-clockwise from front left, then the top face in the same order.
_CORNER_SIGNS = np.array(
    [[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]],
    np.float64,
)
BOX_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
RECTANGLE = [0, 1, 3, 4, 6]  # the columns of a box that `kernels.rotated_iou` takes
# Box edges are cut here before projection: pixels of points at or behind the camera mean nothing.
NEAR_PLANE_M = 0.1


def wrap_angle(angle_rad: Any) -> Any:
    """The same angle(s) in [-pi, pi), pi itself only by rounding."""
    return (np.asarray(angle_rad) + np.pi) % (2 * np.pi) - np.pi


def box_corners(boxes: NDArray[np.floating]) -> Float64:
    """(N, 8, 3) float64 corners [m] of (N, 7) boxes: bottom face from front left, then top face."""
    boxes = np.asarray(boxes, np.float64)
    local = _CORNER_SIGNS * boxes[:, None, 3:6] / 2
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = local[..., 0] * cos - local[..., 1] * sin
    y = local[..., 0] * sin + local[..., 1] * cos
    corners: Float64 = np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]
    return corners


def points_in_box(points: NDArray[np.floating], box: NDArray[np.floating], margin_m: float = 0.0) -> NDArray[np.bool_]:
    """(N,) bool: which points (N, 3 or more) [m] lie in ``box`` (7,), grown by ``margin_m`` on every side."""
    dx, dy, dz = points[:, 0] - box[0], points[:, 1] - box[1], points[:, 2] - box[2]
    cos, sin = np.cos(box[6]), np.sin(box[6])
    along, across = np.abs(cos * dx + sin * dy), np.abs(cos * dy - sin * dx)
    half = np.asarray(box[3:6]) / 2 + margin_m
    inside: NDArray[np.bool_] = (along <= half[0]) & (across <= half[1]) & (np.abs(dz) <= half[2])
    return inside


def boxes_from_labels(labels: KittiLabels, calibration: Calibration) -> Float64:
    """(N, 7) float64 LiDAR boxes of KITTI labels. DontCare objects have no 3D box: drop them before."""
    height, width, length = labels.dimensions_m.T
    centre = labels.locations_m - np.stack([0 * height, height / 2, 0 * height], axis=1)
    # The heading travels as a direction, so that a tilted camera is handled exactly.
    heading = np.stack([np.cos(labels.rotation_y_rad), 0 * height, -np.sin(labels.rotation_y_rad)], axis=1)
    direction = heading @ calibration.lidar_from_camera[:3, :3].T
    yaw = np.arctan2(direction[:, 1], direction[:, 0])
    return np.column_stack([calibration.to_lidar(centre), length, width, height, yaw])


def labels_from_boxes(
    boxes: NDArray[np.floating],
    calibration: Calibration,
    types: tuple[str, ...],
    scores: NDArray[np.floating] | None = None,
) -> tuple[KittiLabels, NDArray[np.bool_]]:
    """KITTI labels of (N, 7) LiDAR boxes, and which of them (N,) the camera sees at all.

    Truncation and occlusion are unknown (-1). The 2D box is the projection of the 3D box, clipped to the image.
    """
    boxes = np.asarray(boxes, np.float64)
    length, width, height = boxes[:, 3:6].T
    direction = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), 0 * height], axis=1)
    heading = direction @ calibration.camera_from_lidar[:3, :3].T
    rotation_y = np.arctan2(-heading[:, 2], heading[:, 0])
    location = calibration.to_camera(boxes) + np.stack([0 * height, height / 2, 0 * height], axis=1)
    alpha = wrap_angle(rotation_y - np.arctan2(location[:, 0], location[:, 2]))
    boxes_2d, visible = image_boxes(boxes, calibration)
    unknown = np.full(len(boxes), -1.0)
    labels = KittiLabels(
        types=types,
        truncated=unknown,
        occluded=unknown,
        alpha_rad=alpha,
        boxes_2d=boxes_2d,
        dimensions_m=np.column_stack([height, width, length]),
        locations_m=location,
        rotation_y_rad=rotation_y,
        scores=np.full(len(boxes), np.nan) if scores is None else np.asarray(scores, np.float64),
    )
    return labels, visible


def labels_from_detections(detections: Detections, calibration: Calibration) -> KittiLabels:
    """KITTI result lines of the detections that the camera sees; a label file cannot hold the others."""
    labels, visible = labels_from_boxes(detections.boxes, calibration, detections.labels, detections.scores)
    return labels.select(visible)


def image_boxes(
    boxes: NDArray[np.floating], calibration: Calibration, clip: bool = True
) -> tuple[Float64, NDArray[np.bool_]]:
    """2D boxes around the projections of (N, 7) LiDAR boxes.

    Returns:
        (N, 4) float64 left, top, right, bottom [pixels], clipped to the image unless ``clip`` is off, and
        (N,) bool: whether anything of the box is in front of the camera and inside the image.
    """
    boxes_2d = np.zeros((len(boxes), 4))
    visible = np.zeros(len(boxes), bool)
    limit = np.array([*calibration.image_size, *calibration.image_size], np.float64) - 1
    for index, corners in enumerate(box_corners(boxes)):
        segments = segments_in_front(calibration.to_camera(corners)[BOX_EDGES])
        if not len(segments):
            continue
        pixels = calibration.project(segments.reshape(-1, 3))
        box = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
        clipped = np.clip(box, 0, limit)
        boxes_2d[index] = clipped if clip else box
        visible[index] = clipped[2] > clipped[0] and clipped[3] > clipped[1]
    return boxes_2d, visible


def segments_in_front(segments: Float64) -> Float64:
    """(K, 2, 3) float64: the parts of (M, 2, 3) camera-frame segments [m] beyond the near plane, K <= M."""
    depth = segments[..., 2]
    keep = (depth > NEAR_PLANE_M).any(axis=1)
    segments, depth = segments[keep].copy(), depth[keep]
    for end in (0, 1):
        behind = depth[:, end] < NEAR_PLANE_M
        start, other = segments[behind, end], segments[behind, 1 - end]
        share = (NEAR_PLANE_M - start[:, 2]) / (other[:, 2] - start[:, 2])
        segments[behind, end] = start + share[:, None] * (other - start)
    return segments
