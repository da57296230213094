"""Rotated IoU: closed forms, shapely, and the kernel against the reference."""

import math

import numpy as np
import pytest
import shapely
import shapely.affinity
from hypothesis import example, given
from hypothesis import strategies as st

from kernels.rotated_iou import rotated_intersection, rotated_iou, rotated_iou_reference

# Clipping and summing areas of a few square metres in float64, along another path in every implementation.
TOLERANCE = 1e-9

boxes = st.lists(
    st.tuples(
        *[st.floats(-4, 4)] * 2,
        # Down to a millimetre: in thinner ones shapely and we lose digits in different places.
        *[st.sampled_from([0.001, 1.0, 2.0]) | st.floats(0.01, 6)] * 2,
        st.sampled_from([0.0, math.pi / 2, -math.pi / 4, math.pi]) | st.floats(-7, 7),
    ),
    min_size=1,
    max_size=4,
).map(np.array)


def polygon(box):
    x, y, length, width, yaw = box
    flat = shapely.box(-length / 2, -width / 2, length / 2, width / 2)
    return shapely.affinity.translate(shapely.affinity.rotate(flat, yaw, (0, 0), use_radians=True), x, y)


def shapely_shared(p, q):
    """Shared area. GEOS can lose an overlap whose sides coincide up to rounding; snapped to a grid it does not."""
    plain, snapped = p.intersection(q).area, shapely.intersection(p, q, grid_size=1e-12).area
    return plain if math.isclose(plain, snapped, rel_tol=1e-6) else snapped


def shapely_iou(boxes_a, boxes_b):
    a, b = [polygon(box) for box in boxes_a], [polygon(box) for box in boxes_b]
    shared = np.array([[shapely_shared(p, q) for q in b] for p in a])
    return shared / (np.array([p.area for p in a])[:, None] + np.array([q.area for q in b]) - shared)


def iou(a, b):
    return rotated_iou(np.array([a], float), np.array([b], float))[0, 0]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # Half a length apart: 2 of 6 m² shared.
        ((0, 0, 4, 2, 0), (2, 0, 4, 2, 0), 4 / 12),
        # Crossed: a 2 m square of 8 + 8 - 4 m².
        ((0, 0, 4, 2, 0), (0, 0, 4, 2, math.pi / 2), 4 / 12),
        # Two unit squares at 45 degrees share a regular octagon of area 2 (sqrt(2) - 1).
        ((5, 5, 1, 1, 0), (5, 5, 1, 1, math.pi / 4), (math.sqrt(2) - 1) / (2 - math.sqrt(2))),
        # Contained, turned or not.
        ((0, 0, 4, 4, 0), (0.5, 0.5, 1, 2, 0), 2 / 16),
        ((0, 0, 4, 4, 0), (0.5, 0.5, 1, 2, 0.7), 2 / 16),
        # The same rectangle written in four ways.
        ((1, 2, 4, 2, 0.3), (1, 2, 4, 2, 0.3 + math.pi), 1),
        ((1, 2, 4, 2, 0.3), (1, 2, 2, 4, 0.3 + math.pi / 2), 1),
        # Shared side, shared corner, apart though their circles meet, far apart.
        ((0, 0, 2, 2, 0), (2, 0, 2, 2, 0), 0),
        ((0, 0, 2, 2, 0), (2, 2, 2, 2, 0), 0),
        ((0, 0, 4, 1, 0), (0, 1.5, 4, 1, 0), 0),
        ((0, 0, 4, 2, 0), (100, 0, 4, 2, 0), 0),
        # Without area.
        ((0, 0, 0, 2, 0), (0, 0, 4, 2, 0), 0),
        ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), 0),
        # Not a rectangle at all.
        ((0, 0, -4, -2, 0), (0, 0, 4, 2, 0), 0),
        ((math.nan, 0, 4, 2, 0), (0, 0, 4, 2, 0), 0),
        ((0, 0, 4, 2, math.nan), (0, 0, 4, 2, 0), 0),
        ((math.inf, 0, 4, 2, 0), (math.inf, 0, 4, 2, 0), 0),
        ((0, 0, math.inf, 2, 0), (0, 0, 4, 2, 0), 0),
    ],
)
def test_closed_forms(a, b, expected):
    assert iou(a, b) == pytest.approx(expected, abs=TOLERANCE)
    assert iou(b, a) == pytest.approx(expected, abs=TOLERANCE)


