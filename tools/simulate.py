"""Simulated drives with labels: a spinning 64-beam LiDAR in a street, in KITTI object layout. First version.

A drive depends on its seed and its number of frames alone: same bytes, whatever the number of threads.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from detector.boxes import image_boxes, labels_from_boxes
from detector.calibration import Calibration, write_object_calibration
from detector.errors import SourceError
from detector.files import write_json, write_whole
from detector.labels import KittiLabels, format_labels
from detector.types import Frame
from tools.simulation.raycast import count_unoccluded
from tools.simulation.sensor import HDL_64E, Sensor, azimuths, sweep
from tools.simulation.solids import Solids
from tools.simulation.street import Street, build_street

Float64 = NDArray[np.float64]

PERIOD_S = 0.1
MARKER = "simulated.json"  # says that a folder is a drive of ours, which --overwrite may replace
CAMERA_HALF_VIEW_RAD = np.radians(45)  # a little more than the camera sees; the rest is cropped exactly
# KITTI's camera, in round numbers: 721.5 pixels of focal length, 8 cm below and 27 cm ahead of the LiDAR.
CALIBRATION = Calibration(
    np.array([[0, -1, 0, 0], [0, 0, -1, -0.08], [1, 0, 0, -0.27], [0, 0, 0, 1.0]]),
    np.array([[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]]),
)
# Share of a vehicle's rays that nothing blocks, down to which it counts as visible, as partly occluded.
VISIBLE, PARTLY = 0.7, 0.35
MIN_POINTS = 5  # a vehicle hit by fewer is not labelled


def simulate_drive(
    num_frames: int, seed: int, sensor: Sensor = HDL_64E, full: bool = False
) -> Iterator[tuple[Frame, KittiLabels]]:
    """Frames of a drive at 10 Hz and their labels.

    Args:
        num_frames: how many; the street is as long as they need, so another number is another street.
        seed: street, traffic and noise.
        sensor: the LiDAR.
        full: whole sweeps; otherwise only what the camera sees, as most copies of KITTI are cut. Labels are
            those of the camera's view either way, as in KITTI.
    """
    street = build_street(num_frames * PERIOD_S, np.random.default_rng((seed, 0)))
    for number in range(num_frames):
        rng = np.random.default_rng((seed, 1, number))
        yield simulate_frame(street, number, rng, sensor, full)


def simulate_frame(
    street: Street, number: int, rng: np.random.Generator, sensor: Sensor = HDL_64E, full: bool = False
) -> tuple[Frame, KittiLabels]:
    """One frame of a drive through a street; see `simulate_drive`."""
    time_s = number * PERIOD_S
    solids, boxes = _scene(street, time_s, sensor.height_m)
    azimuth = azimuths(sensor, np.pi if full else CAMERA_HALF_VIEW_RAD)
    grade = street.grade_at(time_s)
    boxes[:, 2] += boxes[:, :2] @ grade
    points, owner, met = sweep(sensor, solids, azimuth, rng, grade)
    of_vehicle = owner >= 0
    seen = owner[of_vehicle][CALIBRATION.in_view(points[of_vehicle])]
    if not full:
        points = points[CALIBRATION.in_view(points)]
    # Occlusion counts rays, not echoes: glass and distance lose echoes without hiding a vehicle.
    ahead = np.abs(azimuth) <= CAMERA_HALF_VIEW_RAD
    hits, unblocked = (np.bincount(a[a >= 0], minlength=len(boxes)) for a in (seen, met[:, ahead]))
    possible = count_unoccluded(solids, len(boxes), sensor.elevation_rad, azimuth[ahead], grade)
    pose = np.eye(4)
    pose[2, :2], pose[:2, 2] = -grade, grade  # the rotation by angles as small as these
    pose[:3, 3] = street.ego_speed_mps * time_s, street.ego_y_m, sensor.height_m
    frame = Frame(points, f"{number:06d}", round(time_s * 1e9), CALIBRATION, pose)
    return frame, _labels(street, boxes, hits, unblocked / np.maximum(possible, 1))


def _scene(street: Street, time_s: float, height_m: float) -> tuple[Solids, Float64]:
    """The solids and the vehicles' (V, 7) boxes at a time, in the frame of the sensor."""
    sensor_from_world = -np.array([street.ego_speed_mps * time_s, street.ego_y_m, height_m])
    parts = [street.static.placed(sensor_from_world, 0.0)]
    boxes = np.zeros((len(street.vehicles), 7))
    for index, vehicle in enumerate(street.vehicles):
        place = np.array([*vehicle.at(time_s), 0.0]) + sensor_from_world
        parts.append(vehicle.solids.placed(place, vehicle.yaw_rad, owner=index))
        boxes[index] = [*place[:2], place[2] + vehicle.size_m[2] / 2, *vehicle.size_m, vehicle.yaw_rad]
    return Solids.join(parts), boxes


