"""Matching of what was found in a frame with what is there, by the rules of the KITTI object benchmark.

Source: the KITTI object development kit of 2017, functions ``cleanData`` and ``computeStatistics``.
G counts ground-truth objects, D detections, T score thresholds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from detector.labels import CAR, NEIGHBOUR, KittiLabels
from detector.overlaps import box_overlaps, ground_range_m, image_overlaps

Float64 = NDArray[np.float64]

# What a detection is worth at one difficulty.
COUNTED, IGNORED, ABSENT = 0, 1, -1


class Metric(NamedTuple):
    """What counts as overlap, and how much of it makes a match."""

    kind: str
    min_overlap: float


class Difficulty(NamedTuple):
    """Which objects count: at least so high in the image, at most so occluded and truncated, so far from the camera.

    What is nearer than ``min_range_m`` or not nearer than ``max_range_m``, over the ground, plays no part: bands of
    range that share no metre share no object and no false positive, and together have all of both.
    """

    min_height_px: float
    max_occlusion: int
    max_truncation: float
    min_range_m: float = 0.0
    max_range_m: float = np.inf

    def in_range(self, labels: KittiLabels) -> NDArray[np.bool_]:
        """(N,) bool: which objects lie in the band of range."""
        range_m = ground_range_m(labels)
        return (range_m >= self.min_range_m) & (range_m < self.max_range_m)


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
# As "hard", whatever the height in the image: the 25 pixels of KITTI's difficulties are a car's at 43 m, and they know
# of nothing beyond.
ANY_HEIGHT = DIFFICULTIES["hard"]._replace(min_height_px=-1.0)


class Fates(NamedTuple):
    """What became of every object and every detection of a frame at one score threshold.

    Attributes:
        taken: (G,) int64, the detection that each of the frame's cars and vans took, -1 for none.
        counted: (G,) bool, whether the object is asked for; one that is and took none is missed.
        right: (D,) bool, true positives.
        wrong: (D,) bool, false positives; the others are below the threshold, excused, or took what is not asked for.
    """

    taken: NDArray[np.int64]
    counted: NDArray[np.bool_]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]


class Standing(NamedTuple):
    """Who plays a part at one difficulty: (G,) bool objects not asked for, (D,) int8 what detections are worth,
    and (D,) bool detections out of range.
    """

    truth_ignored: NDArray[np.bool_]
    found_state: NDArray[np.int8]
    out_of_range: NDArray[np.bool_]


class FramePair:
    """What was found in one frame beside what is there, with the overlaps computed once for all difficulties.

    Args:
        found: D detections with scores.
        labels: the objects of the frame; G of them are cars or vans.

    Attributes:
        truth: these G.
    """

    def __init__(self, found: KittiLabels, labels: KittiLabels) -> None:
        names = np.array([name.lower() for name in labels.types], dtype=object)
        # Other classes play no part; finding a van is neither right nor wrong.
        self.truth = labels.select((names == CAR.lower()) | (names == NEIGHBOUR.lower()))
        self._found = found
        bev, volume = box_overlaps(self.truth, found)
        self._overlaps = {"2d": image_overlaps(self.truth, found)[0], "bev": bev, "3d": volume}
        # DontCare regions exist in the image only, so in the other metrics they excuse nothing.
        self._standings: dict[Difficulty, Standing] = {}  # a bootstrap asks for the same ones thousands of times
        covered = image_overlaps(labels.select(names == "dontcare"), found)[1].max(axis=0, initial=0.0)
        self._covered = {"2d": covered, "bev": np.zeros(len(found)), "3d": np.zeros(len(found))}

    def truth_ignored(self, difficulty: Difficulty) -> NDArray[np.bool_]:
        """(G,) bool: vans, and cars that are too small, occluded, truncated, near or far to ask for."""
        return self._standing(difficulty).truth_ignored

    def found_state(self, difficulty: Difficulty) -> NDArray[np.int8]:
        """(D,) int8: COUNTED, IGNORED (too small, whatever its class) or ABSENT (another class)."""
        return self._standing(difficulty).found_state

    def _standing(self, difficulty: Difficulty) -> Standing:
        if difficulty not in self._standings:
            ignored, state = self._ignored(difficulty), self._state(difficulty)
            self._standings[difficulty] = Standing(ignored, state, ~difficulty.in_range(self._found))
        return self._standings[difficulty]

    def _ignored(self, difficulty: Difficulty) -> NDArray[np.bool_]:
        truth = self.truth
        too_hard = (
            (truth.occluded > difficulty.max_occlusion)
            | (truth.truncated > difficulty.max_truncation)
            | (truth.boxes_2d[:, 3] - truth.boxes_2d[:, 1] <= difficulty.min_height_px)
        )
        return ~_is_car(truth) | too_hard | ~difficulty.in_range(truth)

    def _state(self, difficulty: Difficulty) -> NDArray[np.int8]:
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
        overlaps, scores = self._overlaps[metric.kind], self._found.scores
        excused = self._excused(metric, difficulty)
        counts: NDArray[np.int64] = count_matches(
            overlaps, excused, ignored, state, scores, metric.min_overlap, thresholds
        )
        return counts

    def fates(self, metric: Metric, difficulty: Difficulty, score: float) -> Fates:
        """What `counts` counts at one threshold, one by one."""
        counted, state = ~self.truth_ignored(difficulty), self.found_state(difficulty)
        out_of_play = (self._found.scores < score) | (state == ABSENT)
        taken = match_objects(self._overlaps[metric.kind], out_of_play, state, metric.min_overlap)
        right = np.zeros(len(state), bool)
        right[taken[counted & (taken >= 0)]] = True
        unmatched = ~out_of_play & ~np.isin(np.arange(len(state)), taken)
        wrong = unmatched & (state == COUNTED) & ~self._excused(metric, difficulty)
        return Fates(taken, counted, right & (state == COUNTED), wrong)

    def _excused(self, metric: Metric, difficulty: Difficulty) -> NDArray[np.bool_]:
        """(D,) bool: detections that are no false positive when nothing matches them."""
        covered: NDArray[np.bool_] = self._covered[metric.kind] > metric.min_overlap
        return covered | self._standing(difficulty).out_of_range


def _is_car(labels: KittiLabels) -> NDArray[np.bool_]:
    return np.array([name.lower() == CAR.lower() for name in labels.types], bool)


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
        gone = (scores < thresholds[row]) | (found_state == ABSENT)
        taken = match_objects(overlaps, gone, found_state, min_overlap)
        for truth in range(len(truth_ignored)):
            if taken[truth] < 0:
                counts[row, 2] += not truth_ignored[truth]
                continue
            gone[taken[truth]] = True
            counts[row, 0] += not truth_ignored[truth] and found_state[taken[truth]] == COUNTED
        for found in range(len(scores)):
            counts[row, 1] += not gone[found] and found_state[found] == COUNTED and not excused[found]
    return counts


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def match_objects(
    overlaps: Float64, out_of_play: NDArray[np.bool_], found_state: NDArray[np.int8], min_overlap: float
) -> NDArray[np.int64]:
    """(G,) int64: the detection that every object takes, in their order, -1 for none; arguments as `count_matches`.

    ``out_of_play`` (D,) bool: detections that no object may take.
    """
    gone = out_of_play.copy()
    taken = np.full(len(overlaps), -1, np.int64)
    for truth in range(len(overlaps)):
        taken[truth] = _best_match(overlaps[truth], gone, found_state, min_overlap)
        if taken[truth] >= 0:
            gone[taken[truth]] = True
    return taken


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
