"""Road labels on ground known by heart, on simulated worlds, and under the cars of real frames."""

from pathlib import Path

import numpy as np
import pytest

from detector.boxes import boxes_from_labels
from models.errors import ModelError
from models.grid import BevSpec
from tools.simulation.drive import simulate_frame
from tools.simulation.sensor import load_sensor
from tools.simulation.world import build_world
from tools.training.dataset import load_frames
from tools.training.road_labels import NOT_ROAD, ROAD, UNKNOWN, road_labels

SPLIT = Path(__file__).resolve().parents[2] / "configs" / "splits" / "kitti_train.txt"
SENSOR = load_sensor("hdl64e")
X_M = (np.arange(176)[:, None] + 0.5) * 0.4
Y_M = (np.arange(200) + 0.5) * 0.4 - 40
NEAR = (X_M > 6) & (np.hypot(X_M, Y_M) < 25) & (np.abs(Y_M) < 0.75 * X_M)


def sweep_over(height, box=None):
    """Where KITTI's beams meet ground of a height (of x and y), or a box (x, y, half length, half width, top) on it."""
    azimuth = np.radians(np.arange(-41, 41, 1 / 6))
    ranges = np.arange(3, 40, 0.1)[:, None]
    x, y = ranges * np.cos(azimuth), ranges * np.sin(azimuth)
    top = height(x, y)
    if box is not None:
        top = np.where((np.abs(x - box[0]) < box[2]) & (np.abs(y - box[1]) < box[3]), box[4], top)
    points = []
    for angle, origin in zip(np.radians(SENSOR.elevation_deg), SENSOR.beam_height_m, strict=True):
        clearance = origin + ranges * np.tan(angle) - top
        column = np.flatnonzero((clearance[1:] <= 0).any(axis=0))
        first = (clearance[1:, column] <= 0).argmax(axis=0)
        before, after = clearance[first, column], clearance[first + 1, column]
        meets = ranges[first, 0] + 0.1 * np.clip(before / (before - after), 0, 1)
        way = np.cos(azimuth[column]), np.sin(azimuth[column]), np.full(len(column), np.tan(angle))
        x, y, z = (meets * step for step in way)
        points.append(np.column_stack([x, y, z + origin, np.full(len(column), 0.3)]))
    found = np.concatenate(points)
    found[:, 2] += np.random.default_rng(0).normal(0, 0.002, len(found))
    return found.astype(np.float32)


def street(kerb_m, grade=0.0):
    """A road 7 m wide, its middle at y = 0, with kerbs."""
    return lambda x, y: -1.7 + grade * x - 0.02 * np.abs(y) + kerb_m * (np.abs(y) > 3.5)


@pytest.mark.parametrize("grade", [0.0, 0.04, -0.03])
def test_kerbs_are_borders(grade):
    labels = road_labels(sweep_over(street(0.12, grade)))
    lane = NEAR & (np.abs(Y_M) < 3.0)
    pavement = NEAR & (np.abs(Y_M) > 4.0)
    assert (labels[lane] == ROAD).mean() > 0.95 and not (labels[lane] == NOT_ROAD).any()
    assert not (labels[pavement] == ROAD).any()


def test_a_narrow_pavement_is_not_road_and_a_wide_one_is_unknown():
    def beside(width_m):
        def height(x, y):
            return street(0.12)(x, y) + 0.8 * (np.abs(y) > 3.5 + width_m)  # a wall behind it

        return road_labels(sweep_over(height))

    narrow, wide = beside(2.0), beside(7.0)
    pavement = NEAR & (np.abs(Y_M) > 4.1) & (np.abs(Y_M) < 4.9)
    assert (narrow[pavement] == NOT_ROAD).mean() > 0.7
    middle = NEAR & (np.abs(Y_M) > 6.0) & (np.abs(Y_M) < 8.0)
    assert (wide[middle] == UNKNOWN).all(), "as wide as a carriageway"


