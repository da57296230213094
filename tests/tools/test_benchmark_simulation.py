"""`python -m tools.benchmark simulation`: distances, quantities of frames with known contents, record and page."""

import gzip
import json
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import ks_2samp

from detector.boxes import labels_from_boxes
from detector.calibration import Calibration, write_object_calibration
from detector.config import MaskConfig, load_config
from detector.errors import SourceError
from detector.labels import KittiLabels, format_labels
from detector.pipeline import Pipeline
from detector.sources import open_sources
from detector.types import Frame
from models.network import load_network
from tests.tiny_network import write_model
from tools import simulate
from tools.benchmark import pages
from tools.benchmark.__main__ import main
from tools.benchmark.simulation import read_detector, read_drives, sample_command
from tools.benchmark.simulation_distance import HIGH, Sample, draw_half, real_floor, widest_gap
from tools.benchmark.simulation_page import GROUPS, differing, picture_file, write_page
from tools.benchmark.simulation_quantities import QUANTITIES, SIDES, measure_frame, visible_side
from tools.simulation.sensor import load_sensor, rings

# A camera in the LiDAR's place, so that directions are those of the LiDAR.
CALIBRATION = Calibration(
    np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]]),
    np.array([[700, 0, 621, 0], [0, 700, 180, 0], [0, 0, 1, 0.0]]),
)
KITTI_ONNX = pages.ROOT / "models" / "kitti.onnx"
HDL_64E = load_sensor("hdl64e")
# Heading away, to the right, and towards the sensor: rear, side and front are seen.
CARS = np.array([[8, 0, -1, 4, 2, 1.5, 0], [20, 5, -1, 4, 2, 1.5, -np.pi / 2], [50, -9, -1, 4, 2, 1.5, np.pi]])
POINTS_ON_CARS = (5, 3, 0)
numbers = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


def make_frame(intensity=0.25, occluded=(0, 0, 2)):
    """Points: 12 on two beams, then those on cars, then two that the camera does not see; and labels."""
    beam, azimuth = np.repeat([10, 30], 6), np.tile(np.linspace(-0.3, 0.3, 6), 2)
    reach = 40.0
    height = np.array(HDL_64E.beam_height_m)[beam] + reach * np.tan(np.radians(np.array(HDL_64E.elevation_deg)[beam]))
    on_beams = np.column_stack([reach * np.cos(azimuth), reach * np.sin(azimuth), height])
    on_cars = np.repeat(CARS[:, :3] + [0.5, 0, 0.2], POINTS_ON_CARS, axis=0)
    unseen = np.array([[-5.0, 0, 0], [5, 20, 0]])
    places = np.vstack([on_beams, on_cars, unseen])
    points = np.column_stack([places, np.full(len(places), intensity)]).astype(np.float32)
    labels, _ = labels_from_boxes(CARS, CALIBRATION, ("Car", "Car", "Car"))
    table = np.column_stack(
        [np.zeros(3), occluded, labels.alpha_rad, labels.boxes_2d, labels.dimensions_m, labels.locations_m]
    )
    table = np.column_stack([table, labels.rotation_y_rad, np.full(3, np.nan)])
    return Frame(points, calibration=CALIBRATION), KittiLabels.from_table(("Car", "Car", "Car"), table)


def write_folder(root, frames):
    for name in ("velodyne", "calib", "label_2"):
        (root / "training" / name).mkdir(parents=True)
    for number, (frame, labels) in enumerate(frames):
        (root / "training" / "velodyne" / f"{number:06d}.bin").write_bytes(frame.points.tobytes())
        (root / "training" / "label_2" / f"{number:06d}.txt").write_text(format_labels(labels))
        write_object_calibration(root / "training" / "calib" / f"{number:06d}.txt", CALIBRATION)
    return root


