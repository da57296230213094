"""Calibration: projections worked by hand, files that give themselves back, real files that agree."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.calibration import (
    Calibration,
    read_object_calibration,
    read_raw_calibration,
    transform,
    write_object_calibration,
    write_raw_calibration,
)
from detector.errors import LabelError
from detector.point_files import read_points

# x forward, y left, z up to x right, y down, z forward; the camera sits 0.3 m ahead and 0.1 m below the LiDAR.
CAMERA_FROM_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, -0.1], [1, 0, 0, -0.3], [0, 0, 0, 1]])
IMAGE_FROM_CAMERA = np.array([[700.0, 0, 600, 45], [0, 700, 180, 0.2], [0, 0, 1, 0.003]])
CALIBRATION = Calibration(CAMERA_FROM_LIDAR, IMAGE_FROM_CAMERA, (1200, 360))
OBJECT_FILE = (
    "P2: 700 0 600 45 0 700 180 0.2 0 0 1 0.003\n"
    "R0_rect: 0 -1 0 1 0 0 0 0 1\n"  # a quarter turn, so that the order of the factors shows
    "Tr_velo_to_cam: 0 -1 0 1 0 0 -1 2 1 0 0 3\n"
    "Tr_imu_to_velo: 1 0 0 0 0 1 0 0 0 0 1 0\n\n"
)


def test_point_worked_by_hand() -> None:
    point = np.array([[10.3, 2.0, -1.1]])
    camera = CALIBRATION.to_camera(point)
    np.testing.assert_allclose(camera, [[-2, 1, 10]], atol=1e-12)
    # u = (700 * -2 + 600 * 10 + 45) / (10 + 0.003), v = (700 * 1 + 180 * 10 + 0.2) / (10 + 0.003)
    np.testing.assert_allclose(CALIBRATION.project(camera), [[4645 / 10.003, 2500.2 / 10.003]], rtol=1e-12)


def test_in_view_has_four_edges_and_a_back() -> None:
    calibration = Calibration(
        CAMERA_FROM_LIDAR, np.array([[100.0, 0, 50, 0], [0, 100, 50, 0], [0, 0, 1, 0]]), (100, 100)
    )
    camera = np.array([[0, 0, 10], [-5.01, 0, 10], [-4.99, 0, 10], [4.99, 0, 10], [5, 0, 10], [0, -5.01, 10]])
    camera = np.vstack([camera, [[0, 5, 10], [0, 0, -10], [0, 0, 0]]])
    seen = calibration.in_view(calibration.to_lidar(camera))
    assert seen.tolist() == [True, False, True, True, False, False, False, False, False]
    assert calibration.in_view(np.zeros((0, 4), np.float32)).shape == (0,)


def test_transform_ignores_further_columns() -> None:
    points = np.array([[1.0, 2, 3, 99]])
    np.testing.assert_array_equal(transform(CAMERA_FROM_LIDAR, points), transform(CAMERA_FROM_LIDAR, points[:, :3]))


@given(st.lists(st.tuples(*[st.floats(-100, 100)] * 3), min_size=1, max_size=20))
def test_to_camera_and_back(points: list[tuple[float, float, float]]) -> None:
    there_and_back = CALIBRATION.to_lidar(CALIBRATION.to_camera(np.array(points)))
    np.testing.assert_allclose(there_and_back, points, atol=1e-9)


def test_object_file_is_rectification_after_velo_to_cam(tmp_path: Path) -> None:
    path = tmp_path / "000000.txt"
    path.write_text(OBJECT_FILE)
    calibration = read_object_calibration(path, (640, 480))
    # (1, 2, 3) -> velo_to_cam: (-2 + 1, -3 + 2, 1 + 3) = (-1, -1, 4) -> quarter turn: (1, -1, 4).
    np.testing.assert_allclose(calibration.to_camera(np.array([[1.0, 2, 3]])), [[1, -1, 4]], atol=1e-12)
    np.testing.assert_array_equal(calibration.image_from_camera, IMAGE_FROM_CAMERA)
    assert calibration.image_size == (640, 480)


def test_tracking_spelling_reads_the_same(tmp_path: Path) -> None:
    (tmp_path / "object.txt").write_text(OBJECT_FILE)
    tracking = OBJECT_FILE.replace("R0_rect:", "R_rect").replace("Tr_velo_to_cam:", "Tr_velo_cam")
    (tmp_path / "tracking.txt").write_text(tracking)
    first, second = (read_object_calibration(tmp_path / name) for name in ("object.txt", "tracking.txt"))
    np.testing.assert_array_equal(first.camera_from_lidar, second.camera_from_lidar)


def test_written_file_gives_itself_back(tmp_path: Path) -> None:
    write_object_calibration(tmp_path / "a.txt", CALIBRATION)
    found = read_object_calibration(tmp_path / "a.txt", CALIBRATION.image_size)
    np.testing.assert_allclose(found.camera_from_lidar, CALIBRATION.camera_from_lidar, rtol=1e-12)
    np.testing.assert_allclose(found.image_from_camera, CALIBRATION.image_from_camera, rtol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("P2:", "P3:", "no line 'P2:"),
        ("R0_rect: 0 -1", "R0_rect: 0 x", "no line 'R0_rect:"),
        (" 0.003", "", "P2 holds 11 numbers, expected 12"),
        ("0.003", "nan", "P2 holds 12 numbers, expected 12, all finite"),
        ("0.003", "1e200", r"image_from_camera holds 1e\+200, expected at most 1e\+06"),
        ("-1 2 1 0 0 3", "-1 2 1 0 0 1e300", "camera_from_lidar holds"),
        ("R0_rect: 0 -1 0 1 0 0 0 0 1", "R0_rect: 0 0 0 0 0 0 0 0 0", "cannot be inverted"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, old: str, new: str, found: str) -> None:
    path = tmp_path / "000007.txt"
    path.write_text(OBJECT_FILE.replace(old, new))
    with pytest.raises(LabelError, match=found) as caught:
        read_object_calibration(path)
    assert "000007.txt" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00\x01" * 50])
def test_missing_empty_and_binary_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LabelError, match=r"a\.txt: .*expected a KITTI calibration file"):
        read_object_calibration(path)


def test_no_device_is_read_and_no_line_of_10_mb(tmp_path: Path) -> None:
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "long.txt").write_text(OBJECT_FILE + "P3: " + "9" * 10_000_000)
    for name, found in (("zero", "no regular file"), ("long", "bytes, expected at most")):
        with pytest.raises(LabelError, match=rf"{name}\.txt: .*{found}"):
            read_object_calibration(tmp_path / f"{name}.txt")


@pytest.mark.parametrize("size", ["0 375", "-1242 375", "1e9 375", "nan 375", "1242"])
def test_images_of_no_size_are_refused(tmp_path: Path, size: str) -> None:
    write_raw_calibration(tmp_path, CALIBRATION)
    text = (tmp_path / "calib_cam_to_cam.txt").read_text()
    (tmp_path / "calib_cam_to_cam.txt").write_text(re.sub(r"S_rect_02: .*", f"S_rect_02: {size}", text))
    with pytest.raises(LabelError, match=r"S_rect_02 holds|image size"):
        read_raw_calibration(tmp_path)


@pytest.mark.parametrize(
    ("camera_from_lidar", "image_from_camera"),
    [(np.eye(3), IMAGE_FROM_CAMERA), (np.eye(4), np.eye(3)), (np.full((4, 4), np.nan), IMAGE_FROM_CAMERA)],
)
def test_other_matrices_are_refused(camera_from_lidar: np.ndarray, image_from_camera: np.ndarray) -> None:
    with pytest.raises(LabelError, match="expected"):
        Calibration(camera_from_lidar, image_from_camera)


def test_real_object_files_are_near_the_ideal_mounting(shared: Path) -> None:
    files = sorted((shared / "kitti/training/calib").glob("*.txt"))[::20]
    assert len(files) > 5
    for file in files:
        calibration = read_object_calibration(file)
        rotation = calibration.camera_from_lidar[:3, :3]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(rotation, CAMERA_FROM_LIDAR[:3, :3], atol=0.03)
        assert 700 < calibration.image_from_camera[0, 0] < 730


def test_real_raw_day_agrees_with_its_object_files(shared: Path) -> None:
    raw = read_raw_calibration(shared / "kitti_raw/2011_09_26")
    assert raw.image_size == (1242, 375)
    drive = read_object_calibration(next((shared / "kitti_drive0005/training/calib").glob("*.txt")))
    np.testing.assert_allclose(raw.camera_from_lidar, drive.camera_from_lidar, atol=1e-5)
    np.testing.assert_allclose(raw.image_from_camera, drive.image_from_camera, rtol=1e-5)


def test_real_cropped_frame_is_all_in_view(shared: Path) -> None:
    root = shared / "kitti_drive0005/training"
    points = read_points(root / "velodyne/000152.bin")
    assert read_object_calibration(root / "calib/000152.txt").in_view(points).mean() > 0.99
