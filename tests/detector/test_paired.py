"""The paired bootstrap on frames whose answer is known."""

import numpy as np
import pytest

from detector.labels import KittiLabels, read_labels
from detector.paired import paired_difference

CAR = "Car 0 0 0 {left} 100 {right} 200 1.5 1.6 4.0 {x} 1.6 20 0{score}"


def labels_of(tmp_path, name, lines):
    path = tmp_path / f"{name}.txt"
    path.write_text("\n".join(lines) + "\n")
    return read_labels(path)


def frames(tmp_path, count, missed):
    """Labels of ``count`` frames with one car, and detections that miss it in the first ``missed`` of them."""
    truth, found = [], []
    for number in range(count):
        place = {"left": 100 + number, "right": 200 + number, "x": number % 7 - 3}
        truth.append(labels_of(tmp_path, f"t{number}", [CAR.format(**place, score="")]))
        score = f" {0.9 - number / 1000:.3f}"
        hit = labels_of(tmp_path, f"d{number}", [CAR.format(**place, score=score)])
        found.append(KittiLabels.empty() if number < missed else hit)
    return truth, found


def test_the_same_run_differs_by_nothing(tmp_path):
    truth, found = frames(tmp_path, 50, 10)
    result = paired_difference(found, found, truth)
    assert (result.points, result.low, result.high) == (0, 0, 0)


def test_a_run_that_misses_more_is_worse_by_about_what_it_misses(tmp_path):
    truth, every = frames(tmp_path, 60, 0)
    _, some = frames(tmp_path, 60, 15)
    result = paired_difference(some, every, truth)
    assert result.points == pytest.approx(-25, abs=3), "a quarter of the cars, at full precision"
    assert result.low < result.points < result.high < 0
    spread = 196 * np.sqrt(0.25 * 0.75 / 60)  # of a share of 60 frames
    assert result.high - result.low == pytest.approx(2 * spread, rel=0.3)
