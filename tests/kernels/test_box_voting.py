"""Box voting: cases drawn by hand, and the kernel against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.box_voting import box_voting, box_voting_reference
from kernels.launch import to_device, to_host
from kernels.nms import nms
from kernels.workspace import Workspace

CAR = (10, 20, -1, 4, 2, 1.5, 0.3)


def cars(*changes):
    """Copies of one car, each with some columns moved."""
    boxes = np.array([CAR] * len(changes), np.float32)
    for box, change in zip(boxes, changes, strict=True):
        for column, by in change.items():
            box[column] += by
    return boxes


def vote(boxes, scores, kept, iou_threshold=0.5):
    """What the kernel makes of the boxes, after the reference has agreed."""
    scores, kept, before = np.array(scores, np.float32), np.array(kept, np.int64), boxes.copy()
    voted = box_voting(boxes, scores, kept, iou_threshold)
    np.testing.assert_allclose(voted, box_voting_reference(boxes, scores, kept, iou_threshold), atol=1e-5)
    np.testing.assert_array_equal(boxes, before)
    return voted


def test_the_mean_is_weighted_with_scores():
    voted = vote(cars({}, {0: 0.4, 3: 0.8}), [0.75, 0.25], [0])
    np.testing.assert_allclose(voted[0], [10.1, 20, -1, 4.2, 2, 1.5, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(voted[1], cars({0: 0.4, 3: 0.8})[0], "only kept boxes move")


def test_who_overlaps_little_has_no_vote():
    boxes = cars({}, {0: 30}, {2: 5})
    np.testing.assert_allclose(vote(boxes, [0.5, 0.5, 0.5], [0, 1])[:2], cars({2: 2.5}, {0: 30}), rtol=1e-6)


def test_a_threshold_of_one_moves_nothing():
    boxes = cars({}, {0: 0.1})
    np.testing.assert_array_equal(vote(boxes, [0.5, 0.5], [0], 1.0), boxes)


def test_half_a_turn_is_the_same_rectangle():
    voted = vote(cars({}, {6: np.pi + 0.1}), [0.5, 0.5], [0])
    assert voted[0, 6] == pytest.approx(0.35, abs=1e-6)


@pytest.mark.parametrize("end", [1, -1])
def test_yaws_stay_within_half_a_turn(end):
    boxes = cars({6: end * 3.1 - 0.3}, {6: end * -3.1 - 0.3})
    voted = vote(boxes, [0.1, 0.9], [0])
    assert voted[0, 6] == pytest.approx(end * (3.1 + 0.9 * (2 * np.pi - 6.2) - 2 * np.pi), abs=1e-5)


def test_scores_that_are_no_weights_have_no_vote():
    boxes = cars({}, {0: 0.1}, {0: 0.2}, {0: 0.4})
    voted = vote(boxes, [0.5, np.nan, -1, 0.5], [0])
    assert voted[0, 0] == pytest.approx(10.2)
    np.testing.assert_array_equal(vote(boxes, [0, 0, 0, 0], [0]), boxes)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.8]))
def test_kernel_equals_reference(seed, count, iou_threshold):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform((0, 0, -1, 3, 1.5, 1, -np.pi), (9, 9, 0, 5, 2.2, 2, np.pi), (count, 7)).astype(np.float32)
    scores = rng.random(count).astype(np.float32)
    kept = nms(boxes, scores, 0.3, 20)
    voted = vote(boxes, scores, kept, iou_threshold)
    others = np.setdiff1d(np.arange(count), kept)
    np.testing.assert_array_equal(voted[others], boxes[others])


def test_counts_say_what_counts():
    boxes, scores = cars({}, {0: 0.2}, {0: 0.4}), np.full(3, 0.5, np.float32)
    kept, counts = np.array([0, 1], np.int64), [np.array([size], np.int32) for size in (2, 1)]
    voted = box_voting(boxes, scores, kept, 0.5, *counts)
    np.testing.assert_allclose(voted[:, 0], [10.1, 10.2, 10.4], rtol=1e-6)


@pytest.mark.simulator
def test_more_kept_boxes_than_blocks_on_the_device():
    rng = np.random.default_rng(3)
    boxes = np.repeat(cars(*({0: 10 * place} for place in range(7))), 9, axis=0)
    boxes += rng.normal(0, 0.1, boxes.shape).astype(np.float32)
    scores = rng.random(len(boxes)).astype(np.float32)
    kept = nms(boxes, scores, 0.1, 7).astype(np.int32)
    assert len(kept) == 7
    counts = [np.array([size], np.int32) for size in (len(boxes), 7)]
    on_device = box_voting(*map(to_device, (boxes, scores, kept)), 0.5, *map(to_device, counts))
    np.testing.assert_allclose(to_host(on_device), box_voting_reference(boxes, scores, kept, 0.5), atol=1e-5)
    with pytest.raises(ValueError, match="expected both"):
        box_voting(*map(to_device, (boxes, scores, kept)), 0.5)


def test_a_workspace_keeps_the_result_until_the_next_call():
    workspace, scores, kept = Workspace(), np.full(2, 0.5, np.float32), np.array([0], np.int64)
    box_voting(cars({}, {0: 0.2}), scores, kept, 0.5, workspace=workspace)
    allocations = workspace.allocations
    voted = box_voting(cars({}, {0: 0.4}), scores, kept, 0.5, workspace=workspace)
    assert voted[0, 0] == pytest.approx(10.2) and workspace.allocations == allocations


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"boxes": np.zeros((2, 5), np.float32)}, ValueError, r"\(2, 5\), expected \(N, 7\)"),
        ({"scores": np.zeros(3, np.float32)}, ValueError, r"\(3,\), expected \(2,\)"),
        ({"scores": np.zeros(2)}, TypeError, "float64, expected float32"),
        ({"kept": np.zeros(1)}, TypeError, "kept is float64"),
        ({"count": np.zeros(1)}, TypeError, "count is float64, expected int32"),
    ],
)
def test_refuses_what_it_cannot_read(changed, error, message):
    right = {"boxes": cars({}, {}), "scores": np.ones(2, np.float32), "kept": np.zeros(1, np.int64)}
    with pytest.raises(error, match=message):
        box_voting(**{**right, "iou_threshold": 0.5, **changed})
