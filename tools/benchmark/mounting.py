"""``python -m tools.benchmark mounting``: cars found in sweeps of other LiDARs, with and without ``--auto-sensor``.

A network that looks ahead, as a camera does, is run four times on a whole turn, rotated by 90 degrees each time, and of
the boxes of each run those count whose centre lies in the quadrant ahead, azimuth -45 to 45 degrees: every place is
looked at once, and it does not matter which axis points forward. One that looks all round is run once.

Cars that count are labelled as such, lie within 30 m of the LiDAR frame's origin (horizontally, box centre) and hold 20
points or more. A car is found if a box from the given score on overlaps its rectangle by half (IoU 0.5). A box is false
if it overlaps no labelled object by a tenth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from detector.auto_sensor import FRAMES, trained_height_m
from detector.boxes import RECTANGLE
from detector.config import Config, SensorConfig, load_config
from detector.errors import LabelError, SourceError
from detector.pipeline import Pipeline
from detector.point_files import read_points
from detector.sensor_estimate import estimate_sensor
from kernels.rotated_iou import rotated_iou
from models.network import load_network
from tools.benchmark.labelled import identity
from tools.benchmark.report import emit, origin

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

CARS = ("VEHICLE", "car")  # Argoverse's name and nuScenes'
RANGE_M = 30.0
LEAST_POINTS = 20
FOUND_IOU, FALSE_IOU = 0.5, 0.1
LOW_SCORE = 0.3


@dataclass(frozen=True)
class Sweep:
    """A whole turn with its labels.

    Attributes:
        points: (N, 4) float32, as for `Pipeline.detect`.
        objects: (M, 7) float64 boxes of everything that is labelled, LiDAR frame.
        counts: (M,) bool: the cars that count.
    """

    points: Float32
    objects: Float64
    counts: NDArray[np.bool_]


def read_sweeps(folder: Path) -> list[Sweep]:
    """The sweeps of a folder, one in each of its folders: ``velodyne.bin`` and ``boxes.txt``.

    Lines of the latter are ``class x y z length width height yaw points …``: centre, metres and radians.

    Raises:
        LabelError: if a label file cannot be read.
        SourceError: if there is no sweep.
    """
    files = sorted(folder.glob("*/velodyne.bin"))
    if not files:
        raise SourceError(f"{folder}: no sweeps; expected SWEEP/velodyne.bin and SWEEP/boxes.txt")
    return [_read_sweep(file) for file in files]


def _read_sweep(file: Path) -> Sweep:
    labels = file.with_name("boxes.txt")
    try:
        lines = [line.split() for line in labels.read_text(encoding="ascii").splitlines() if not line.startswith("#")]
        numbers = np.array([[float(word) for word in line[1:9]] for line in lines]).reshape(-1, 8)
    except (OSError, ValueError) as error:
        raise LabelError(f"{labels}: {error}; expected lines of class, box and number of points") from error
    is_car = np.array([line[0] in CARS for line in lines], bool)
    near = np.hypot(numbers[:, 0], numbers[:, 1]) <= RANGE_M
    return Sweep(read_points(file), numbers[:, :7], is_car & near & (numbers[:, 7] >= LEAST_POINTS))


def turned(values: NDArray[Any], quarters: int) -> NDArray[Any]:
    """Points or boxes (N, 2 or more), rotated counter-clockwise by quarters of a turn; boxes have their yaw last."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    result = values.copy()
    result[:, 0] = cos * values[:, 0] - sin * values[:, 1]
    result[:, 1] = sin * values[:, 0] + cos * values[:, 1]
    if values.shape[1] == 7:
        result[:, 6] += quarters * np.pi / 2
    return result


def detect_around(pipeline: Pipeline, points: Float32) -> tuple[Float32, Float32]:
    """(N, 7) boxes and (N,) scores of a whole turn, from one run of the network or from four."""
    if pipeline.spec.all_round:
        around = pipeline.detect(points).detections
        return around.boxes, around.scores
    boxes, scores = [], []
    for quarters in range(4):
        found = pipeline.detect(turned(points, -quarters)).detections
        azimuth = np.arctan2(found.boxes[:, 1], found.boxes[:, 0])
        ahead = (azimuth >= -np.pi / 4) & (azimuth < np.pi / 4)
        boxes.append(turned(found.boxes[ahead], quarters))
        scores.append(found.scores[ahead])
    return np.concatenate(boxes), np.concatenate(scores)