def test_grass_is_rough():
    points = sweep_over(street(0.0))
    beside = np.abs(points[:, 1]) > 3.5
    points[beside, 2] += np.random.default_rng(1).normal(0, 0.02, beside.sum()).astype(np.float32)
    labels = road_labels(points)
    assert (labels[NEAR & (np.abs(Y_M) < 3.0)] == ROAD).mean() > 0.95
    grass = NEAR & (np.abs(Y_M) > 4.2)
    assert (labels[grass] == NOT_ROAD).mean() > 0.6 and not (labels[grass] == ROAD).any()


def test_a_car_on_the_road_stands_on_road_and_hides_what_is_behind():
    labels = road_labels(sweep_over(street(0.12), box=(12, 0.0, 2.0, 0.85, 0.2)))
    under = (np.abs(X_M - 12) < 1.8) & (np.abs(Y_M) < 0.8)
    assert not (labels[under] == NOT_ROAD).any() and (labels[under] == ROAD).mean() > 0.5
    behind = (X_M > 22) & (X_M < 30) & (np.abs(Y_M) < 0.8)
    assert (labels[behind] == UNKNOWN).mean() > 0.9


def test_frames_that_tell_nothing_are_unknown():
    assert (road_labels(np.zeros((0, 4), np.float32)) == UNKNOWN).all()
    one = np.array([[10, 0, -1.7, 0]], np.float32)
    assert (road_labels(one) == UNKNOWN).all()
    wall = np.column_stack([np.full(500, 8.0), np.linspace(-5, 5, 500), np.linspace(-1, 1, 500), np.zeros(500)])
    assert (road_labels(wall.astype(np.float32)) == UNKNOWN).all()
    broken = np.full((10, 4), np.nan, np.float32)
    assert (road_labels(broken) == UNKNOWN).all()


def test_cells_and_order():
    points = sweep_over(street(0.12))
    labels = road_labels(points)
    assert labels.shape == (176, 200) and labels.dtype == np.uint8
    assert np.array_equal(road_labels(points[np.random.default_rng(0).permutation(len(points))]), labels)
    assert road_labels(points, 0.8).shape == (88, 100)
    small = BevSpec(x_max_m=32.0, y_min_m=-16.0, y_max_m=16.0)
    assert road_labels(points, 0.4, small).shape == (80, 80)
    with pytest.raises(ModelError):
        road_labels(points, 0.3)


def test_simulated_roads():
    """Few frames, so the bounds are wide; the module's own numbers are of many."""
    right = wrong = missed = 0
    for seed in range(2):
        world = build_world(1.0, np.random.default_rng(seed))
        found = simulate_frame(world, 0.5, np.random.default_rng(seed))
        labels = road_labels(found.frame.points)
        road = found.road.road.reshape(176, 2, 200, 2).sum(axis=(1, 3)) >= 2
        right += (road & (labels == ROAD)).sum()
        wrong += (~road & (labels == ROAD)).sum()
        missed += (road & (labels == NOT_ROAD)).sum()
    assert right > 1500 and wrong < 0.1 * right and missed < 0.1 * right


def test_real_cars_do_not_stand_beside_the_road(shared, tmp_path):
    ids = SPLIT.read_text().split()[:30:3]
    (tmp_path / "split.txt").write_text("\n".join(ids))
    under = np.zeros(0, np.uint8)
    for frame in load_frames(shared / "kitti" / "training", tmp_path / "split.txt"):
        labels = road_labels(frame.points)
        assert 0.005 < (labels == ROAD).mean() < 0.5, frame.id
        boxes = boxes_from_labels(frame.labels.select(np.array(frame.labels.types) == "Car"), frame.calibration)
        x, y = boxes[:, 0], boxes[:, 1]
        inside = (x >= 0) & (x < 70.4) & (np.abs(y) < 40)
        under = np.append(under, labels[(x[inside] / 0.4).astype(int), ((y[inside] + 40) / 0.4).astype(int)])
    assert len(under) > 10 and (under == NOT_ROAD).mean() < 0.1
