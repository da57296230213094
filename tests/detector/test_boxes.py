"""Boxes: closed forms, properties, and agreement with KITTI's own 2D boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.boxes import (
    BOX_EDGES,
    box_corners,
    boxes_from_labels,
    image_boxes,
    labels_from_boxes,
    labels_from_detections,
    points_in_box,
    wrap_angle,
)
from detector.calibration import Calibration, read_object_calibration
from detector.labels import KittiLabels, read_labels
from detector.point_files import read_points
from detector.types import Detections

# x forward, y left, z up to x right, y down, z forward, both at one place; a 100 px focal length, 200 px image.
CALIBRATION = Calibration(
    np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]),
    np.array([[100.0, 0, 100, 0], [0, 100, 100, 0], [0, 0, 1, 0]]),
    (200, 200),
)
METRES = st.floats(-50, 50)
SIZES = st.floats(0.1, 20)
ANGLES = st.floats(-10, 10)
BOXES = st.tuples(METRES, METRES, METRES, SIZES, SIZES, SIZES, ANGLES).map(np.array)


def angle_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.abs(wrap_angle(first - second))


@given(angle=st.floats(-100, 100))
def test_wrapped_angle_is_the_same_direction(angle: float) -> None:
    wrapped = float(wrap_angle(angle))
    assert -np.pi <= wrapped <= np.pi
    np.testing.assert_allclose([np.cos(wrapped), np.sin(wrapped)], [np.cos(angle), np.sin(angle)], atol=1e-12)


def test_wrapped_angle_takes_the_lower_end() -> None:
    np.testing.assert_array_equal(wrap_angle([np.pi, -np.pi, 0]), [-np.pi, -np.pi, 0])


def test_corners_of_a_box_turned_by_a_quarter() -> None:
    # 4 m long, 2 m wide, 1 m high, centre (10, 20, 3), heading towards +y: its front is at y = 22, its left at x = 9.
    corners = box_corners(np.array([[10, 20, 3, 4, 2, 1, np.pi / 2]]))
    bottom = [[9, 22, 2.5], [9, 18, 2.5], [11, 18, 2.5], [11, 22, 2.5]]
    np.testing.assert_allclose(corners[0, :4], bottom, atol=1e-12)
    np.testing.assert_allclose(corners[0, 4:], np.add(bottom, [0, 0, 1]), atol=1e-12)
    assert box_corners(np.zeros((0, 7))).shape == (0, 8, 3)


@given(box=BOXES)
def test_edges_are_four_lengths_four_widths_four_heights(box: np.ndarray) -> None:
    corners = box_corners(box[None])[0]
    lengths = np.linalg.norm(corners[BOX_EDGES[:, 0]] - corners[BOX_EDGES[:, 1]], axis=1)
    np.testing.assert_allclose(np.sort(lengths), np.sort(np.repeat(box[3:6], 4)), atol=1e-9)


@given(box=BOXES, places=st.lists(st.tuples(*[st.floats(-2, 2)] * 3), min_size=1, max_size=10))
def test_points_in_box_at_known_places(box: np.ndarray, places: list[tuple[float, float, float]]) -> None:
    """Points at shares of the half sizes along the box's own axes, found from its corners."""
    shares = np.array(places)
    shares = shares[(np.abs(np.abs(shares) - 1) > 1e-6).all(axis=1)]  # on a face, rounding decides
    corners = box_corners(box[None])[0]
    front_left, rear_left, _, front_right, above = corners[:5]
    axes = np.stack([front_left - rear_left, front_left - front_right, above - front_left]) / 2
    points = corners.mean(axis=0) + shares @ axes
    np.testing.assert_array_equal(points_in_box(points, box), (np.abs(shares) < 1).all(axis=1))


def test_margin_grows_the_box_on_every_side() -> None:
    box = np.array([0, 0, 0, 4, 2, 1, 0.0])
    points = np.array([[2.4, 0, 0], [2.6, 0, 0], [0, 1.4, 0], [0, 1.6, 0], [0, 0, 0.9], [0, 0, 1.1]])
    assert not points_in_box(points, box).any()
    assert points_in_box(points, box, margin_m=0.5).tolist() == [True, False] * 3


def test_label_of_a_box_worked_by_hand() -> None:
    # Straight ahead and heading forward: the camera's x is right, so rotation_y is -90 degrees.
    labels, visible = labels_from_boxes(np.array([[10, 0, 0, 4, 2, 1, 0.0]]), CALIBRATION, ("Car",), np.array([0.5]))
    assert visible.tolist() == [True]
    np.testing.assert_allclose(labels.locations_m, [[0, 0.5, 10]], atol=1e-12)
    np.testing.assert_allclose(labels.dimensions_m, [[1, 2, 4]])
    np.testing.assert_allclose([labels.rotation_y_rad[0], labels.alpha_rad[0]], [-np.pi / 2, -np.pi / 2])
    # The rear face, 8 m away, is the larger: 100 + 100 * 1 / 8 to the side and 100 * 0.5 / 8 up and down.
    np.testing.assert_allclose(labels.boxes_2d, [[87.5, 93.75, 112.5, 106.25]])


