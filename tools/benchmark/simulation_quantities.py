"""What of a frame is compared: the table of quantities, and their values in one labelled frame.

Only points that the camera sees count, since most copies of KITTI are cut to them, and only cars are looked at. The
ring of a point is the beam whose line, height of origin + distance * tan(elevation), passes nearest: unlike the order
of the file and the wrap of its azimuths, this needs no whole sweep. On KITTI's frames it gives rings that never fall
along the file, and 95 % of the points are within 0.01 degrees of their beam.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.boxes import boxes_from_labels, points_in_box, wrap_angle
from detector.calibration import Calibration
from detector.labels import CAR, KittiLabels
from detector.pipeline import Pipeline
from detector.types import Frame
from tools.benchmark.simulation_distance import Sample
from tools.simulation.sensor import Sensor, rings

Float64 = NDArray[np.float64]
Bands = tuple[tuple[int, int], ...]

CAR_RANGES_M: Bands = ((0, 10), (10, 20), (20, 30), (30, 40), (40, 70))
HEIGHT_RANGES_M: Bands = ((0, 15), (15, 30), (30, 60))
SIDES = ("front", "side", "rear")
SIDE_REACH_M = 40.0  # farther cars have too few points for their sides to matter
REFERENCE_M = 10.0  # points on a surface fall with the square of range; for its side, a car is brought here
LOW_Z_M, NEAR_M = -1.5, 20.0  # road and pavement, mostly
HEIGHT_STEP_M, INTENSITY_STEP, RANGE_STEP_M = 0.02, 0.01, 0.1  # KITTI's own intensities are hundredths


@dataclass(frozen=True)
class Quantity:
    """One distribution.

    Attributes:
        name: what it is.
        unit: of the values, as on an axis.
        group: the plot that it is in, "cars" or "points".
        edges: (B + 1,), of the plot's bins; what is outside is drawn in the outermost ones.
        log: whether the axis is logarithmic.
    """

    name: str
    unit: str
    group: str
    edges: NDArray[np.floating]
    log: bool = False


def _quantities() -> Iterator[tuple[str, Quantity]]:
    # Edges lie between the multiples that values are rounded to.
    many = np.geomspace(1, 4000, 25)
    for low, high in CAR_RANGES_M:
        yield f"car_{low}", Quantity(f"points per car, {low} to {high} m", "points", "cars", many, True)
    for side in SIDES:
        name = f"points per visible car, {side} seen"
        yield f"car_{side}", Quantity(name, f"points, as at {REFERENCE_M:g} m", "cars", many, True)
    yield "cars", Quantity("cars per frame", "cars", "cars", np.arange(17) - 0.5)
    yield "car_range", Quantity("range of cars", "m", "cars", np.linspace(0, 80, 21))
    yield "car_view", Quantity("angle of view of cars", "degrees, 0: front, 180: rear", "cars", np.linspace(0, 180, 19))
    yield (
        "occlusion",
        Quantity("occlusion level of cars", "0 visible, 1 partly, 2 largely, 3 unknown", "cars", np.arange(5) - 0.5),
    )
    yield "points", Quantity("points per frame", "points", "points", np.linspace(8_000, 26_000, 25))
    yield "ring_points", Quantity("points per ring and frame", "points", "points", np.linspace(0, 600, 31))
    yield "ring", Quantity("ring of points", "ring, 0 the uppermost", "points", np.arange(65) - 0.5)
    yield "range", Quantity("range of points", "m", "points", np.linspace(-0.05, 79.95, 41))
    heights = np.linspace(-3.01, 2.99, 61)
    for low, high in HEIGHT_RANGES_M:
        name = f"height of points, {low} to {high} m"
        yield f"height_{low}", Quantity(name, "m above the sensor", "points", heights)
    intensities = np.linspace(-0.005, 0.995, 51)
    low_points = f"intensity below {LOW_Z_M:g} m, within {NEAR_M:g} m"
    for key, name in (("all", "intensity of points"), ("low", low_points), ("car", "intensity of points on cars")):
        yield f"intensity_{key}", Quantity(name, "intensity", "points", intensities)
    yield "cells", Quantity("occupied BEV cells", "% of cells", "points", np.linspace(0.5, 3, 26))
    yield "tiles", Quantity("active tiles", "% of tiles", "points", np.linspace(0, 70, 36))


QUANTITIES: Mapping[str, Quantity] = dict(_quantities())


def measure_frame(
    frame: Frame, calibration: Calibration, labels: KittiLabels, pipeline: Pipeline, sensor: Sensor
) -> dict[str, Sample]:
    """The values of every quantity of `QUANTITIES` in one frame.

    Args:
        frame: points, LiDAR frame.
        calibration: of its camera.
        labels: of its objects.
        pipeline: says which cells and tiles its points touch.
        sensor: beams, for the rings.
    """
    points = frame.points[calibration.in_view(frame.points)]
    cars = labels.select(np.array([name == CAR for name in labels.types], bool))
    return {**_points(points, sensor), **_grid(frame, pipeline), **_cars(points, cars, calibration)}


def _points(points: NDArray[np.float32], sensor: Sensor) -> dict[str, Sample]:
    range_m, ring = np.hypot(points[:, 0], points[:, 1]), rings(points, sensor)
    low = (points[:, 2] < LOW_Z_M) & (range_m < NEAR_M)
    found = {
        "points": Sample.of([len(points)]),
        "ring_points": Sample.of(np.bincount(ring, minlength=len(sensor.elevation_deg))),
        "ring": Sample.of(ring),
        "range": Sample.of(range_m, RANGE_STEP_M),
        "intensity_all": Sample.of(points[:, 3], INTENSITY_STEP),
        "intensity_low": Sample.of(points[low, 3], INTENSITY_STEP),
    }
    for start, stop in HEIGHT_RANGES_M:
        here = (range_m >= start) & (range_m < stop)
        found[f"height_{start}"] = Sample.of(points[here, 2], HEIGHT_STEP_M)
    return found


def _grid(frame: Frame, pipeline: Pipeline) -> dict[str, Sample]:
    """Shares of the detector's own grid [%]; it crops the points itself."""
    prepared = pipeline.prepare(frame)
    occupied = prepared.grid[..., :-1].any(axis=2)  # the last channel is intensity, which may be 0
    share = len(prepared.tiles) / prepared.tiles.spec.total
    return {"cells": Sample.of([100 * occupied.mean()]), "tiles": Sample.of([100 * share])}


