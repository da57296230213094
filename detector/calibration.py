"""KITTI calibration: LiDAR to rectified camera to image, read from object-set and raw files.

Source: Geiger et al., "Vision meets Robotics: The KITTI Dataset" (IJRR 2013), section 4, and the
read-me files of the object and raw development kits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import LabelError
from detector.files import read_text, write_whole

DEFAULT_IMAGE_SIZE = (1242, 375)
MAX_FILE_BYTES = 1_000_000  # KITTI's have some 4,000
MAX_ENTRY = 1e6  # metres or pixels: beyond is nonsense whose products overflow
MAX_IMAGE_SIDE = 100_000


@dataclass(frozen=True)
class Calibration:
    """How the LiDAR frame maps to the left colour camera.

    Attributes:
        camera_from_lidar: (4, 4) float64, rectified camera frame (x right, y down, z forward) from LiDAR.
        image_from_camera: (3, 4) float64, KITTI's P2: pixels from the rectified camera frame.
        image_size: (width, height) in pixels.

    Raises:
        LabelError: if a matrix has another shape or senseless entries or cannot be inverted, or the image has no size.
    """

    camera_from_lidar: NDArray[np.float64]
    image_from_camera: NDArray[np.float64]
    image_size: tuple[int, int] = DEFAULT_IMAGE_SIZE

    def __post_init__(self) -> None:
        for name, shape in (("camera_from_lidar", (4, 4)), ("image_from_camera", (3, 4))):
            found = getattr(self, name)
            if np.shape(found) != shape or not np.isfinite(found).all():
                raise LabelError(f"calibration: {name} has shape {np.shape(found)}, expected {shape}, all finite")
            if np.abs(found).max() > MAX_ENTRY:
                raise LabelError(f"calibration: {name} holds {np.abs(found).max():g}, expected at most {MAX_ENTRY:g}")
        if not all(1 <= side <= MAX_IMAGE_SIDE for side in self.image_size):
            raise LabelError(f"calibration: image size {self.image_size}, expected 1 to {MAX_IMAGE_SIDE} pixels a side")
        if abs(np.linalg.det(self.camera_from_lidar[:3, :3])) < 1e-6:
            raise LabelError("calibration: camera_from_lidar cannot be inverted; expected a rotation")

    @cached_property
    def lidar_from_camera(self) -> NDArray[np.float64]:
        """(4, 4) float64, the inverse of ``camera_from_lidar``."""
        return np.asarray(np.linalg.inv(self.camera_from_lidar), np.float64)

    def to_camera(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 3) points [m] in the rectified camera frame, from (N, 3 or more) points in the LiDAR frame."""
        return transform(self.camera_from_lidar, points)

    def to_lidar(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 3) points [m] in the LiDAR frame, from (N, 3) points in the rectified camera frame."""
        return transform(self.lidar_from_camera, points)

    def project(self, camera_points: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N, 2) pixels u, v of (N, 3) camera points [m]. Only meaningful in front of the camera (z > 0)."""
        homogeneous = camera_points @ self.image_from_camera[:, :3].T + self.image_from_camera[:, 3]
        depth = homogeneous[:, 2:]
        return homogeneous[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth)

    def in_view(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """(N,) bool: which LiDAR points the camera sees: in front of it and inside the image."""
        # No division and no BLAS, whose threads would compete with the network's: this runs on every frame.
        x, y, z = np.asarray(points, np.float64)[:, :3].T
        with np.errstate(invalid="ignore"):  # points that are no numbers are seen nowhere
            across, down, depth, ahead = (a * x + b * y + c * z + d for a, b, c, d in self._view_from_lidar)
        width, height = self.image_size
        inside = (ahead > 0) & (across >= 0) & (down >= 0) & (across < width * depth) & (down < height * depth)
        return np.asarray(inside, np.bool_)

    @cached_property
    def _view_from_lidar(self) -> NDArray[np.float64]:
        """(4, 4) float64: homogeneous pixels (three rows) and distance ahead of the camera, from the LiDAR frame."""
        return np.vstack([self.image_from_camera @ self.camera_from_lidar, self.camera_from_lidar[2]])


def transform(matrix: NDArray[np.float64], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """``matrix`` (4, 4) applied to the first three columns of ``points`` (N, 3 or more) [m]; returns (N, 3)."""
    return np.asarray(points)[:, :3] @ matrix[:3, :3].T + matrix[:3, 3]


def read_object_calibration(path: Path, image_size: tuple[int, int] = DEFAULT_IMAGE_SIZE) -> Calibration:
    """The calibration of one frame of the object set (``calib/ID.txt``).

    The tracking benchmark's spelling of the keys (``Tr_velo_cam``, ``R_rect``) is read as well.

    Raises:
        LabelError: if the file is missing, lacks a matrix, or holds something else than numbers.
    """
    values = read_matrices(path)
    rectification = matrix(path, values, ("R0_rect", "R_rect"), (3, 3))
    velo_to_cam = matrix(path, values, ("Tr_velo_to_cam", "Tr_velo_cam"), (3, 4))
    projection = matrix(path, values, ("P2",), (3, 4))
    return _rectified(path, rectification, velo_to_cam, projection, image_size)


def read_raw_calibration(date_folder: Path) -> Calibration:
    """The calibration of a raw recording day: ``calib_velo_to_cam.txt`` and ``calib_cam_to_cam.txt``.

    Raises:
        LabelError: if a file is missing, lacks a matrix, or holds something else than numbers.
    """
    velo_path, camera_path = date_folder / "calib_velo_to_cam.txt", date_folder / "calib_cam_to_cam.txt"
    velo, camera = read_matrices(velo_path), read_matrices(camera_path)
    rotation = matrix(velo_path, velo, ("R",), (3, 3))
    translation = matrix(velo_path, velo, ("T",), (3, 1))
    rectification = matrix(camera_path, camera, ("R_rect_00",), (3, 3))
    projection = matrix(camera_path, camera, ("P_rect_02",), (3, 4))
    size = DEFAULT_IMAGE_SIZE
    if "S_rect_02" in camera:
        width, height = matrix(camera_path, camera, ("S_rect_02",), (2,))
        size = (int(width), int(height))
    return _rectified(velo_path, rectification, np.hstack([rotation, translation]), projection, size)


def write_object_calibration(path: Path, calibration: Calibration) -> None:
    """Writes ``calib/ID.txt`` so that `read_object_calibration` gives the same calibration back.

    The rectification is the identity: ``Tr_velo_to_cam`` carries the whole transform.
    """
    projection = calibration.image_from_camera
    identity = np.eye(3)
    rows = {f"P{camera}": projection for camera in range(4)}
    rows |= {"R0_rect": identity, "Tr_velo_to_cam": calibration.camera_from_lidar[:3]}
    rows |= {"Tr_imu_to_velo": np.eye(4)[:3]}
    _write_matrices(path, rows)


def write_raw_calibration(date_folder: Path, calibration: Calibration) -> None:
    """Writes a recording day's two files so that `read_raw_calibration` gives the same calibration back.

    As in `write_object_calibration` the rectification is the identity, and all cameras are the left colour camera.
    """
    lidar = calibration.camera_from_lidar
    _write_matrices(date_folder / "calib_velo_to_cam.txt", {"R": lidar[:3, :3], "T": lidar[:3, 3]})
    values = {"S": np.array(calibration.image_size), "R": np.eye(3), "P": calibration.image_from_camera}
    rows = {f"{key}_rect_{camera:02d}": matrix for camera in range(4) for key, matrix in values.items()}
    _write_matrices(date_folder / "calib_cam_to_cam.txt", rows)


def _write_matrices(path: Path, rows: dict[str, NDArray[Any]]) -> None:
    lines = [f"{key}: " + " ".join(f"{value:.12e}" for value in matrix.ravel()) for key, matrix in rows.items()]
    write_whole(path, "\n".join(lines) + "\n")


def _rectified(
    path: Path,
    rectification: NDArray[np.float64],
    velo_to_cam: NDArray[np.float64],
    projection: NDArray[np.float64],
    image_size: tuple[int, int],
) -> Calibration:
    matrix = np.eye(4)
    matrix[:3] = rectification @ velo_to_cam
    try:
        return Calibration(matrix, projection, image_size)
    except LabelError as error:
        raise LabelError(f"{path}: {error}") from error


def read_matrices(path: Path) -> dict[str, NDArray[np.float64]]:
    """Every ``key: numbers`` line of a KITTI calibration file; lines of other content (dates) are passed over."""
    try:
        text = read_text(path, MAX_FILE_BYTES)
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror}); expected a KITTI calibration file") from error
    values = {}
    for line in text.splitlines():
        key, _, numbers = line.strip().partition(" ")
        try:
            values[key.rstrip(":")] = np.array([float(number) for number in numbers.split()])
        except ValueError:
            continue
    return values


def matrix(
    path: Path, values: dict[str, NDArray[np.float64]], keys: tuple[str, ...], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The first of these keys that a file has, from `read_matrices`, in its shape.

    Raises:
        LabelError: if it has none of them, or not as many finite numbers.
    """
    for key in keys:
        if key in values:
            if values[key].size != np.prod(shape) or not np.isfinite(values[key]).all():
                raise LabelError(
                    f"{path}: {key} holds {values[key].size} numbers, expected {np.prod(shape)}, all finite"
                )
            return values[key].reshape(shape)
    raise LabelError(f"{path}: no line '{keys[0]}: …' of numbers; expected a KITTI calibration file")
