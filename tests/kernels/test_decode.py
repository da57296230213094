"""`decode` against its equation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.decode import OPS, decode, decode_reference
from kernels.launch import to_device
from kernels.workspace import Workspace

TOLERANCE = OPS[0].equality.tolerance
GRID = {"origin_m": (10.0, -4.0), "cell_m": 0.4}


def test_one_box_by_hand():
    score = np.zeros((3, 5), np.float32)
    score[1, 2] = 0.75
    regression = np.zeros((3, 5, 8), np.float32)
    regression[1, 2] = [0.1, -0.2, -0.9, np.log(4.0), np.log(1.5), np.log(1.6), 0.0, 2.0]
    boxes, scores = decode(score, regression, **GRID, threshold=0.5, max_candidates=10)
    np.testing.assert_allclose(boxes, [[10.7, -3.2, -0.9, 4.0, 1.5, 1.6, np.pi / 2]], rtol=1e-6)
    assert scores.tolist() == [0.75]


def test_threshold_is_inclusive_and_best_come_first():
    score = np.array([[0.5, 0.9, 0.5, 0.4]], np.float32)
    regression = np.zeros((1, 4, 8), np.float32)
    boxes, scores = decode(score, regression, **GRID, threshold=0.5, max_candidates=10)
    assert scores.tolist() == np.float32([0.9, 0.5, 0.5]).tolist()
    assert np.all(np.diff(boxes[1:, 1]) > 0), "equal scores keep the order of their cells"
    assert len(decode(score, regression, **GRID, threshold=0.5, max_candidates=2)[0]) == 2
    assert len(decode(score, regression, **GRID, threshold=0.95, max_candidates=2)[0]) == 0


def test_nonsense_stays_finite():
    regression = np.full((1, 1, 8), 1e6, np.float32)
    boxes, _ = decode(np.ones((1, 1), np.float32), regression, **GRID, threshold=0.5, max_candidates=1)
    assert np.isfinite(boxes).all() and boxes[0, 3] == pytest.approx(np.exp(4.0), rel=1e-6)


def test_nan_scores_are_no_candidates_and_nan_regressions_stay():
    score = np.array([[np.nan, 0.9, np.nan]], np.float32)
    boxes, scores = decode(score, np.full((1, 3, 8), np.nan, np.float32), **GRID, threshold=-1, max_candidates=9)
    assert scores.tolist() == [np.float32(0.9)] and np.isnan(boxes).all()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 12),
    st.integers(1, 12),
    st.integers(1, 50),
    st.sampled_from([2, 8, 1000]),
)
def test_equals_reference(seed, rows, cols, most, steps):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, steps, (rows, cols)).astype(np.float32) / steps  # with few steps many are equal
    regression = rng.normal(0, 2, (rows, cols, 8)).astype(np.float32)
    arguments = {**GRID, "threshold": 0.3, "max_candidates": most}
    expected_boxes, expected_scores = decode_reference(score, regression, **arguments)
    wide = np.repeat(score, 2, axis=1)[:, ::2], np.repeat(regression, 2, axis=2)[..., ::2]
    for maps in ((score, regression), wide):
        boxes, scores = decode(*maps, **arguments)
        assert np.array_equal(scores, expected_scores)
        np.testing.assert_allclose(boxes, expected_boxes, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_workspace_keeps_the_results_until_the_next_call():
    workspace, score = Workspace(), np.full((3, 4), 0.75, np.float32)
    regression = np.random.default_rng(0).normal(0, 1, (3, 4, 8)).astype(np.float32)
    first, _ = decode(score, regression, **GRID, threshold=0.5, max_candidates=5, workspace=workspace)
    allocations, before = workspace.allocations, first.copy()
    second, scores = decode(-score, regression, **GRID, threshold=-1, max_candidates=4, workspace=workspace)
    assert workspace.allocations == allocations and np.shares_memory(first, second) and len(scores) == 4
    assert np.array_equal(second, before[:4]), "the same cells, now with equal scores below zero"


@pytest.mark.simulator
def test_the_device_keeps_the_count():
    score = to_device(np.array([[0.1, 0.9, 0.5]], np.float32))
    found = decode(score, to_device(np.zeros((1, 3, 8), np.float32)), **GRID, threshold=0.3, max_candidates=1)
    assert found.boxes.shape == (1, 7) and found.scores.shape == (1,)
    assert found.to_host()[1].tolist() == [np.float32(0.9)]
    found = decode(score, to_device(np.zeros((1, 3, 8), np.float32)), **GRID, threshold=0.95, max_candidates=9)
    assert found.boxes.shape == (3, 7) and [len(part) for part in found.to_host()] == [0, 0]


def test_bad_arguments_touch_nothing():
    score, regression = np.ones((2, 2), np.float32), np.zeros((2, 2, 8), np.float32)
    workspace = Workspace()
    rest = {**GRID, "threshold": 0, "workspace": workspace}
    with pytest.raises(TypeError, match="score is float64, expected float32"):
        decode(score.astype(float), regression, **rest, max_candidates=1)
    with pytest.raises(TypeError, match="regression is float64, expected float32"):
        decode(score, regression.astype(float), **rest, max_candidates=1)
    with pytest.raises(ValueError, match=r"regression has shape \(2, 2, 7\), expected \(2, 2, 8\)"):
        decode(score, regression[..., :7], **rest, max_candidates=1)
    with pytest.raises(ValueError, match=r"score has shape \(1, 2, 2\), expected \(rows, cols\)"):
        decode(score[None], regression, **rest, max_candidates=1)
    with pytest.raises(ValueError, match="at least 1"):
        decode(score, regression, **rest, max_candidates=0)
    assert workspace.allocations == 0
