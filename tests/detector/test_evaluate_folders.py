"""Evaluation of folders: where files are looked for, what is refused, and real KITTI labels."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from detector.boxes import boxes_from_labels
from detector.calibration import read_object_calibration
from detector.errors import LabelError
from detector.evaluate import evaluate, evaluate_folders, result_table
from detector.labels import format_labels, read_labels
from detector.overlaps import box_overlaps
from kernels.rotated_iou import rotated_iou

CARS = """Car 0.00 0 0 100 100 180 160 1.5 2 4 {x} 1.6 20 0
Car 0.00 0 0 300 100 380 160 1.5 2 4 {x} 1.6 40 0
"""
IDS = ("000001", "000002", "000003")


def write(folder, ids=IDS, score=""):
    folder.mkdir(parents=True)
    for x, frame_id in enumerate(ids):
        (folder / f"{frame_id}.txt").write_text(CARS.format(x=x).replace("0\n", f"0 {score}\n"))


@pytest.fixture
def folders(tmp_path):
    write(tmp_path / "kitti" / "training" / "label_2")
    write(tmp_path / "out" / "label_2", score="0.5")
    return tmp_path / "out", tmp_path / "kitti"


@pytest.mark.parametrize("inner_found", ["", "label_2"])
@pytest.mark.parametrize("inner_labels", ["", "training", "training/label_2"])
def test_finds_the_files_where_kitti_and_we_put_them(folders, inner_found, inner_labels):
    report = evaluate_folders(folders[0] / inner_found, folders[1] / inner_labels)
    assert report.frame_ids == IDS and report.missing_ids == ()
    # Six objects, six thresholds: precision[0:6] = 1.
    assert report.average_precision["Car"]["3d"]["R40"]["easy"] == pytest.approx(100 * 5 / 40)


def test_a_missing_prediction_file_is_an_empty_one(folders):
    found, labels = folders
    (found / "label_2" / "000002.txt").unlink()
    report = evaluate_folders(found, labels)
    assert report.missing_ids == ("000002",)
    (found / "label_2" / "000002.txt").write_text("")
    assert evaluate_folders(found, labels).average_precision == report.average_precision
    # Four of six are found, so recall ends at 4/6; predictions for other frames do not count.
    (found / "label_2" / "999999.txt").write_text(CARS.format(x=0).replace("0\n", "0 0.9\n"))
    assert evaluate_folders(found, labels).average_precision == report.average_precision
    assert report.average_precision["Car"]["3d"]["R40"]["easy"] == pytest.approx(100 * 3 / 40)


def test_split(folders, tmp_path):
    split = tmp_path / "val.txt"
    split.write_text("000003\n000001\n\n000003\n")
    report = evaluate_folders(*folders, split)
    assert report.frame_ids == ("000003", "000001")
    assert report.average_precision["Car"]["3d"]["R40"]["easy"] == pytest.approx(100 * 3 / 40)


def test_result_is_json_and_a_table(folders):
    report = evaluate_folders(*folders)
    result = json.loads(json.dumps(report.average_precision))
    assert set(result["Car"]) == {"2d", "bev", "3d", "bev_50", "3d_50"}
    for metric in result["Car"].values():
        assert set(metric) == {"R11", "R40"}
        assert all(set(by_difficulty) == {"easy", "moderate", "hard"} for by_difficulty in metric.values())
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(result_table(replace(report, missing_ids=("000002",))))
    text = console.export_text()
    assert "3 frames, 1 without predictions" in text
    assert text.count("12.50") == 15


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda out, kitti: (out / "label_2").rename(out.parent / "gone"),
            "out: found no label file, expected ID.txt",
        ),
        (lambda out, kitti: out.rename(out.parent / "gone"), "out: found nothing, expected a folder"),
        (
            lambda out, kitti: (kitti.rename(kitti.parent / "gone"), kitti.write_text("")),
            "kitti: found a file",
        ),
        (lambda out, kitti: [path.unlink() for path in kitti.rglob("*.txt")], "label_2: found no label file"),
        (
            lambda out, kitti: [path.rename(path.with_stem("9" + path.stem)) for path in out.rglob("*.txt")],
            r"out and .*kitti share no frame: found e.g. 9000001 .*expected e.g. 000001",
        ),
        (
            lambda out, kitti: (out / "label_2" / "000002.txt").write_text(CARS.format(x=0)),
            "000002.txt: 2 of 2 objects have no score, expected one each",
        ),
        (
            lambda out, kitti: (out / "label_2" / "000002.txt").write_text("Car 1\n"),
            "000002.txt, line 1: 2 columns",
        ),
        (
            lambda out, kitti: (kitti / "training/label_2/000002.txt").write_bytes(b"\xff\x00"),
            "000002.txt, line 1",
        ),
    ],
)
def test_errors_name_the_file_in_one_line(folders, spoil, message):
    spoil(*folders)
    with pytest.raises(LabelError, match=message) as caught:
        evaluate_folders(*folders)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "000001\n000009\n",
            "val.txt: found 1 of 2 ids have no label, e.g. 000009; expected .*kitti, e.g. 000001",
        ),
        ("\n", "val.txt: found no frame id"),
        (None, "val.txt: cannot be read .*expected a text file"),
    ],
)
def test_split_errors(folders, tmp_path, text, message):
    if text is not None:
        (tmp_path / "val.txt").write_text(text)
    with pytest.raises(LabelError, match=message):
        evaluate_folders(*folders, tmp_path / "val.txt")


# --- Real labels ---


@pytest.fixture
def kitti(shared):
    return shared / "kitti"


@pytest.fixture
def labels(kitti):
    return [read_labels(path) for path in sorted((kitti / "training" / "label_2").glob("*.txt"))]


def test_real_labels_as_predictions_are_perfect(kitti, labels, tmp_path):
    for path in (kitti / "training" / "label_2").glob("*.txt"):
        found = read_labels(path)
        (tmp_path / path.name).write_text(format_labels(replace(found, scores=np.ones(len(found)))))
    report = evaluate_folders(tmp_path, kitti)
    assert len(report.frame_ids) == len(labels) > 200
    values = {
        value for metric in report.average_precision["Car"].values() for by in metric.values() for value in by.values()
    }
    assert values == {100.0}


def test_real_labels_with_half_of_them_found(labels):
    rng = np.random.default_rng(0)
    found = [replace(truth, scores=np.ones(len(truth))).select(rng.uniform(size=len(truth)) < 0.5) for truth in labels]
    result = evaluate(found, labels)["Car"]["3d"]["R40"]
    # Nothing is wrong, so precision is 1 up to a recall of about one half.
    assert all(45 < result[difficulty] < 55 for difficulty in result)


def test_real_boxes_overlap_as_much_in_the_lidar_frame(kitti):
    """The camera looks along the ground to a degree or two: its x-z plane is nearly the LiDAR's x-y plane."""
    rng = np.random.default_rng(0)
    paths = sorted((kitti / "training" / "label_2").glob("*.txt"))[:40]
    shared_pairs = 0
    for path in paths:
        truth = read_labels(path)
        truth = truth.select(np.array([name != "DontCare" for name in truth.types], bool))
        moved = replace(
            truth,
            locations_m=truth.locations_m + rng.normal(0, 0.4, (len(truth), 3)),
            rotation_y_rad=truth.rotation_y_rad + rng.normal(0, 0.3, len(truth)),
        )
        calibration = read_object_calibration(kitti / "training" / "calib" / path.name)
        bev = [boxes_from_labels(objects, calibration)[:, [0, 1, 3, 4, 6]] for objects in (truth, moved)]
        overlaps = box_overlaps(truth, moved)[0]
        np.testing.assert_allclose(overlaps, rotated_iou(*bev), rtol=0, atol=0.03)
        shared_pairs += (overlaps > 0.1).sum()
    assert shared_pairs > 100
