"""Non-maximum suppression of rotated boxes, seen from above.

Going through the boxes from the best score to the worst (equal scores: lower index first),
``kept = kept + [i]  if  iou(i, k) <= iou_threshold for every k in kept``, until ``max_boxes`` are kept;
``iou`` is that of `kernels.rotated_iou` on the boxes' x, y, length, width and yaw.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from kernels.rotated_iou import rotated_iou_reference, rotated_pair_iou

BOX_COLUMNS = 7
# x, y, length, width, yaw among x, y, z, length, width, height, yaw.
_BEV_COLUMNS = [0, 1, 3, 4, 6]


def nms_reference(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float, max_boxes: int
) -> NDArray[np.int64]:
    """The equation above in NumPy: (K,) int64. Arguments as `nms`."""
    bev = boxes[:, _BEV_COLUMNS]
    overlap = rotated_iou_reference(bev, bev)
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda index: (-scores[index], index)):
        if len(kept) < max_boxes and (overlap[index, kept] <= iou_threshold).all():
            kept.append(index)
    return np.array(kept, np.int64)


def nms(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], iou_threshold: float, max_boxes: int
) -> NDArray[np.int64]:
    """The boxes that no better kept box overlaps by more than ``iou_threshold`` in bird's-eye view.

    Args:
        boxes: (N, 7) float32, columns x, y, z of the centre, length, width, height [m], yaw [rad].
        scores: (N,) float32; N may be 0.
        iou_threshold: largest overlap that is let through, 0..1.
        max_boxes: largest number of boxes kept.

    Returns:
        (K,) int64, indices into ``boxes``, best score first; K <= max_boxes.

    Raises:
        ValueError: if a shape is wrong, the lengths differ, or ``max_boxes`` is negative.
        TypeError: if a dtype is not float32.
    """
    if boxes.ndim != 2 or boxes.shape[1] != BOX_COLUMNS:
        raise ValueError(f"boxes have shape {boxes.shape}, expected (N, {BOX_COLUMNS})")
    if scores.shape != (len(boxes),):
        raise ValueError(f"scores have shape {scores.shape}, expected {(len(boxes),)}: one per box")
    if boxes.dtype != np.float32 or scores.dtype != np.float32:
        raise TypeError(f"boxes are {boxes.dtype} and scores {scores.dtype}, expected float32 both")
    if max_boxes < 0:
        raise ValueError(f"max_boxes is {max_boxes}, expected 0 or more")
    order = np.argsort(-scores, kind="stable")  # stable: equal scores stay in the order of their index
    bev = boxes[order][:, _BEV_COLUMNS].astype(np.float64)
    kept: NDArray[np.int64] = order[_nms_cpu(bev, iou_threshold, max_boxes)]
    return kept


@njit(cache=True, nogil=True)
def _nms_cpu(boxes: NDArray[np.float64], iou_threshold: float, max_boxes: int) -> NDArray[np.int64]:
    """Ranks (K,) kept among (N, 5) rectangles, best first."""
    kept = np.empty(min(max_boxes, len(boxes)), np.int64)
    count = 0
    for rank in range(len(boxes)):
        if count == len(kept):
            break
        alone = True
        for index in range(count):
            # Pairs whose circles do not meet, nearly all of them, are settled before any clipping.
            if rotated_pair_iou(boxes[rank], boxes[kept[index]]) > iou_threshold:
                alone = False
                break
        if alone:
            kept[count] = rank
            count += 1
    return kept[:count]