def _labels(street: Street, boxes: Float64, hits: NDArray[np.int64], free: Float64) -> KittiLabels:
    """Labels of what the camera sees, with truncation from the image and occlusion from the blocked rays."""
    types = tuple(vehicle.kind for vehicle in street.vehicles)
    labels, visible = labels_from_boxes(boxes, CALIBRATION, types)
    whole, _ = image_boxes(boxes, CALIBRATION, clip=False)
    area, whole_area = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (labels.boxes_2d, whole))
    truncated = np.round(1 - area / np.maximum(whole_area, 1e-9), 2)
    occluded = np.select([free > VISIBLE, free > PARTLY], [0.0, 1.0], 2.0)
    table = np.column_stack(
        [truncated, occluded, labels.alpha_rad, labels.boxes_2d, labels.dimensions_m, labels.locations_m]
    )
    table = np.column_stack([table, labels.rotation_y_rad, np.full(len(table), np.nan)])
    return KittiLabels.from_table(types, table).select(visible & (hits >= MIN_POINTS) & (truncated < 0.95))


def write_drive(out: Path, num_frames: int, seed: int, full: bool = False, show_progress: bool = False) -> None:
    """Writes a drive in KITTI object layout: ``training/{velodyne,calib,label_2}`` and ``ImageSets/val.txt``."""
    folders = {name: out / "training" / name for name in ("velodyne", "calib", "label_2")}
    for folder in (*folders.values(), out / "ImageSets"):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(out / MARKER, {"simulated": True, "frames": num_frames, "seed": seed, "full": full})
    frames = simulate_drive(num_frames, seed, full=full)
    ids = []
    for frame, labels in track(frames, "simulate", num_frames, disable=not show_progress, transient=True):
        write_whole(folders["velodyne"] / f"{frame.id}.bin", frame.points.tobytes())
        write_object_calibration(folders["calib"] / f"{frame.id}.txt", CALIBRATION)
        write_whole(folders["label_2"] / f"{frame.id}.txt", format_labels(labels))
        ids.append(frame.id)
    write_whole(out / "ImageSets" / "val.txt", "".join(f"{frame}\n" for frame in ids))


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--frames", type=click.IntRange(1), default=20, show_default=True, help="Frames, at 10 Hz.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed is another street.")
@click.option("--full", is_flag=True, help="Whole sweeps, not only what the camera sees.")
@click.option("--overwrite", is_flag=True, help="Replace a drive that OUT already holds.")
def sample(out: Path, frames: int, seed: int, full: bool, overwrite: bool) -> None:
    """Write a simulated, labelled drive in KITTI object layout.

    \b
    roadblocks sample drive --frames 50 --seed 1
    """
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise SourceError(f"{out}: is not empty; expected a new folder, or --overwrite to replace a drive in it")
        if not (out / MARKER).is_file():
            raise SourceError(f"{out}: holds no {MARKER}, so no simulated drive to replace; choose another OUT")
        for name in ("training", "ImageSets"):
            shutil.rmtree(out / name)
    write_drive(out, frames, seed, full, show_progress=True)
    click.echo(f"{frames} frames in {out}")
