"""`python -m tools.benchmark mounting`: turns, counting and the record, on made-up sweeps and a tiny network."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from detector.ground import GroundPlane
from detector.types import Detections
from tests.detector.test_ground import made_up_ground
from tests.tiny_network import CAR_SIZE, INFO, patch_points, write_model
from tools.benchmark.__main__ import main
from tools.benchmark.mounting import Sweep, count_found, detect_around, read_sweeps, turned


def boxes_at(*places):
    return np.array([[x, y, -1, 4, 2, 1.5, 0.3] for x, y in places], np.float32)


@pytest.mark.parametrize("quarters", range(-3, 5))
def test_turns_are_rotations(quarters):
    boxes = boxes_at((3, 1), (-2, 5))
    angle_rad = quarters * np.pi / 2
    rotation = np.array([[np.cos(angle_rad), -np.sin(angle_rad)], [np.sin(angle_rad), np.cos(angle_rad)]])
    found = turned(boxes, quarters)
    np.testing.assert_allclose(found[:, :2], boxes[:, :2] @ rotation.T, atol=1e-6)
    np.testing.assert_allclose(found[:, 6], 0.3 + angle_rad, rtol=1e-6)
    assert np.array_equal(found[:, 2:6], boxes[:, 2:6])
    assert np.array_equal(turned(boxes[:, :4], quarters)[:, 2:], boxes[:, 2:4]), "points have no yaw"


@pytest.mark.parametrize("all_round", [False, True])
def test_every_place_is_looked_at_once(all_round):
    azimuth = np.linspace(-np.pi, np.pi, 97)[:-1] + 0.01  # none on a border
    places = np.column_stack([20 * np.cos(azimuth), 20 * np.sin(azimuth)])
    points = np.column_stack([places, np.full(96, -1.0), np.full(96, 0.5)]).astype(np.float32)

    def detect(points):  # a box on every point, wherever it is
        boxes = boxes_at(*points[:, :2])
        return SimpleNamespace(detections=Detections(boxes, points[:, 3], ("Car",) * len(boxes)))

    boxes, scores = detect_around(SimpleNamespace(detect=detect, spec=SimpleNamespace(all_round=all_round)), points)
    assert len(boxes) == len(scores) == 96
    found = boxes[np.lexsort((boxes[:, 1], boxes[:, 0].round(4)))][:, :2]
    np.testing.assert_allclose(found, places[np.lexsort((places[:, 1], places[:, 0].round(4)))], atol=1e-4)


def test_counting_by_hand():
    objects = boxes_at((10, 0), (0, 10), (-10, 0), (25, 25)).astype(np.float64)
    sweep = Sweep(np.zeros((0, 4), np.float32), objects, np.array([True, True, False, False]))
    found = boxes_at((10.2, 0), (-10, 0.1), (5, 5), (40, 0))
    found[0, 2] = -0.8
    hits, false, errors_m = count_found(sweep, found)
    # (10, 0) is found 0.2 m too high, (0, 10) is not; (-10, 0) does not count and is no mistake; (40, 0) is too far.
    assert (hits, false) == (1, 1) and errors_m == [pytest.approx(0.2)]
    assert count_found(sweep, found[:0]) == (0, 0, [])
    assert count_found(Sweep(sweep.points, objects[:0], np.zeros(0, bool)), found)[:2] == (0, 3)


@pytest.fixture
def sweeps(tmp_path):
    """Two sweeps in the frame of a vehicle that stands on the ground, a car of the tiny network's behind it."""
    for number in range(2):
        folder = tmp_path / "sweeps" / str(number)
        folder.mkdir(parents=True)
        car = patch_points(row=1, col=1)
        car[:, :2] *= -1
        car[:, 2] += 2.5
        ground = made_up_ground(GroundPlane(0, 0, 0.0), seed=number)
        np.concatenate([ground[np.abs(ground[:, 2]) < 0.2], car]).tofile(folder / "velodyne.bin")
        size = " ".join(map(str, CAR_SIZE))
        (folder / "boxes.txt").write_text(
            "# class cx cy cz length width height yaw npts occluded truncated\n"
            f"VEHICLE -4.8 0.0 1.5 {size} 0.0 40 -1 -1\n"
            f"VEHICLE 4.8 0.0 1.5 {size} 0.0 3 -1 -1\n"
            f"PEDESTRIAN 4.8 0.0 1.5 {size} 0.0 90 -1 -1\n"
        )
    return tmp_path / "sweeps"


def test_labels_are_read(sweeps):
    first, _ = read_sweeps(sweeps)
    assert first.counts.tolist() == [True, False, False] and first.objects.shape == (3, 7)
    (sweeps / "0" / "boxes.txt").write_text("VEHICLE 1 2 three\n")
    result = CliRunner().invoke(main, ["mounting", "--argoverse", str(sweeps)])
    assert result.exit_code == 2 and "boxes.txt" in result.stderr
    result = CliRunner().invoke(main, ["mounting", "--nuscenes", str(sweeps / "0")])
    assert result.exit_code == 2 and "no sweeps; expected" in result.stderr


def test_the_command_counts_with_and_without(sweeps, tmp_path):
    model = write_model(tmp_path / "tiny.onnx", info=replace(INFO, ground_z_m=-2.5))
    words = ["mounting", "--argoverse", str(sweeps), "--model", str(model), "--json"]
    result = CliRunner().invoke(main, [*words, str(tmp_path / "record.json")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "record.json").read_text())
    facts = record["sets"]["argoverse"]
    assert (facts["sweeps"], facts["cars"]) == (2, 2)
    found = {name: [row["found"] for row in run["scores"]] for name, run in facts["runs"].items()}
    assert found == {"as it is": [0, 0], "--auto-sensor": [2, 2]}
    auto = facts["runs"]["--auto-sensor"]
    assert auto["sensor"]["height_m"] == pytest.approx(0, abs=0.03)
    assert auto["scores"][0]["height_error_m"] == pytest.approx(0, abs=0.05)
    assert {"machine", "versions", "revision", "date"} <= set(record) and "2 of 2" in result.stdout
