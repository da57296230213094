"""Simulated drives: frames with everything that is known about them, one after the other, without files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration
from detector.errors import ConfigError
from detector.labels import KittiLabels
from detector.types import Frame
from tools.simulation.labels import Objects, count_hits, find_objects, label_objects
from tools.simulation.road_raster import FRONT, SURROUND, RoadRaster, find_road
from tools.simulation.sensor import Sensor, load_sensor
from tools.simulation.solids import Solids
from tools.simulation.surface import level_surface
from tools.simulation.sweep import caster, sweep, world_from_lidar
from tools.simulation.world import Motion, World, build_world

Float64 = NDArray[np.float64]

DEFAULT_SENSOR = "hdl64e"
# KITTI's camera, in round numbers: 27 cm ahead of the origin of the vehicle and 1.65 m above the ground, with a focal
# length of 721.5 pixels.
CAMERA_FROM_VEHICLE = np.array([[0, -1, 0, 0], [0, 0, -1, 1.65], [1, 0, 0, -0.27], [0, 0, 0, 1.0]])
IMAGE_FROM_CAMERA = np.array(
    [[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]]
)
MAX_WORLD_S = 60.0  # its rasters take some 100 MB on the way; they grow with the square of its length
NEAR_M, FAR_M = 1.0, 1000.0  # from the camera, between which its view is followed


@dataclass(frozen=True)
class DriveFrame:
    """One frame of a drive, and the truth about it.

    Attributes:
        frame: points, id, stamp, calibration, pose.
        labels: of what the camera sees, as KITTI's annotators would write them.
        objects: all actors within range, all round, with their tracks. Beams that never fire, behind a frame
            that is cropped, see nothing.
        road: what the ground is.
        world: number of its world within the drive; poses and tracks of another world have nothing to do with its.
    """

    frame: Frame
    labels: KittiLabels
    objects: Objects
    road: RoadRaster
    world: int = 0


def simulate_drive(
    num_frames: int,
    seed: int,
    sensor: Sensor | None = None,
    full: bool = False,
    step_s: float | None = None,
    frames_per_world: int | None = None,
    device: str = "cpu",
) -> Iterator[DriveFrame]:
    """The frames of a drive; they depend on the arguments alone, not on the number of threads.

    For training: few frames of each world, far apart, and as many worlds as it takes. Frames are made when they are
    asked for, and number ``i`` is the same for any ``num_frames``, given ``frames_per_world``.

    Args:
        num_frames: how many.
        seed: of worlds and noise.
        sensor: the LiDAR, by default KITTI's.
        full: whole sweeps; otherwise only what the camera sees, as most copies of KITTI are cut. Labels are
            those of the camera's view either way, as in KITTI.
        step_s: from frame to frame, by default a turn of the sensor.
        frames_per_world: after so many a new world begins. By default one world holds all of them, up to
            `MAX_WORLD_S`; it is as large as they need, so another number of frames is another world.
        device: "cpu" or "cuda", where the rays are cast; see `sweep`.

    Raises:
        ConfigError: at the call, if a world would be longer than `MAX_WORLD_S`, or there is no such device.
    """
    sensor = sensor or load_sensor(DEFAULT_SENSOR)
    step_s = step_s or 1 / sensor.rate_hz
    longest = 1 + int(MAX_WORLD_S / step_s)
    frames_per_world = frames_per_world or min(num_frames, longest)
    if frames_per_world > longest:
        raise ConfigError(
            f"{frames_per_world} frames of one world, {step_s:g} s apart, are too many; "
            f"expected at most {longest}, which are {MAX_WORLD_S:g} s"
        )
    caster(device)
    return _frames(num_frames, seed, sensor, full, step_s, frames_per_world, device)


def _frames(
    num_frames: int, seed: int, sensor: Sensor, full: bool, step_s: float, frames_per_world: int, device: str
) -> Iterator[DriveFrame]:
    duration_s = (frames_per_world - 1) * step_s + 1 / sensor.rate_hz
    for number in range(num_frames):
        index, turn = divmod(number, frames_per_world)
        if turn == 0:
            world = build_world(duration_s, np.random.default_rng((seed, 0, index)))
        found = simulate_frame(world, turn * step_s, np.random.default_rng((seed, 1, number)), sensor, full, device)
        frame = replace(found.frame, id=f"{number:06d}", stamp_ns=round(number * step_s * 1e9))
        yield replace(found, frame=frame, world=index)


def simulate_frame(
    world: World,
    time_s: float,
    rng: np.random.Generator,
    sensor: Sensor | None = None,
    full: bool = False,
    device: str = "cpu",
) -> DriveFrame:
    """The frame at one moment of a world; see `simulate_drive`."""
    sensor = sensor or load_sensor(DEFAULT_SENSOR)
    calibration = camera_calibration(sensor)
    swept = sweep(sensor, world, time_s, rng, np.pi if full else half_view_rad(calibration), device)
    in_view = calibration.in_view(swept.points)
    seen = replace(swept, points=swept.points[in_view], owner=swept.owner[in_view])
    objects = find_objects(swept, sensor, world, time_s)
    in_camera = replace(objects, hits=count_hits(seen, world)[objects.index])
    return DriveFrame(
        Frame((swept if full else seen).points, "0", round(time_s * 1e9), calibration, swept.world_from_lidar),
        label_objects(in_camera, calibration),
        objects if full else in_camera,
        find_road(sensor, world, time_s, SURROUND if full else FRONT),
    )


def camera_calibration(sensor: Sensor) -> Calibration:
    """How a sensor's frame maps to KITTI's camera, which has its place on the vehicle wherever the sensor is."""
    garage = World(level_surface(half_m=10.0), Solids.join([]), (), Motion.standing(np.zeros(3)))
    vehicle_from_lidar = world_from_lidar(sensor, garage, 0.0)
    return Calibration(CAMERA_FROM_VEHICLE @ vehicle_from_lidar, IMAGE_FROM_CAMERA)


def half_view_rad(calibration: Calibration) -> float:
    """The largest azimuth, to either side of straight ahead of the LiDAR, at which the camera sees anything."""
    width, height = calibration.image_size
    rays = np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    projection = calibration.image_from_camera
    corners = [np.linalg.solve(projection[:, :3], depth * rays - projection[:, 3:]).T for depth in (NEAR_M, FAR_M)]
    x, y, _ = calibration.to_lidar(np.concatenate(corners)).T
    # What is seen is convex: while it is ahead, its corners are its outermost places.
    return float(np.abs(np.arctan2(y, x)).max()) if (x > 0).all() else np.pi