def count_found(sweep: Sweep, boxes: Float32) -> tuple[int, int, list[float]]:
    """How many of the cars that count are found, how many boxes within range are false, and errors of height [m]."""
    boxes = boxes[np.hypot(boxes[:, 0], boxes[:, 1]) <= RANGE_M].astype(np.float64)
    if not len(boxes):
        return 0, 0, []
    iou = np.zeros((len(boxes), 0))
    if len(sweep.objects):
        iou = rotated_iou(*(np.ascontiguousarray(each[:, RECTANGLE]) for each in (boxes, sweep.objects)))
    false = int(np.count_nonzero(iou.max(axis=1, initial=0) < FALSE_IOU))
    best = [(iou[:, car].argmax(), car) for car in np.flatnonzero(sweep.counts)]
    found = [(box, car) for box, car in best if iou[box, car] >= FOUND_IOU]
    return len(found), false, [float(boxes[box, 2] - sweep.objects[car, 2]) for box, car in found]


def measure(config: Config, sensor: SensorConfig, sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """Recall, false boxes and height error over sweeps, at the network's display score and at a low one."""
    pipeline = Pipeline.from_config(config, sensor=sensor)
    found = [detect_around(pipeline, sweep.points) for sweep in track(sweeps, "detecting", transient=True)]
    cars = sum(int(sweep.counts.sum()) for sweep in sweeps)
    rows = []
    for score in (pipeline.network.info.display_score, LOW_SCORE):
        counted = [
            count_found(sweep, boxes[scores >= score]) for sweep, (boxes, scores) in zip(sweeps, found, strict=True)
        ]
        hits, false = (sum(row[place] for row in counted) for place in (0, 1))
        errors_m = [error for row in counted for error in row[2]]
        rows.append(
            {
                "score": score,
                "found": hits,
                "recall": hits / max(cars, 1),
                "false": false,
                "height_error_m": float(np.median(errors_m)) if errors_m else None,
            }
        )
    return {"sensor": vars(sensor), "scores": rows}


def measure_folder(config: Config, folder: Path) -> dict[str, Any]:
    """The sweeps of a folder as they are, and with what is measured on the first of them."""
    sweeps = read_sweeps(folder)
    estimate = estimate_sensor([sweep.points for sweep in sweeps[:FRAMES]])
    auto = estimate.applied_to(config.sensor, trained_height_m(config))
    runs = {"as it is": config.sensor, "--auto-sensor": auto}
    return {
        "sweeps": len(sweeps),
        "cars": sum(int(sweep.counts.sum()) for sweep in sweeps),
        "estimate": vars(estimate),
        "runs": {name: measure(config, sensor, sweeps) for name, sensor in runs.items()},
    }


@click.command()
@click.option("--argoverse", type=click.Path(path_type=Path, exists=True), help="Folder of sweeps with boxes.txt.")
@click.option("--nuscenes", type=click.Path(path_type=Path, exists=True), help="Folder of sweeps with boxes.txt.")
@click.option("--config", "name", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--model", help="Network to use instead of the configuration's: name or ONNX file.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def mounting(
    argoverse: Path | None, nuscenes: Path | None, name: str, model: str | None, json_file: str | None
) -> None:
    """Recall of cars within 30 m in sweeps of other LiDARs, with and without --auto-sensor."""
    folders = {"argoverse": argoverse, "nuscenes": nuscenes}
    if not any(folders.values()):
        raise click.UsageError("expected --argoverse FOLDER, --nuscenes FOLDER, or both")
    config: Config = load_config(name)
    if model:
        config = replace(config, model=model)
    sets = {key: measure_folder(config, folder) for key, folder in folders.items() if folder}
    rules = {"range_m": RANGE_M, "least_points": LEAST_POINTS, "iou": FOUND_IOU}
    record = {**identity(load_network(config.model)), **rules, "sets": sets, **origin()}
    emit(json_file, record, record_table(record))


def record_table(record: dict[str, Any]) -> Table:
    """A row per set, run and score."""
    title = f"Cars within {record['range_m']:g} m with {record['least_points']} points or more, IoU {record['iou']:g}"
    table = Table("set", "run", "height_m", "score", "found", "false", "height error", title=title)
    for name, facts in record["sets"].items():
        table.add_section()
        for run, values in facts["runs"].items():
            height_m = values["sensor"]["height_m"]
            for row in values["scores"]:
                error_m = row["height_error_m"]
                table.add_row(
                    f"{name}, {facts['sweeps']} sweeps",
                    run,
                    "trained" if height_m is None else f"{height_m:.2f}",
                    f"{row['score']:.2f}",
                    f"{row['found']} of {facts['cars']} ({row['recall']:.0%})",
                    str(row["false"]),
                    "" if error_m is None else f"{error_m:+.2f} m",
                )
    return table
