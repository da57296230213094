"""Whether two runs over the same frames differ in average precision, or only by the luck of the frames.

One car of a small validation set is most of a point of AP, far more than two runs usually differ by. So the frames
are drawn again and again with replacement, both runs are evaluated on each draw, and the spread of the differences
says what can be claimed (the paired bootstrap: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from detector.evaluate import frame_pairs, precisions_at_recalls
from detector.labels import KittiLabels
from detector.matching import DIFFICULTIES, METRICS, FramePair

CONFIDENCE = 0.95
DRAWS = 1000


@dataclass(frozen=True)
class Difference:
    """AP R40 of a first run minus that of a second, in points, with the interval of the paired bootstrap."""

    points: float
    low: float
    high: float


def paired_difference(
    first: Sequence[KittiLabels],
    second: Sequence[KittiLabels],
    labels: Sequence[KittiLabels],
    metric: str = "bev",
    difficulty: str = "moderate",
    seed: int = 0,
) -> Difference:
    """How much better the first run is than the second.

    Args:
        first: detections of each frame, with scores.
        second: those of the other run, same frames, same order.
        labels: ground truth of the frames.
        metric: a name of `detector.matching.METRICS`.
        difficulty: a name of `detector.matching.DIFFICULTIES`.
        seed: of the draws.

    Raises:
        ValueError: if the lengths differ.
        LabelError: if a detection has no score.
    """
    runs = [frame_pairs(found, labels) for found in (first, second)]

    def difference(frames: Sequence[int]) -> float:
        one, other = (_ap([run[frame] for frame in frames], metric, difficulty) for run in runs)
        return one - other

    rng = np.random.default_rng(seed)
    draws = [difference(rng.integers(0, len(labels), len(labels)).tolist()) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Difference(difference(range(len(labels))), float(low), float(high))


def _ap(pairs: list[FramePair], metric: str, difficulty: str) -> float:
    return 100 * float(precisions_at_recalls(pairs, METRICS[metric], DIFFICULTIES[difficulty])[1:].mean())


def difference_table(differences: dict[str, Difference]) -> Table:
    """One row per metric, moderate difficulty, R40."""
    title = f"Difference in AP R40 moderate, points, {CONFIDENCE:.0%} paired bootstrap interval"
    table = Table("metric", "difference", "low", "high", title=title)
    for name, found in differences.items():
        table.add_row(name, f"{found.points:+.2f}", f"{found.low:+.2f}", f"{found.high:+.2f}")
    return table
