"""Overlaps between the objects of one frame, and their matching by the rules of the KITTI object benchmark.

Source: the KITTI object development kit of 2017, functions ``cleanData`` and ``computeStatistics``.
G counts ground-truth objects, D detections, T score thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detector.labels import CAR, NEIGHBOUR, KittiLabels
from kernels.rotated_iou import rotated_intersection

Float64 = NDArray[np.float64]

# What a detection is worth at one difficulty.
COUNTED, IGNORED, ABSENT = 0, 1, -1


class Metric(NamedTuple):
    """What counts as overlap, and how much of it makes a match."""

    kind: str
    min_overlap: float


class Difficulty(NamedTuple):
    """Which objects count: at least so high in the image, at most so occluded and truncated."""

    min_height_px: float
    max_occlusion: int
    max_truncation: float


METRICS = {
    "2d": Metric("2d", 0.7),
    "bev": Metric("bev", 0.7),
    "3d": Metric("3d", 0.7),
    "bev_50": Metric("bev", 0.5),
    "3d_50": Metric("3d", 0.5),
}
DIFFICULTIES = {
    "easy": Difficulty(40, 0, 0.15),
    "moderate": Difficulty(25, 1, 0.30),
    "hard": Difficulty(25, 2, 0.50),
}


class FramePair:
    """What was found in one frame beside what is there, with the overlaps computed once for all difficulties.

    Args:
        found: D detections with scores.
        labels: the objects of the frame; G of them are cars or vans.
    """

    def __init__(self, found: KittiLabels, labels: KittiLabels) -> None:
        names = np.array([name.lower() for name in labels.types], dtype=object)
        # Other classes play no part; finding a van is neither right nor wrong.
        self._truth = labels.select((names == CAR.lower()) | (names == NEIGHBOUR.lower()))
        self._found = found
        bev, volume = box_overlaps(self._truth, found)
        self._overlaps = {"2d": image_overlaps(self._truth, found)[0], "bev": bev, "3d": volume}
        # DontCare regions exist in the image only, so in the other metrics they excuse nothing.
        covered = image_overlaps(labels.select(names == "dontcare"), found)[1].max(axis=0, initial=0.0)
        self._covered = {"2d": covered, "bev": np.zeros(len(found)), "3d": np.zeros(len(found))}

    def truth_ignored(self, difficulty: Difficulty) -> NDArray[np.bool_]:
        """(G,) bool: vans, and cars that are too small, occluded or truncated to ask for."""
        truth = self._truth
        too_hard = (
            (truth.occluded > difficulty.max_occlusion)
            | (truth.truncated > difficulty.max_truncation)
            | (truth.boxes_2d[:, 3] - truth.boxes_2d[:, 1] <= difficulty.min_height_px)
        )
        return ~_is_car(truth) | too_hard

    def found_state(self, difficulty: Difficulty) -> NDArray[np.int8]:
        """(D,) int8: COUNTED, IGNORED (too small, whatever its class) or ABSENT (another class)."""
        height_px = np.abs(self._found.boxes_2d[:, 3] - self._found.boxes_2d[:, 1])
        state = np.where(_is_car(self._found), COUNTED, ABSENT)
        return np.where(height_px < difficulty.min_height_px, IGNORED, state).astype(np.int8)

    def found_objects(self, metric: Metric, difficulty: Difficulty, score: float) -> NDArray[np.int64]:
        """Indices into the labels' cars and vans of those that count and that a detection from ``score`` on meets."""
        met = (self._overlaps[metric.kind] >= metric.min_overlap) & (self._found.scores >= score)
        return np.flatnonzero(met.any(axis=1) & ~self.truth_ignored(difficulty))

    def positive_scores(self, metric: Metric, difficulty: Difficulty) -> Float64:
        """(K,) float64, see `true_positive_scores`."""
        ignored, state = self.truth_ignored(difficulty), self.found_state(difficulty)
        scores: Float64 = true_positive_scores(
            self._overlaps[metric.kind], ignored, state, self._found.scores, metric.min_overlap
        )
        return scores

    def counts(self, metric: Metric, difficulty: Difficulty, thresholds: Float64) -> NDArray[np.int64]:
        """(T, 3) int64, see `count_matches`."""
        ignored, state = self.truth_ignored(difficulty), self.found_state(difficulty)
        excused = self._covered[metric.kind] > metric.min_overlap
        overlaps, scores = self._overlaps[metric.kind], self._found.scores
        counts: NDArray[np.int64] = count_matches(
            overlaps, excused, ignored, state, scores, metric.min_overlap, thresholds
        )
        return counts


