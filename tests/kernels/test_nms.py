"""Non-maximum suppression: cases drawn by hand, and the kernel against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.decode import decode
from kernels.launch import to_device
from kernels.nms import BEV_COLUMNS, nms, nms_reference
from kernels.rotated_iou import rotated_iou
from kernels.workspace import Workspace


def row_of_cars(*x_m):
    """Cars of 4 x 2 m in one line, at these x."""
    return np.array([[x, 0, -1, 4, 2, 1.5, 0] for x in x_m], np.float32).reshape(-1, 7)


def run(boxes, scores, iou_threshold=0.1, max_boxes=100):
    """What the kernel keeps, after the reference has agreed."""
    scores = np.array(scores, np.float32)
    kept = nms(boxes, scores, iou_threshold, max_boxes)
    assert kept.dtype == np.int64
    np.testing.assert_array_equal(kept, nms_reference(boxes, scores, iou_threshold, max_boxes))
    return kept.tolist()


def test_keeps_the_best_of_each_heap_best_first():
    assert run(row_of_cars(0, 1, 20, 21), [0.3, 0.9, 0.8, 0.4]) == [1, 2]


def test_a_suppressed_box_suppresses_nothing():
    # 0 and 2 share 1 of 15 m² (0.07); 1 between them falls to 0 and must not take 2 with it.
    assert run(row_of_cars(0, 1.75, 3.5), [0.9, 0.8, 0.7]) == [0, 2]


def test_only_more_overlap_than_the_threshold_suppresses():
    # Half a length apart: 4 of 12 m².
    boxes = row_of_cars(0, 2)
    assert run(boxes, [0.9, 0.8], iou_threshold=0.334) == [0, 1]
    assert run(boxes, [0.9, 0.8], iou_threshold=0.333) == [0]
    # Identical boxes overlap by 1, which is not more than 1; side by side by 0, not more than 0.
    assert run(row_of_cars(0, 0), [0.9, 0.8], iou_threshold=1.0) == [0, 1]
    assert run(row_of_cars(0, 4), [0.9, 0.8], iou_threshold=0.0) == [0, 1]


def test_equal_scores_go_by_index():
    assert run(row_of_cars(0, 1, 20, 21), [0.5, 0.5, 0.5, 0.5]) == [0, 2]
    assert run(row_of_cars(*range(0, 300, 10)), [0.5] * 30) == list(range(30))


def test_identical_boxes_leave_one():
    assert run(row_of_cars(*[3] * 50), np.linspace(0.1, 0.9, 50)) == [49]


def test_height_plays_no_part_and_yaw_does():
    stacked = row_of_cars(0, 0)
    stacked[1, 2] += 10
    assert run(stacked, [0.9, 0.8]) == [0]
    # Two metres aside, parallel cars touch; one across the other's way overlaps: 1 x 2 of 14 m².
    beside = row_of_cars(0, 0)
    beside[1, 1] = 2
    assert run(beside, [0.9, 0.8]) == [0, 1]
    beside[1, 6] = np.pi / 2
    assert run(beside, [0.9, 0.8]) == [0]


def test_no_boxes():
    assert run(np.zeros((0, 7), np.float32), []) == []


@pytest.mark.parametrize(("max_boxes", "expected"), [(0, []), (1, [2]), (2, [2, 1]), (9, [2, 1, 0])])
def test_stops_at_max_boxes(max_boxes, expected):
    assert run(row_of_cars(0, 10, 20), [0.1, 0.2, 0.3], max_boxes=max_boxes) == expected


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 25),
    iou_threshold=st.floats(0.01, 0.9),
    max_boxes=st.integers(0, 30),
)
def test_agrees_with_the_reference_and_keeps_its_promise(seed, count, iou_threshold, max_boxes):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform([0, 0, -2, 3, 1.5, 1, -7], [10, 10, 0, 5, 2.5, 2, 7], (count, 7)).astype(np.float32)
    scores = rng.integers(0, 5, count) / 4
    kept = run(boxes, scores, iou_threshold, max_boxes)
    bev = boxes[kept][:, BEV_COLUMNS]
    overlap = rotated_iou(bev, bev)
    assert (overlap[~np.eye(len(kept), dtype=bool)] <= iou_threshold).all()
    assert len(kept) <= max_boxes
    assert sorted(scores[kept], reverse=True) == scores[kept].tolist()


def test_nan_scores_come_last():
    assert run(row_of_cars(0, 1, 20, 40), [np.nan, 0.1, np.nan, 0.2]) == [3, 1, 2]


@pytest.mark.simulator
def test_nan_scores_come_last_on_the_device():
    boxes, scores = row_of_cars(0, 1, 20, 40, 41), np.array([np.nan, 0.1, np.nan, 0.2, 0.2], np.float32)
    assert nms(to_device(boxes), to_device(scores), 0.1, 9).to_host().tolist() == [3, 1, 2]


def test_boxes_of_any_layout():
    rng = np.random.default_rng(0)
    wide = rng.uniform(0, 6, (40, 14)).astype(np.float32)
    scores = rng.random(80).astype(np.float32)[::2]
    boxes = wide[:, ::2]
    expected = nms_reference(boxes, scores, 0.3, 50)
    assert 1 < len(expected) < 40 and np.array_equal(nms(boxes, scores, 0.3, 50), expected)
    assert np.array_equal(nms(np.asfortranarray(boxes), scores, 0.3, 50), expected)


def test_a_workspace_keeps_the_result_until_the_next_call():
    workspace, scores = Workspace(), np.array([0.3, 0.9, 0.8], np.float32)
    assert nms(row_of_cars(0, 1, 20), scores, 0.1, 9, workspace=workspace).tolist() == [1, 2]
    allocations = workspace.allocations
    assert nms(row_of_cars(0, 10, 20), scores, 0.1, 9, workspace=workspace).tolist() == [1, 2, 0]
    assert nms(row_of_cars(0, 10), scores[:2], 0.1, 9, workspace=workspace).tolist() == [1, 0]
    assert workspace.allocations == allocations


def test_only_the_first_boxes_count():
    scores, count = np.array([0.3, 0.5, 0.8], np.float32), np.array([2], np.int32)
    assert nms(row_of_cars(0, 10, 20), scores, 0.1, 9, count).tolist() == [1, 0]


@pytest.mark.simulator
@pytest.mark.parametrize("max_boxes", [0, 3, 100])
def test_takes_what_decode_leaves_on_the_device(max_boxes):
    rng = np.random.default_rng(1)
    score = (rng.integers(0, 9, (7, 8)) / 8).astype(np.float32)
    regression = rng.normal(0, 0.5, (7, 8, 8)).astype(np.float32)
    arguments = {"origin_m": (0.0, 0.0), "cell_m": 0.7, "threshold": 0.3, "max_candidates": 50}
    found = decode(to_device(score), to_device(regression), **arguments)
    kept = nms(found.boxes, found.scores, 0.1, max_boxes, found.count).to_host()
    boxes, scores = decode(score, regression, **arguments)
    assert 33 < len(boxes) < 50, "more than one word of bits, and not all that fit"
    assert kept.dtype == np.int64 and kept.tolist() == nms_reference(boxes, scores, 0.1, max_boxes).tolist()


@pytest.mark.parametrize(
    ("boxes", "scores", "max_boxes", "error", "message"),
    [
        (
            np.zeros((2, 5), np.float32),
            np.zeros(2, np.float32),
            1,
            ValueError,
            r"\(2, 5\), expected \(N, 7\)",
        ),
        (np.zeros((2, 7), np.float32), np.zeros(3, np.float32), 1, ValueError, r"\(3,\), expected \(2,\)"),
        (np.zeros((2, 7)), np.zeros(2, np.float32), 1, TypeError, "float64.*expected float32"),
        (np.zeros((2, 7), np.float32), np.zeros(2), 1, TypeError, "float64.*expected float32"),
        (np.zeros((2, 7), np.float32), np.zeros(2, np.float32), -1, ValueError, "-1, expected 0 or more"),
    ],
)
def test_refuses_what_it_cannot_read(boxes, scores, max_boxes, error, message):
    workspace = Workspace()
    with pytest.raises(error, match=message):
        nms(boxes, scores, 0.1, max_boxes, workspace=workspace)
    assert workspace.allocations == 0


@pytest.mark.parametrize(
    ("count", "error", "message"),
    [
        (np.array([1]), TypeError, "count is int64, expected int32"),
        (np.zeros(2, np.int32), ValueError, r"count has shape \(2,\), expected \(1,\)"),
        (1, TypeError, "arrays are int"),
    ],
)
def test_refuses_a_wrong_count(count, error, message):
    with pytest.raises(error, match=message):
        nms(row_of_cars(0, 10), np.ones(2, np.float32), 0.1, 9, count)
