"""Average precision of cars in bands of range.

KITTI's difficulties go by the height in the image and so end where a car is 25 pixels high, at 43 m. Here every car
counts that is labelled and no more occluded and truncated than "hard" allows (`detector.matching.ANY_HEIGHT`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detector.evaluate import frame_pairs, precisions_at_recalls
from detector.labels import KittiLabels
from detector.matching import ANY_HEIGHT, METRICS

RANGES_M = {"0–30 m": (0.0, 30.0), "30–50 m": (30.0, 50.0), "from 50 m": (50.0, np.inf)}


def evaluate_ranges(
    predictions: Sequence[KittiLabels], labels: Sequence[KittiLabels]
) -> dict[str, dict[str, float | int]]:
    """AP R40 of cars in each band of range.

    Args:
        predictions: detections of each frame, with scores.
        labels: ground truth of the same frames, in the same order.

    Returns:
        ``{BAND: {"cars": labelled cars that count, METRIC: AP}}`` with the names of `RANGES_M` and of the metrics on
        the ground of `detector.matching.METRICS`, AP in percent.

    Raises:
        ValueError: if the lengths differ.
        LabelError: if a detection has no score.
    """
    pairs, result = frame_pairs(predictions, labels), {}
    for name, (low_m, high_m) in RANGES_M.items():
        band = ANY_HEIGHT._replace(min_range_m=low_m, max_range_m=high_m)
        facts: dict[str, float | int] = {"cars": sum(int((~pair.truth_ignored(band)).sum()) for pair in pairs)}
        for metric, rule in METRICS.items():
            if rule.kind != "2d":
                facts[metric] = 100 * float(precisions_at_recalls(pairs, rule, band)[1:].mean())
        result[name] = facts
    return result
