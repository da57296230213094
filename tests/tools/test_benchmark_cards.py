"""Model cards and the failures that they tell of: objects with known facts, and a network that nobody measured."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from detector.boxes import labels_from_boxes
from detector.config import Config
from detector.labels import KittiLabels
from detector.matching import ANY_HEIGHT, METRICS, FramePair
from detector.pipeline import Pipeline
from models.network import load_network
from tests.tiny_network import INFO, SPEC, WIDE, patch_points, tiny_model, write_model, write_wide_model
from tools.benchmark import cards, failures
from tools.benchmark.__main__ import main
from tools.benchmark.failure_cases import (
    NEAR_CAR,
    NOTHING,
    UNLABELLED,
    Scene,
    Thing,
    describe,
    missed_counts,
    recall_rows,
    stands_on,
    worst,
)
from tools.benchmark.failure_page import failure_text
from tools.simulation.drive import camera_calibration, simulate_drive
from tools.simulation.labels import label_all_round
from tools.simulation.sensor import load_sensor
from tools.training.dataset import LabelledFrame

CALIBRATION = camera_calibration(load_sensor("hdl64e"))
CAR = Thing("Car", 10.0, 100, 0, 0.0, 1.0, counted=True, found=True, well_placed=True)
MISSED = CAR._replace(found=False, well_placed=False)


def label(name, x, z, box_2d=(0, 0, 0, 0), score=np.nan):
    return name, (0, 0, 0, *box_2d, 1.5, 2.0, 4.0, x, 1.65, z, 0.0, score)


def labels(*things):
    return KittiLabels.from_table(tuple(name for name, _ in things), np.array([row for _, row in things], float))


def rows_by_name(things):
    return {row["name"]: (row["cars"], row["found"], row["well_placed"]) for row in recall_rows(things)}


def test_every_car_is_in_one_bin_of_every_group():
    rng = np.random.default_rng(0)
    things = [
        CAR._replace(
            range_m=float(rng.uniform(1, 90)),
            points=int(rng.integers(0, 400)),
            occluded=int(rng.integers(0, 3)),
            view_deg=float(rng.uniform(0, 90)),
            inside=[None, 0.0, 0.5, 1.0][rng.integers(4)],
            found=bool(rng.integers(2)),
        )
        for _ in range(200)
    ]
    rows = recall_rows(things)
    for group in ("all", "points", "range", "occlusion", "view", "tiles"):
        mine = [row for row in rows if row["group"] == group]
        assert sum(row["cars"] for row in mine) == 200
        assert sum(row["found"] for row in mine) == sum(thing.found for thing in things)


def test_bins_at_their_ends():
    near, far = MISSED._replace(points=19, range_m=29.9), CAR._replace(points=20, range_m=30.0, well_placed=False)
    van = MISSED._replace(kind="Van", counted=False, points=0)
    found = rows_by_name([near, far, van])
    assert found["all cars"] == (2, 1, 0)
    assert found["with 10–19 points"] == (1, 0, 0) and found["with 20–49 points"] == (1, 1, 0)
    assert found["0–30 m"] == (1, 0, 0) and found["30–50 m"] == (1, 1, 0)
    assert found["vans, which count neither way"] == (1, 0, 0) and "with 0–4 points" not in found
    ends = rows_by_name([CAR._replace(view_deg=angle) for angle in (0, 29, 30, 60, 90)])
    assert [ends[name][0] for name in ends if name.startswith("seen")] == [2, 1, 2]


def test_missed_cars_are_told_by_what_kept_them():
    things = [
        CAR,
        MISSED,
        MISSED._replace(points=5),
        MISSED._replace(points=5, inside=0.0),
        MISSED._replace(inside=None),
    ]
    things.append(MISSED._replace(counted=False, inside=0.0))
    things.append(MISSED._replace(doubted=True))
    assert missed_counts(things) == {"cars": 5, "doubted": 1, "few_points": 2, "unseen": 2}


def test_facts_of_labelled_cars():
    """A car ahead heading away is seen end on, one that heads to the right side on; points inside are counted."""
    boxes = np.array([[20, 0, -1, 4, 2, 1.5, 0], [20, 10, -1, 4, 2, 1.5, -np.pi / 2 + np.arctan2(10, 20)]])
    truth, _ = labels_from_boxes(boxes, CALIBRATION, ("Car", "Van"))
    points = np.array([[20, 0, -1, 0.5]] * 3 + [[20, 10, -1, 0.5], [30, 0, -1, 0.5]], np.float32)
    first, second = describe(truth, boxes, points, [0.5, None])
    assert (first.kind, first.points, first.inside, second.kind, second.points) == ("Car", 3, 0.5, "Van", 1)
    assert first.view_deg == pytest.approx(0, abs=1) and second.view_deg == pytest.approx(90, abs=2)
    assert first.range_m == pytest.approx(20, abs=0.5) and second.range_m == pytest.approx(np.hypot(20, 10), abs=0.5)


def test_what_false_alarms_stand_on():
    truth = labels(
        label("Car", 0, 20), label("Pedestrian", 10, 20), label("DontCare", -1000, -1000, (500, 100, 600, 200))
    )
    alarms = labels(
        label("Car", 1.5, 20, score=1),  # overlaps the car by 2.5 of 5.5 m
        label("Car", 11, 20, score=1),
        label("Car", 50, 60, (510, 110, 590, 190), 1),
        label("Car", 50, 60, (100, 110, 190, 190), 1),
    )
    assert stands_on(alarms, truth) == [NEAR_CAR, "a labelled Pedestrian", UNLABELLED, NOTHING]
    assert stands_on(KittiLabels.empty(), truth) == []
    assert stands_on(alarms, KittiLabels.empty()) == [NOTHING] * 4


@pytest.mark.parametrize("surround", [False, True])
def test_what_nobody_labelled_is_no_false_alarm(tmp_path, surround):
    """A car behind the camera counts where labels are all round."""
    around = replace(SPEC, x_min_m=-SPEC.x_max_m)
    path = write_model(tmp_path / "round.onnx", tiny_model(spec=around), replace(INFO, grid=around))
    nobody = LabelledFrame(
        "0",
        patch_points() - np.float32([SPEC.x_max_m, 0, 0, 0]),
        np.zeros((0, 7), np.float32),
        np.zeros(0, bool),
        KittiLabels.empty(),
        CALIBRATION,
        surround,
    )
    scene = Scene.of(nobody, Pipeline(Config(model=str(path), device="cpu")))
    assert scene.result.detections.boxes[0, 0] < 0 and scene.false_alarms == ((NOTHING,) if surround else ())


def test_the_worst_frames_are_of_both_kinds():
    class Stub:
        def __init__(self, missed, false):
            self.missed, self.false_alarms = missed, ("x",) * false

    calm, blind, alarmed, both = scenes = [Stub(0, 0), Stub(5, 0), Stub(0, 4), Stub(4, 3)]
    assert worst(scenes, 3) == [blind, alarmed, both] and worst(scenes, 9) == [blind, alarmed, both, calm]


def test_labels_all_round_hold_cars_behind_the_camera():
    (made,) = simulate_drive(1, seed=3, full=True)
    truth = label_all_round(made.objects, made.frame.calibration)
    cars = np.array([name == "Car" for name in truth.types])
    assert (truth.locations_m[cars, 2] < 0).any(), "some are behind"
    pair = FramePair(replace(truth, scores=np.ones(len(truth))), truth)
    counted = int((cars & (truth.occluded <= 2)).sum())
    assert pair.counts(METRICS["3d"], ANY_HEIGHT, np.array([0.5])).tolist() == [[counted, 0, 0]]


@pytest.fixture(scope="module")
def failed(tmp_path_factory):
    """The record of two simulated frames with the shipped network, and the folder of its pictures."""
    folder = tmp_path_factory.mktemp("failures")
    words = ["failures", "--frames", "2", "--worst", "1", "--pictures", str(folder), "--json", "-"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    return json.loads(result.stdout), folder


def test_the_record_and_pictures_of_failures(failed):
    record, folder = failed
    assert record["network"] == "kitti" and record["simulated"] == {"seed": failures.SEED, "all_round": False}
    (picture,) = record["pictures"]
    assert picture["file"] == "failures_kitti_1.png" and min(Image.open(folder / picture["file"]).size) > 500
    (everything, *_) = record["recall"]
    assert everything["cars"] - everything["found"] == record["missed"]["cars"]
    text = failure_text(record, "failures_simulated")
    assert f"(../docs/{picture['file']})" in text and f"**{record['missed']['cars']} are missed**" in text
    recorded = failure_text({**record, "simulated": None}, "failures")
    assert f"`{record['worst'][0]['id']}`" in recorded and ".png" not in recorded, "no pictures of recorded frames"


def test_a_network_without_records_has_a_card(tmp_path, monkeypatch):
    """Another grid, no mask network, nothing measured: all from the file."""
    monkeypatch.setattr(cards, "network_folder", lambda: tmp_path)
    network = load_network(write_wide_model(tmp_path / "surround.onnx"))
    text = cards.cards()
    grid = f"{WIDE.rows} × {WIDE.cols} cells of 0.8 m"
    assert "## tiny" in text and network.sha256 in text and grid in text and "mask network" not in text
    assert "no record of this network" in text and "training: steps" in text


def test_weights_and_operations_in_closed_form(tmp_path):
    network = load_network(write_model(tmp_path / "tiny.onnx", tiny_model()))
    channels, patch, cells = network.info.grid.channels, 4 * 4, 2 * 3
    assert cards.parameters(network) == (1 + 8) * (channels * patch + 1)
    facts = cards.facts(network)
    assert facts["multiply-adds, whole grid"] == f"{(1 + 8) * channels * patch * cells / 1e9:.2f} billion"


def test_numbers_of_other_weights_are_told(failed):
    record, _ = failed
    network = load_network("kitti")
    assert cards.outdated(record, network) == ""
    assert "earlier weights" in cards.outdated({**record, "sha256": "0" * 64}, network)


def test_committed_cards_are_of_the_weights_that_lie_here():
    text = cards.cards()
    assert "earlier weights" not in text, "measure anew: accuracy, scores, failures (see CONTRIBUTING.md)"


def test_frames_all_round_are_whole_turns():
    (front,) = failures.simulated_frames(1, 3, False)
    (around,) = failures.simulated_frames(1, 3, True)
    assert (front.points[:, 0] > 0).all() and (around.points[:, 0] < -5).any()
    assert len(around.boxes) > len(front.boxes)