def _is_car(labels: KittiLabels) -> NDArray[np.bool_]:
    return np.array([name.lower() == CAR.lower() for name in labels.types], bool)


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


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def true_positive_scores(
    overlaps: Float64,
    truth_ignored: NDArray[np.bool_],
    found_state: NDArray[np.int8],
    scores: Float64,
    min_overlap: float,
) -> Float64:
    """Scores (K,) of the true positives when every object takes the best-*scoring* detection it overlaps.

    From these the benchmark chooses its score thresholds. Arguments as `count_matches`.
    """
    taken = np.zeros(len(scores), np.bool_)
    positives = np.empty(len(truth_ignored))
    count = 0
    for truth in range(len(truth_ignored)):
        best = -1
        for found in range(len(scores)):
            if found_state[found] == ABSENT or taken[found] or not overlaps[truth, found] > min_overlap:
                continue
            if best < 0 or scores[found] > scores[best]:
                best = found
        if best >= 0:
            taken[best] = True
            if not truth_ignored[truth] and found_state[best] == COUNTED:
                positives[count] = scores[best]
                count += 1
    return positives[:count]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_matches(
    overlaps: Float64,
    excused: NDArray[np.bool_],
    truth_ignored: NDArray[np.bool_],
    found_state: NDArray[np.int8],
    scores: Float64,
    min_overlap: float,
    thresholds: Float64,
) -> NDArray[np.int64]:
    """True positives, false positives and misses among the detections with at least a given score.

    Args:
        overlaps: (G, D) float64 in [0, 1].
        excused: (D,) bool, detections that are no false positive when nothing matches them.
        truth_ignored: (G,) bool, objects that are neither found nor missed, but may take a detection.
        found_state: (D,) int8: COUNTED, IGNORED (may be taken, then neither right nor wrong) or ABSENT.
        scores: (D,) float64.
        min_overlap: a pair matches only above this.
        thresholds: (T,) float64.

    Returns:
        (T, 3) int64, columns true positives, false positives, misses.
    """
    counts = np.zeros((len(thresholds), 3), np.int64)
    for row in range(len(thresholds)):
        # What is out of play, below the threshold or of another class, is as good as taken.
        taken = (scores < thresholds[row]) | (found_state == ABSENT)
        for truth in range(len(truth_ignored)):
            best = _best_match(overlaps[truth], taken, found_state, min_overlap)
            if best < 0:
                counts[row, 2] += not truth_ignored[truth]
                continue
            taken[best] = True
            counts[row, 0] += not truth_ignored[truth] and found_state[best] == COUNTED
        for found in range(len(scores)):
            counts[row, 1] += not taken[found] and found_state[found] == COUNTED and not excused[found]
    return counts


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _best_match(overlaps: Float64, taken: NDArray[np.bool_], found_state: NDArray[np.int8], min_overlap: float) -> int:
    """The detection with the largest overlap (D,) above the minimum, -1 for none.

    Counted ones win over ignored ones; among ignored ones the first is taken, not the largest.
    """
    best = -1
    for found in range(len(overlaps)):
        if taken[found] or not overlaps[found] > min_overlap:
            continue
        if found_state[found] == COUNTED:
            if best < 0 or found_state[best] == IGNORED or overlaps[found] > overlaps[best]:
                best = found
        elif best < 0:
            best = found
    return best
