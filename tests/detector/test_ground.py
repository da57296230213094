"""The ground plane of a frame: made-up grounds with a known plane, simulated sweeps, real ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.ground import GroundPlane, ground_plane, lowest_layer


def made_up_ground(plane, seed=0, turn_rad=(-np.pi, np.pi)):
    """Rings of a LiDAR on a plane, with a kerb on the left, a wall behind it, a van's side ahead and a mirror image."""
    rng = np.random.default_rng(seed)
    ranges_m = np.repeat(np.geomspace(3.2, 25, 24), 500)
    azimuth = rng.uniform(*turn_rad, len(ranges_m))
    x, y = ranges_m * np.cos(azimuth), ranges_m * np.sin(azimuth)
    z = plane.slope_x * x + plane.slope_y * y - plane.height_m
    z[y > 6] += 0.12
    wall = np.column_stack([rng.uniform(-20, 20, 4000), np.full(4000, 9.0), rng.uniform(-1, 3, 4000)])
    van = np.column_stack([np.full(1500, 7.0), rng.uniform(-1, 1, 1500), rng.uniform(-1.3, 0.6, 1500)])
    mirrored = np.column_stack([x[::50], y[::50], z[::50] - 1.5])
    points = np.concatenate([np.column_stack([x, y, z]), wall, van, mirrored])
    points[:, 2] += rng.normal(0, 0.015, len(points))
    return np.column_stack([points, np.full(len(points), 0.3)]).astype(np.float32)


@settings(max_examples=20)
@given(height_m=st.floats(-0.5, 3), slope_x=st.floats(-0.05, 0.05), slope_y=st.floats(-0.03, 0.03))
def test_a_known_plane_is_found(height_m, slope_x, slope_y):
    points = made_up_ground(GroundPlane(slope_x, slope_y, height_m))
    found = ground_plane(points)
    assert found.height_m == pytest.approx(height_m, abs=0.04)
    assert (found.slope_x, found.slope_y) == pytest.approx((slope_x, slope_y), abs=0.006)


def test_the_camera_s_view_is_enough():
    plane = GroundPlane(0.0093, 0.0, 1.73)  # KITTI's tilt: 10 m ahead the road is 9 cm too high
    found = ground_plane(made_up_ground(plane, turn_rad=(-0.7, 0.7)))
    assert found.height_m == pytest.approx(1.73, abs=0.05)


def test_height_and_tilt_of_a_plane_by_hand():
    plane = GroundPlane(0.1, 0.0, 1.5)
    assert plane.tilt_deg == pytest.approx(5.7106, abs=1e-4)
    np.testing.assert_allclose(plane.above(np.array([[10, 3, -0.5], [0, 0, 0.0]])), [0, 1.5], atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 50])
def test_without_points_there_is_no_ground(count):
    assert ground_plane(np.full((count, 4), 5, np.float32)) is None


def test_a_heap_without_a_plane_is_no_ground():
    rng = np.random.default_rng(0)
    heap = np.column_stack([rng.uniform(-15, 15, (60, 2)), rng.uniform(-5, 5, 60)])
    scattered = np.repeat(heap, 30, axis=0)
    assert ground_plane(scattered) is None


def test_the_lowest_dense_layer_is_not_the_lowest_points():
    z = np.sort(np.concatenate([[-4.0, -3.9], np.linspace(-1.75, -1.7, 40), np.linspace(-1, 1, 100)]))
    layer = z[lowest_layer(z)]
    assert layer.min() == -1.75 and layer.max() == -1.7
