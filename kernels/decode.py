"""`decode`: score and regression maps to candidate boxes.

Equation, for every output cell (row, col) whose score is at least the threshold, ``r`` its regression::

    x = x_min + (row + 0.5) * cell + r[0]        length, width, height = exp(clip(r[3:6], LOG_SIZE_RANGE))
    y = y_min + (col + 0.5) * cell + r[1]        z = r[2]        yaw = atan2(r[7], r[6])

The best ``max_candidates`` are returned, best score first, equal scores by cell (row, then column).
After PIXOR (Yang et al., CVPR 2018, section 3.2), with height added.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

REGRESSION_CHANNELS = 8
# 5 cm to 55 m: keeps a network that is fed nonsense from making infinite boxes.
LOG_SIZE_RANGE = (-3.0, 4.0)


def decode_reference(
    score: Float32,
    regression: Float32,
    origin_m: tuple[float, float],
    cell_m: float,
    threshold: float,
    max_candidates: int,
) -> tuple[Float32, Float32]:
    """The equation in NumPy. Arguments and results as in `decode`."""
    row, col = np.nonzero(score >= np.float32(threshold))
    order = np.argsort(-score[row, col], kind="stable")[:max_candidates]
    row, col = row[order], col[order]
    values = regression[row, col].astype(np.float64)
    x = origin_m[0] + (row + 0.5) * cell_m + values[:, 0]
    y = origin_m[1] + (col + 0.5) * cell_m + values[:, 1]
    sizes = np.exp(np.clip(values[:, 3:6], *LOG_SIZE_RANGE))
    yaw = np.arctan2(values[:, 7], values[:, 6])
    return np.column_stack([x, y, values[:, 2], sizes, yaw]).astype(np.float32), score[row, col]


@njit(cache=True, nogil=True, error_model="numpy")
def _candidates_cpu(score: Float32, threshold: float) -> NDArray[np.int64]:
    """Flat cell indices of all scores at or above the threshold, ascending."""
    count = 0
    for row in range(score.shape[0]):
        for col in range(score.shape[1]):
            count += score[row, col] >= threshold
    cells = np.empty(count, np.int64)
    count = 0
    for row in range(score.shape[0]):
        for col in range(score.shape[1]):
            if score[row, col] >= threshold:
                cells[count] = row * score.shape[1] + col
                count += 1
    return cells


@njit(cache=True, nogil=True, error_model="numpy")
def _decode_cpu(
    cells: NDArray[np.int64], regression: Float32, x_min: float, y_min: float, cell: float, boxes: Float32
) -> None:
    cols = regression.shape[1]
    for index in range(cells.shape[0]):
        row, col = cells[index] // cols, cells[index] % cols
        values = regression[row, col]
        boxes[index, 0] = x_min + (row + 0.5) * cell + values[0]
        boxes[index, 1] = y_min + (col + 0.5) * cell + values[1]
        boxes[index, 2] = values[2]
        for axis in range(3):
            boxes[index, 3 + axis] = np.exp(min(max(values[3 + axis], LOG_SIZE_RANGE[0]), LOG_SIZE_RANGE[1]))
        boxes[index, 6] = np.arctan2(values[7], values[6])


def decode(
    score: Float32,
    regression: Float32,
    origin_m: tuple[float, float],
    cell_m: float,
    threshold: float,
    max_candidates: int,
) -> tuple[Float32, Float32]:
    """Candidate boxes of one frame.

    Args:
        score: (rows, cols) float32 in [0, 1].
        regression: (rows, cols, 8) float32: dx, dy, z [m], log length, log width, log height, cos, sin of yaw.
        origin_m: x, y of the lower edges of row 0 and column 0, LiDAR frame.
        cell_m: side of an output cell.
        threshold: least score of a candidate.
        max_candidates: how many are returned at most.

    Returns:
        (N, 7) float32 boxes: centre x, y, z, length, width, height [m], yaw [rad]; (N,) float32 scores.

    Raises:
        TypeError: if a map is not float32.
        ValueError: if the maps' shapes do not fit, or max_candidates is below 1.
    """
    if score.dtype != np.float32 or regression.dtype != np.float32:
        raise TypeError(f"maps are {score.dtype} and {regression.dtype}, expected float32")
    if score.ndim != 2 or regression.shape != (*score.shape, REGRESSION_CHANNELS):
        raise ValueError(f"maps have shapes {score.shape}, {regression.shape}, expected (R, C) and (R, C, 8)")
    if max_candidates < 1:
        raise ValueError(f"max_candidates is {max_candidates}, expected at least 1")
    cells = _candidates_cpu(score, np.float32(threshold))
    scores = score.ravel()[cells]
    order = np.argsort(-scores, kind="stable")[:max_candidates]
    boxes = np.empty((len(order), 7), np.float32)
    _decode_cpu(cells[order], regression, float(origin_m[0]), float(origin_m[1]), float(cell_m), boxes)
    return boxes, scores[order]