def run(*words):
    result = CliRunner().invoke(main, ["simulation", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def measured():
    frame, labels = make_frame()
    # What the mask network says of so few points is its own affair.
    config = replace(load_config("kitti"), mask=MaskConfig("occupancy"))
    found = measure_frame(frame, CALIBRATION, labels, Pipeline(config), HDL_64E)
    return {key: np.repeat(sample.values, sample.weights.astype(int)) for key, sample in found.items()}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The record and the page of six frames against the same ones, and of brighter ones of which half are occluded."""
    root = tmp_path_factory.mktemp("compared")
    levels = np.linspace(0.1, 0.6, 6)
    real = write_folder(root / "real", [make_frame(level) for level in levels])
    other = write_folder(root / "other", [make_frame(level + 0.2, (0, 2, 2)) for level in levels])
    same = json.loads(run(real, real, "--json", "-"))
    page, pictures = root / "page.md", root / "side.png"
    outputs = ("--json", root / "record.json", "--page", page, "--pictures", pictures)
    run(real, other, *outputs, "--detector", f"228 real frames={KITTI_ONNX}")
    return same, json.loads((root / "record.json").read_text()), page, pictures


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's p-value of small samples
@given(numbers, numbers)
def test_distance_is_scipys(first, second):
    gap = widest_gap(Sample.of(first), Sample.of(second))
    expected = ks_2samp(first, second, method="asymp")
    assert gap.distance == pytest.approx(expected.statistic, abs=1e-12)
    shares = [np.mean(np.array(values) <= gap.at) for values in (first, second)]
    assert gap.shares == pytest.approx(shares) and abs(shares[0] - shares[1]) == pytest.approx(gap.distance)


def test_distance_of_shifted_values_is_the_shift():
    values = np.arange(100)
    assert widest_gap(Sample.of(values), Sample.of(values)).distance == 0
    assert widest_gap(Sample.of(values), Sample.of(values + 25)).distance == pytest.approx(0.25)
    assert widest_gap(Sample.of(values), Sample.of(values + 100))[:2] == (1, 99)
    assert np.isnan(widest_gap(Sample.of(values), Sample.of([])).distance)


@given(numbers, numbers, st.sampled_from([0.01, 0.25, 0.5, 0.9, 1.0]))
def test_pooled_samples_have_the_quantiles_of_all_values(first, second, share):
    pooled = Sample.pool([Sample.of(first), Sample.of(second)])
    expected = np.quantile(first + second, share, method="inverted_cdf")
    assert pooled.weights.sum() == len(first + second) and pooled.quantile(share) == expected


def test_values_are_rounded_to_steps():
    sample = Sample.of([0.111, 0.114, 0.126], 0.01)
    np.testing.assert_allclose(sample.values, [0.11, 0.13])
    assert sample.weights.tolist() == [2, 1] and np.isnan(Sample.of([]).quantile(0.5))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # scipy's p-value of small samples
@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 4), max_size=5), min_size=4, max_size=8), st.integers(0, 9))
def test_floor_is_the_distance_between_halves(frames, seed):
    rng = np.random.default_rng(seed)
    halves = [draw_half([str(number) for number in range(len(frames))], rng) for _ in range(7)]
    distances = []
    for half in halves:
        chosen = [[frame for frame, here in zip(frames, side, strict=True) if here] for side in (half, ~half)]
        sides = [list(chain.from_iterable(part)) for part in chosen]
        if all(sides):
            distances.append(ks_2samp(*sides, method="asymp").statistic)
    found = real_floor([Sample.of(frame) for frame in frames], halves)
    expected = (np.median(distances), np.quantile(distances, HIGH)) if distances else (np.nan, np.nan)
    assert found == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.integers(0, 99))
def test_halves_keep_drives_whole(groups, seed):
    half = draw_half(groups, np.random.default_rng(seed))
    sides = [{group for group, here in zip(groups, side, strict=True) if here} for side in (half, ~half)]
    assert not sides[0] & sides[1]
    largest = max(groups.count(group) for group in groups)
    assert abs(half.sum() - len(groups) / 2) <= largest / 2


def test_values_of_a_known_frame(measured):
    assert measured.keys() == QUANTITIES.keys()
    assert measured["points"].tolist() == [20], "two are out of view"
    assert measured["cars"].tolist() == [3] and measured["occlusion"].tolist() == [0, 0, 2]
    per_ring = measured["ring_points"]
    assert len(per_ring) == 64 and per_ring.sum() == 20
    assert {10, 30} <= set(measured["ring"]) and (measured["ring"] == 10).sum() == 6
    on_cars = {low: measured[f"car_{low}"].tolist() for low in (0, 10, 20, 30, 40)}
    assert on_cars == {0: [5], 10: [], 20: [3], 30: [], 40: [0]}
    np.testing.assert_allclose(measured["car_range"], np.hypot(CARS[:, 0], CARS[:, 1]), atol=1e-6)
    assert measured["car_rear"] == pytest.approx([5 * 0.64]) and measured["car_side"] == pytest.approx([3 * 4.25])
    assert measured["car_front"].tolist() == [], "it is hidden, and far"
    view_deg = np.degrees([np.pi, np.arctan2(20, 5), np.arctan2(9, 50)])
    np.testing.assert_allclose(np.sort(measured["car_view"]), np.sort(view_deg), atol=1e-4)
    assert measured["intensity_car"].tolist() == [0.25] * 8
    cells = 6 + 2  # the two beams hit the same ones; the points of a car share one
    assert measured["cells"] == pytest.approx([100 * cells / (704 * 800)])
    assert 0 < measured["tiles"][0] < 10


def test_rings_of_real_frames_never_fall_along_the_file(shared):
    files = open_sources([shared / "kitti"])[0].frames
    for file in files[:4]:
        points = file.load().points
        ring = rings(points, HDL_64E)
        assert (np.diff(ring) >= 0).all() and ring[0] == 0 and len(np.unique(ring)) > 40


def test_the_side_that_fills_most_of_the_view():
    view = np.radians(
        [0, 25, 29, 90, 151, 155, 180]
    )  # an end of 2 m looks as wide as a side of 4 m at atan(1/2) = 26.6
    boxes = np.tile(CARS[:1], (7, 1))
    assert visible_side(boxes, view).tolist() == ["front"] * 2 + ["side"] * 3 + ["rear"] * 2
    assert set(SIDES) == {"front", "side", "rear"}


def test_same_frames_are_not_apart(compared):
    same, _, _, _ = compared
    assert [row["key"] for row in same["quantities"]] == list(QUANTITIES)
    assert {row["distance"] for row in same["quantities"]} <= {0, None}
    assert not differing(same["quantities"])
    assert same["real"] == {"frames": 6, "groups": 6} and same["simulated"]["frames"] == 6


def test_brighter_frames_are_apart_by_the_share_of_values_passed(compared):
    rows = {row["key"]: row for row in compared[1]["quantities"]}
    # Six levels in steps of 0.1, shifted by 0.2: two of six are below all of the others.
    for key in ("intensity_all", "intensity_car"):
        assert rows[key]["distance"] == pytest.approx(2 / 6, abs=1e-6)
        assert rows[key]["real"]["median"] == pytest.approx(0.3) and rows[key]["simulated"]["median"] == pytest.approx(
            0.5
        )
    # One of three cars of every frame has another occlusion level.
    assert rows["occlusion"]["distance"] == pytest.approx(1 / 3, abs=1e-6)
    assert rows["occlusion"]["shares"] == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    assert rows["occlusion"]["floor"] == {"median": 0, "high": 0}
    assert {row["distance"] for key, row in rows.items() if key in ("points", "cars", "ring", "range")} == {0}


def test_the_page_is_written_from_the_record(compared):
    _, record, page, _ = compared
    text = page.read_text()
    assert text == write_page(record, "page")
    sections = ["Cars", "Points", "What still differs", "A detector trained on it", "Simulated pictures"]
    sections.append("How it is measured")
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == sections
    assert all(f"| {quantity.name} | {quantity.unit} |" in text for quantity in QUANTITIES.values())
    difference = text.partition("## What still differs")[2].partition("##")[0]
    apart = [QUANTITIES[row["key"]].name for row in differing(record["quantities"])]
    assert "occlusion level of cars" in apart and all(f"- **{name}**" in difference for name in apart)
    assert "real" in text and str(page.parent) not in text, "no paths of a machine"
    for name in (*GROUPS, "pictures"):
        assert f"]({picture_file(page, name).name})" in text
        assert min(Image.open(picture_file(page, name)).size) > 500


def test_detectors_are_told_by_what_they_say_of_themselves(compared, tmp_path):
    (row,) = compared[1]["detectors"]
    info = load_network(KITTI_ONNX).info
    assert row == {"trained_on": "228 real frames", "steps": info.training["steps"], "ap": row["ap"]}
    assert row["ap"]["bev_50"] == info.ap["Car"]["bev_50"]["R40"]["moderate"]
    line = next(line for line in compared[2].read_text().splitlines() if line.startswith("| 228 real frames |"))
    assert f"| {info.ap['Car']['bev']['R40']['moderate']:.1f} |" in line
    with pytest.raises(SourceError, match="expected NAME=FILE"):
        read_detector("models/kitti.onnx")
    with pytest.raises(SourceError, match="names no average precision"):
        read_detector(f"tiny={write_model(tmp_path / 'tiny.onnx')}")


def test_pictures_show_both_sides(compared):
    page, pictures = compared[2:]
    both, alone = (np.asarray(Image.open(file).convert("RGB")) for file in (pictures, picture_file(page, "pictures")))
    left, right = np.array_split(both, 2, axis=1)
    assert left.shape == right.shape and (left != right).any()
    for sheet in (left, right, alone):
        assert (sheet[..., 1].astype(int) - sheet[..., 0] > 100).any(), "no green cars"


def test_drives_of_frames(tmp_path):
    text = "frame,drive,type\n000001,a,Car\n000001,a,Van\n000002,b,Car\n"
    (tmp_path / "drives.csv").write_text(text)
    (tmp_path / "drives.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("drives.csv", "drives.csv.gz"):
        assert read_drives(tmp_path / name, ["000002", "000001"]) == ["b", "a"]
    with pytest.raises(SourceError, match="has no frame 000003"):
        read_drives(tmp_path / "drives.csv", ["000003"])
    (tmp_path / "drives.csv").write_text("id\n1\n")
    with pytest.raises(SourceError, match="expected CSV with the columns frame and drive"):
        read_drives(tmp_path / "drives.csv", ["000001"])


def test_the_command_of_a_simulated_drive(tmp_path, monkeypatch):
    monkeypatch.setattr(simulate, "simulate_drive", lambda *_: iter(()))
    assert sample_command(tmp_path) is None
    drive = tmp_path / "drive"
    for words in ("--frames 1 --seed 3", "--frames 1 --full --step 0.5"):
        made = CliRunner().invoke(simulate.sample, [str(drive), *words.split(), "--overwrite"], catch_exceptions=False)
        assert made.exit_code == 0 and sample_command(drive) == f"roadblocks sample drive {words}"


def test_the_page_of_the_repository_is_of_its_record():
    page = pages.ROOT / "docs" / "simulator.md"
    assert page.read_text(encoding="utf-8") == write_page(pages.read_record("simulator"), page.stem)


def test_frames_without_labels_are_told(tmp_path):
    folder = write_folder(tmp_path / "drive", [make_frame(), make_frame()])
    (tmp_path / "split.txt").write_text("000007\n")
    words = ["simulation", str(folder), str(folder)]
    result = CliRunner().invoke(main, [*words, "--split", str(tmp_path / "split.txt")])
    assert result.exit_code == 2 and "no real frames" in result.output
    (folder / "training" / "label_2" / "000001.txt").unlink()
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "000001.bin: has no label_2" in result.output.replace("\n", "")