# Here GEOS gives no overlap at all unless it snaps: 2 of 5 m shared.
THIN = np.array([[-1.228125262150669, 2.0, 0.060207952790306725, 5.0, -0.7853981633974483]])


@given(boxes, boxes)
@example(THIN, THIN * [1, 1, 1, 0.4, 1])
def test_agrees_with_shapely_and_with_the_reference(boxes_a, boxes_b):
    found = rotated_iou(boxes_a, boxes_b)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(found, shapely_iou(boxes_a, boxes_b), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found, rotated_iou_reference(boxes_a, boxes_b), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found, rotated_iou(boxes_b, boxes_a).T, rtol=0, atol=TOLERANCE)


@given(boxes, st.floats(-7, 7), st.floats(-100, 100))
def test_moving_and_turning_both_changes_nothing(boxes_a, angle_rad, shift_m):
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    moved = boxes_a.copy()
    moved[:, :2] = boxes_a[:, :2] @ np.array([[cos, sin], [-sin, cos]]) + shift_m
    moved[:, 4] += angle_rad
    # Coordinates of 100 m leave 1e-14 m, which in a box one millimetre thin is 1e-11 of its area.
    np.testing.assert_allclose(rotated_iou(moved, moved), rotated_iou(boxes_a, boxes_a), rtol=0, atol=1e-8)


@given(boxes)
def test_a_box_overlaps_itself_wholly_and_never_more(boxes_a):
    diagonal = rotated_iou(boxes_a, boxes_a).diagonal()
    assert (diagonal <= 1).all()
    np.testing.assert_allclose(diagonal, 1, rtol=0, atol=TOLERANCE)


def test_random_boxes_in_float32():
    rng = np.random.default_rng(0)
    low, high = [-5, -5, 0.1, 0.1, -7], [5, 5, 6, 6, 7]
    boxes_a, boxes_b = (rng.uniform(low, high, (count, 5)).astype(np.float32) for count in (40, 30))
    found = rotated_iou(boxes_a, boxes_b)
    assert found.shape == (40, 30) and found.dtype == np.float64
    assert (found > 0).sum() > 200
    np.testing.assert_allclose(found, shapely_iou(boxes_a, boxes_b), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found, rotated_iou_reference(boxes_a, boxes_b), rtol=0, atol=TOLERANCE)


def test_intersection_is_an_area():
    a, b = np.array([0, 0, 4, 2, 0.0]), np.array([1, 0, 4, 2, math.pi])
    assert rotated_intersection(a, b) == pytest.approx(6)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_boxes(shape):
    found = rotated_iou(np.ones((shape[0], 5)), np.ones((shape[1], 5)))
    assert found.shape == shape
    assert rotated_iou_reference(np.ones((shape[0], 5)), np.ones((shape[1], 5))).shape == shape


def test_rows_of_a_larger_array_and_arguments_stay_untouched():
    wide = np.random.default_rng(1).uniform(1, 3, (6, 10))
    before = wide.copy()
    found = rotated_iou(wide[::2, ::2], wide[:, :5])
    np.testing.assert_array_equal(found, rotated_iou(wide[::2, ::2].copy(), wide[:, :5].copy()))
    np.testing.assert_array_equal(wide, before)


def test_writes_into_out_and_refuses_another():
    boxes_a, out = np.array([[0, 0, 4, 2, 0.5]]), np.full((1, 2), 7.0)
    assert rotated_iou(boxes_a, np.repeat(boxes_a, 2, axis=0), out) is out and out == pytest.approx(1)
    with pytest.raises(ValueError, match=r"out has shape \(1, 2\), expected \(1, 1\)"):
        rotated_iou(boxes_a + 1, boxes_a, out)
    with pytest.raises(TypeError, match="out is float32, expected float64"):
        rotated_iou(boxes_a, boxes_a, np.zeros((1, 1), np.float32))
    assert out == pytest.approx(1)


@pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 7), (1, 2, 5)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"boxes_b has shape .*expected \(N, 5\)"):
        rotated_iou(np.ones((1, 5)), np.ones(shape))


@pytest.mark.parametrize("dtype", [np.int64, np.float16, object])
def test_refuses_other_types(dtype):
    with pytest.raises(TypeError, match=r"boxes_a is .*expected float32 or float64"):
        rotated_iou(np.ones((1, 5), dtype), np.ones((1, 5)))
