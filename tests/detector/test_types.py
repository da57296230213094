"""The types refuse what the pipeline could not use, saying what was found and what was expected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from detector.errors import FrameError
from detector.types import Detections, Frame, FrameResult


def three_detections() -> Detections:
    boxes = np.arange(21, dtype=np.float32).reshape(3, 7)
    return Detections(boxes, np.array([0.9, 0.5, 0.1], np.float32), ("Car", "Van", "Car"))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_frame_length_is_its_points(count: int) -> None:
    assert len(Frame(np.zeros((count, 4), np.float32))) == count


@pytest.mark.parametrize(
    ("points", "found"),
    [
        (np.zeros((5, 3), np.float32), r"shape \(5, 3\), expected an array of shape \(N, 4\)"),
        (np.zeros(4, np.float32), r"shape \(4,\)"),
        (np.zeros((1, 5, 4), np.float32), r"shape \(1, 5, 4\)"),
        ([[0.0, 0.0, 0.0, 0.0]], "points are list"),
        (np.zeros((5, 4), np.float64), "float64, expected float32"),
        (np.zeros((5, 4), np.int32), "int32, expected float32"),
    ],
)
def test_frame_refuses_other_points(points: Any, found: str) -> None:
    with pytest.raises(FrameError, match=f"frame seven: .*{found}"):
        Frame(points, id="seven")


def test_frame_refuses_other_poses() -> None:
    points = np.zeros((1, 4), np.float32)
    assert Frame(points, pose=np.eye(4)).pose is not None
    with pytest.raises(FrameError, match=r"pose has shape \(3, 4\), expected \(4, 4\)"):
        Frame(points, pose=np.eye(4)[:3])


@pytest.mark.parametrize(
    ("boxes", "scores", "labels", "found"),
    [
        ((2, 6), 2, 2, r"boxes have shape \(2, 6\), expected \(N, 7\)"),
        ((7,), 1, 1, r"boxes have shape \(7,\)"),
        ((2, 7), 1, 2, r"scores of shape \(1,\)"),
        ((2, 7), 2, 3, "3 labels"),
    ],
)
def test_detections_refuse_lengths_that_differ(boxes: tuple[int, ...], scores: int, labels: int, found: str) -> None:
    with pytest.raises(ValueError, match=found):
        Detections(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), ("Car",) * labels)


def test_no_detections() -> None:
    empty = Detections.empty()
    assert len(empty) == 0 and empty.boxes.shape == (0, 7)
    assert len(empty.above(0.0)) == 0


def test_above_keeps_equal_scores_and_their_labels() -> None:
    kept = three_detections().above(0.5)
    assert kept.labels == ("Car", "Van")
    np.testing.assert_array_equal(kept.boxes, three_detections().boxes[:2])
    assert len(three_detections().above(0.95)) == 0


def test_json_record_is_plain_and_rounded_to_a_tenth_of_a_millimetre() -> None:
    boxes = np.array([[1.23456789, 0, 0, 4, 2, 1.5, 0.1]], np.float32)
    frame = Frame(np.zeros((0, 4), np.float32), id="a", stamp_ns=7)
    result = FrameResult(frame, Detections(boxes, np.array([0.987654], np.float32), ("Car",)))
    assert json.loads(json.dumps(result.to_json())) == {
        "frame": "a",
        "stamp_ns": 7,
        "boxes": [[1.2346, 0, 0, 4, 2, 1.5, 0.1]],
        "scores": [0.9877],
        "labels": ["Car"],
    }