@given(box=BOXES)
def test_boxes_to_labels_and_back(box: np.ndarray) -> None:
    labels, _ = labels_from_boxes(box[None], CALIBRATION, ("Car",))
    (found,) = boxes_from_labels(labels, CALIBRATION)
    np.testing.assert_allclose(found[:6], box[:6], atol=1e-9)
    assert angle_between(found[6], box[6]) < 1e-9


def test_real_labels_to_boxes_and_back(shared: Path) -> None:
    """Only the camera's tilt of about a degree is lost: a LiDAR box stands upright in the LiDAR frame."""
    root = shared / "kitti/training"
    count, alpha_differences = 0, []
    for file in sorted((root / "label_2").glob("*.txt")):
        labels = read_labels(file)
        labels = labels.select(np.array([name != "DontCare" for name in labels.types], bool))
        calibration = read_object_calibration(root / "calib" / file.name)
        boxes = boxes_from_labels(labels, calibration)
        again, _ = labels_from_boxes(boxes, calibration, labels.types)
        np.testing.assert_allclose(again.locations_m, labels.locations_m, atol=1e-6)
        np.testing.assert_array_equal(again.dimensions_m, labels.dimensions_m)
        assert (angle_between(again.rotation_y_rad, labels.rotation_y_rad) < 1e-3).all()
        alpha_differences += angle_between(again.alpha_rad, labels.alpha_rad).tolist()
        count += len(labels)
    assert count > 500
    # KITTI's own alpha is rounded, and taken from another point of some boxes.
    assert np.median(alpha_differences) < 0.02


def real_cars(shared: Path) -> list[tuple[str, KittiLabels, Calibration]]:
    """Cars that do not leave the image, of every real frame."""
    root = shared / "kitti/training"
    frames = []
    for file in sorted((root / "label_2").glob("*.txt")):
        labels = read_labels(file)
        is_car = np.array([name == "Car" for name in labels.types], bool)
        cars = labels.select(is_car & (labels.truncated == 0))
        frames.append((file.stem, cars, read_object_calibration(root / "calib" / file.name)))
    return frames


def test_image_boxes_agree_with_those_of_real_labels(shared: Path) -> None:
    differences = []
    for _, cars, calibration in real_cars(shared):
        boxes_2d, visible = image_boxes(boxes_from_labels(cars, calibration), calibration)
        assert visible.all()
        differences.append(np.abs(boxes_2d - cars.boxes_2d))
    median_px = np.median(np.concatenate(differences), axis=0)
    assert (median_px < 1.0).all(), median_px


def test_real_cars_hold_their_points(shared: Path) -> None:
    """Boxes lie where the LiDAR saw cars: near, fully visible ones hold many points."""
    counts = []
    for name, cars, calibration in real_cars(shared)[::10]:
        points = read_points(shared / "kitti/training/velodyne" / f"{name}.bin")
        near = (cars.occluded == 0) & (cars.locations_m[:, 2] < 30)
        counts += [points_in_box(points, box).sum() for box in boxes_from_labels(cars.select(near), calibration)]
    assert len(counts) > 10
    assert np.percentile(counts, 10) > 30


def test_boxes_behind_and_beside_the_camera_are_invisible() -> None:
    boxes = np.array([[-10, 0, 0, 4, 2, 1, 0], [10, 30, 0, 4, 2, 1, 0], [10, 0, 0, 4, 2, 1, 0]], np.float32)
    boxes_2d, visible = image_boxes(boxes, CALIBRATION)
    assert visible.tolist() == [False, False, True]
    np.testing.assert_array_equal(boxes_2d[0], 0)
    detections = Detections(boxes, np.array([0.9, 0.8, 0.7], np.float32), ("Car", "Car", "Van"))
    labels = labels_from_detections(detections, CALIBRATION)
    assert labels.types == ("Van",)
    np.testing.assert_allclose(labels.scores, [0.7], rtol=1e-6)


def test_box_through_the_camera_plane_is_cut_there() -> None:
    """A car beside the camera, partly behind it: what is in front reaches the image's left edge."""
    box = np.array([[3.0, 2, 0, 8, 2, 1, 0]])  # x from -1 to 7 m, y from 1 to 3 m
    boxes_2d, visible = image_boxes(box, CALIBRATION)
    assert visible.all()
    # Its right side, y = 1 m, ends at x = 7 m: 100 - 100 / 7.
    np.testing.assert_allclose(boxes_2d[0, [0, 2]], [0, 100 - 100 / 7])
    loose, _ = image_boxes(box, CALIBRATION, clip=False)
    np.testing.assert_allclose(loose[0, [0, 2]], [100 - 100 * 3 / 0.1, 100 - 100 / 7])


@pytest.mark.parametrize("yaw", [0.0, 0.4, np.pi / 2])
def test_clipped_boxes_stay_in_the_image(yaw: float) -> None:
    boxes = np.array([[4, 3, 0, 4, 2, 9, yaw], [4, -3, 0, 4, 2, 9, yaw], [1, 0, 0, 4, 2, 1, yaw]])
    boxes_2d, visible = image_boxes(boxes, CALIBRATION)
    assert visible.all()
    assert (boxes_2d >= 0).all() and (boxes_2d <= 199).all()


def test_no_boxes() -> None:
    labels, visible = labels_from_boxes(np.zeros((0, 7)), CALIBRATION, ())
    assert len(labels) == len(visible) == 0
    assert boxes_from_labels(labels, CALIBRATION).shape == (0, 7)
