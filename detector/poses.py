"""Where frames were taken: poses of KITTI raw drives, and of drives that say so in ``tracks.jsonl``.

A pose is world_from_lidar, (4, 4) float64 [m]. KITTI's raw drives hold a packet of the inertial system for each frame,
``oxts/data/ID.txt``: latitude and longitude [deg], altitude [m], roll, pitch and yaw [rad], and more. Its axes are x
forward, y left, z up; yaw is 0 eastwards and grows counter-clockwise. As in KITTI's development kit, places are those
of the Mercator projection, scaled so that a metre is a metre at one latitude, and the rotation is yaw * pitch * roll.
Source: Geiger et al., "Vision meets Robotics: The KITTI Dataset" (IJRR 2013), and the read-me of the raw kit.

The world is then x east, y north of an origin, by default the place of the drive's first packet, and z the altitude.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.calibration import matrix, read_matrices
from detector.errors import FrameError, LabelError

Float64 = NDArray[np.float64]
PoseOf = Callable[[str], Float64 | None]  # of a frame's id; None where it has none

EARTH_RADIUS_M = 6378137.0  # as in KITTI's kit
IMU_FILE = "calib_imu_to_velo.txt"
TRACKS_FILE = "tracks.jsonl"
MAX_LATITUDE_DEG = 85.0  # Mercator's poles are infinitely far away


@dataclass(frozen=True)
class Origin:
    """The place on the earth that is x = y = 0 of a world, and at whose latitude a metre is a metre."""

    latitude_deg: float
    longitude_deg: float


def find_poses(folder: Path, origin: Origin | None = None) -> PoseOf | None:
    """The poses of a recording, or None where it has none.

    Args:
        folder: a raw drive with ``oxts/data``, or a folder with ``tracks.jsonl``.
        origin: of the world, for maps that serve several drives; by default a drive's own. ``tracks.jsonl`` has one.

    Raises:
        LabelError: if a calibration, the first packet or ``tracks.jsonl`` cannot be read.
    """
    if (folder / TRACKS_FILE).is_file():
        return read_track_poses(folder / TRACKS_FILE).get
    if (folder / "oxts" / "data").is_dir():
        return OxtsPoses(folder, origin)
    return None


def read_track_poses(path: Path) -> dict[str, Float64]:
    """The poses in lines of JSON with keys ``frame`` and ``world_from_lidar``, as simulated drives have them.

    Raises:
        LabelError: if the file cannot be read, or a line holds anything else.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror}); expected lines of JSON") from error
    poses: dict[str, Float64] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            pose = np.array(record["world_from_lidar"], np.float64)
            frame = str(record["frame"])
        except (ValueError, TypeError, KeyError) as error:
            raise LabelError(f"{path}, line {number}: {error!r}; expected frame and world_from_lidar") from error
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise LabelError(f"{path}, line {number}: pose of shape {pose.shape}, expected (4, 4), all finite")
        poses[frame] = pose
    return poses


class OxtsPoses:
    """The poses of a KITTI raw drive, read when they are asked for.

    Args:
        drive: the folder with ``oxts/data``; the date folder above it holds ``calib_imu_to_velo.txt``.
        origin: of the world; None: where the drive's first packet was.

    Raises:
        LabelError: if the calibration or the first packet cannot be read.
    """

    def __init__(self, drive: Path, origin: Origin | None = None) -> None:
        self._folder = drive / "oxts" / "data"
        calibration = drive.parent / IMU_FILE
        values = read_matrices(calibration)
        lidar_from_imu = np.eye(4)
        lidar_from_imu[:3, :3] = matrix(calibration, values, ("R",), (3, 3))
        lidar_from_imu[:3, 3] = matrix(calibration, values, ("T",), (3,))
        self._imu_from_lidar = np.linalg.inv(lidar_from_imu)
        if origin is None:
            first = min(self._folder.glob("*.txt"), default=self._folder / "0000000000.txt")
            try:
                origin = Origin(*_read_packet(first)[:2])
            except FrameError as error:
                raise LabelError(str(error)) from error
        self.origin = origin

    def __call__(self, frame_id: str) -> Float64 | None:
        """The pose of a frame, or None where there is no packet of it.

        Raises:
            FrameError: if its packet cannot be read.
        """
        path = self._folder / f"{frame_id}.txt"
        if not path.is_file():
            return None
        latitude, longitude, altitude_m, roll, pitch, yaw = _read_packet(path)
        world_from_imu = np.eye(4)
        world_from_imu[:3, :3] = rotation(roll, pitch, yaw)
        world_from_imu[:3, 3] = *east_north(latitude, longitude, self.origin), altitude_m
        return np.asarray(world_from_imu @ self._imu_from_lidar)


def east_north(latitude_deg: float, longitude_deg: float, origin: Origin) -> tuple[float, float]:
    """How far east and north of an origin a place is [m], by the Mercator projection."""
    scale_m = EARTH_RADIUS_M * np.cos(np.radians(origin.latitude_deg))
    north, at_origin = (np.arctanh(np.sin(np.radians(latitude))) for latitude in (latitude_deg, origin.latitude_deg))
    east = (longitude_deg - origin.longitude_deg + 180) % 360 - 180  # the short way round
    return float(scale_m * np.radians(east)), float(scale_m * (north - at_origin))


def rotation(roll_rad: float, pitch_rad: float, yaw_rad: float) -> Float64:
    """(3, 3) float64: about x, then y, then z of the world."""
    (a, b, c), (d, e, f) = (fn([roll_rad, pitch_rad, yaw_rad]) for fn in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    about_y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    about_z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x, np.float64)


def _read_packet(path: Path) -> list[float]:
    """Latitude, longitude [deg], altitude [m], roll, pitch, yaw [rad]."""
    expected = "expected numbers: latitude longitude altitude roll pitch yaw …"
    try:
        values = [float(word) for word in path.read_text(encoding="utf-8", errors="replace").split()[:6]]
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror}); {expected}") from error
    except ValueError as error:
        raise FrameError(f"{path}: {error}; {expected}") from error
    if len(values) < 6 or not np.isfinite(values).all() or abs(values[0]) > MAX_LATITUDE_DEG:
        raise FrameError(f"{path}: holds {values}; {expected}, latitude at most {MAX_LATITUDE_DEG:g} either way")
    return values