def _cars(points: NDArray[np.float32], cars: KittiLabels, calibration: Calibration) -> dict[str, Sample]:
    boxes = boxes_from_labels(cars, calibration)
    inside = [points_in_box(points, box) for box in boxes]
    count = np.array([mask.sum() for mask in inside], np.float64)
    on_cars = np.any(inside, axis=0) if inside else np.zeros(len(points), bool)
    range_m = np.hypot(boxes[:, 0], boxes[:, 1])
    view_rad = np.abs(wrap_angle(np.arctan2(-boxes[:, 1], -boxes[:, 0]) - boxes[:, 6]))
    side = visible_side(boxes, view_rad)
    clear = (cars.occluded == 0) & (range_m < SIDE_REACH_M)
    found = {
        "cars": Sample.of([len(cars)]),
        "car_range": Sample.of(range_m),
        "car_view": Sample.of(np.degrees(view_rad)),
        "occlusion": Sample.of(cars.occluded),
        "intensity_car": Sample.of(points[on_cars, 3], INTENSITY_STEP),
    }
    for low, high in CAR_RANGES_M:
        found[f"car_{low}"] = Sample.of(count[(range_m >= low) & (range_m < high)])
    brought = count * (range_m / REFERENCE_M) ** 2
    return found | {f"car_{name}": Sample.of(brought[clear & (side == name)]) for name in SIDES}


def visible_side(boxes: Float64, view_rad: Float64) -> NDArray[np.str_]:
    """(N,) names of `SIDES`: the face of each box (N, 7) that fills most of the view.

    Args:
        boxes: LiDAR frame.
        view_rad: (N,) angle between the heading and the way to the sensor, 0 to pi.
    """
    along, across = boxes[:, 3] * np.sin(view_rad), boxes[:, 4] * np.cos(view_rad)
    return np.where(along > np.abs(across), "side", np.where(across > 0, "front", "rear"))
