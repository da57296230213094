"""`decode` against its equation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.decode import decode, decode_reference

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


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.integers(1, 50))
def test_equals_reference(seed, rows, cols, most):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 8, (rows, cols)).astype(np.float32) / 8  # many ties
    regression = rng.normal(0, 2, (rows, cols, 8)).astype(np.float32)
    arguments = {**GRID, "threshold": 0.3, "max_candidates": most}
    boxes, scores = decode(score, regression, **arguments)
    expected_boxes, expected_scores = decode_reference(score, regression, **arguments)
    assert np.array_equal(scores, expected_scores)
    # exp and atan2 come from another library in the kernel than in NumPy: last-digit differences.
    np.testing.assert_allclose(boxes, expected_boxes, rtol=1e-6, atol=1e-6)


def test_bad_arguments():
    score, regression = np.zeros((2, 2), np.float32), np.zeros((2, 2, 8), np.float32)
    with pytest.raises(TypeError, match="float64"):
        decode(score.astype(float), regression, **GRID, threshold=0, max_candidates=1)
    with pytest.raises(ValueError, match=r"\(R, C, 8\)"):
        decode(score, regression[..., :7], **GRID, threshold=0, max_candidates=1)
    with pytest.raises(ValueError, match="at least 1"):
        decode(score, regression, **GRID, threshold=0, max_candidates=0)
