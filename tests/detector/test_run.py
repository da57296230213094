"""`detect` end to end on a tiny network: outputs, resuming, bad frames, exit codes, one-line errors."""

import json
import os

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from detector.calibration import Calibration, write_object_calibration
from detector.cli import main
from detector.labels import read_labels
from detector.sinks import OutputFolder, clear_output
from detector.types import Detections, Frame, FrameResult
from tests.tiny_network import patch_points, write_model

AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
CALIBRATION = Calibration(AXES, np.array([[300, 0, 620, 0], [0, 300, 180, 0], [0, 0, 1, 0.0]]))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    path = folder / "tiny.yaml"
    path.write_text(f"model: {write_model(folder / 'tiny.onnx')}\n")
    return str(path)


@pytest.fixture
def drive(tmp_path):
    """Three frames in KITTI object layout: a car, nothing, a car."""
    root = tmp_path / "a drive, ünïcode" / "training"
    for folder in ("velodyne", "calib"):
        (root / folder).mkdir(parents=True)
    for index, points in enumerate([patch_points(1, 1), patch_points()[:0], patch_points(1, 1)]):
        points.tofile(root / "velodyne" / f"{index:06d}.bin")
        write_object_calibration(root / "calib" / f"{index:06d}.txt", CALIBRATION)
    return root.parent


def roadblocks(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def ids(path):
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def test_detect_writes_every_frame(drive, config, tmp_path):
    out = tmp_path / "out"
    result = roadblocks("detect", drive, "-o", out, "--config", config, "--json", tmp_path / "run.json", "--render")
    assert result.exit_code == 0, result.output
    files = sorted(path.name for path in (out / "label_2").iterdir())
    assert files == ["000000.txt", "000001.txt", "000002.txt"]
    assert (out / "label_2" / "000001.txt").read_text() == ""
    labels = read_labels(out / "label_2" / "000000.txt")
    assert labels.types == ("Car",) and labels.occluded.tolist() == [-1] and labels.scores[0] > 0.9
    # The tiny network's box: centre x 4.8, y 0, z -1, height 1.4; the camera looks along x.
    np.testing.assert_allclose(labels.locations_m, [[0, 1.7, 4.8]], atol=1e-4)
    np.testing.assert_allclose(labels.dimensions_m, [[1.4, 1.5, 3.0]], atol=1e-4)
    np.testing.assert_allclose(labels.rotation_y_rad, [-np.pi / 2], atol=1e-4)
    assert ids(out / "detections.jsonl") == ids(out / "timing.jsonl") == ["000000", "000001", "000002"]
    pictures = sorted((out / "pictures").iterdir())
    assert [path.name for path in pictures] == ["000000.png", "000001.png", "000002.png"]
    assert pictures[0].read_bytes()[:4] == b"\x89PNG"
    record = json.loads((out / "run.json").read_text())
    assert record["summary"]["good"] == 3 and len(record["model"]["sha256"]) == 64
    assert json.loads((tmp_path / "run.json").read_text())["boxes"] == 2
    assert not list(out.rglob("*.part"))


def test_json_on_stdout_is_only_json(drive, config, tmp_path):
    result = roadblocks("detect", drive, "-o", tmp_path / "out", "--config", config, "--json", "-", "--frames", "1:")
    assert json.loads(result.stdout)["frames"] == 2


def test_no_calibration_says_why_and_writes_json_lines(config, tmp_path):
    patch_points().tofile(tmp_path / "one.bin")
    result = roadblocks("detect", tmp_path / "one.bin", "-o", tmp_path / "out", "--config", config)
    assert result.exit_code == 0
    assert "detections.jsonl, LiDAR frame" in result.stderr
    assert not (tmp_path / "out" / "label_2").exists()
    (line,) = (tmp_path / "out" / "detections.jsonl").read_text().splitlines()
    assert json.loads(line)["boxes"][0][:3] == [1.6, 0.0, -1.0]


def test_several_sources_get_a_folder_each(drive, config, tmp_path):
    patch_points().tofile(tmp_path / "one.bin")
    result = roadblocks("detect", drive, tmp_path / "one.bin", "-o", tmp_path / "out", "--config", config)
    assert result.exit_code == 0
    assert len(list((tmp_path / "out").glob("*/detections.jsonl"))) == 2
    assert len(list((tmp_path / "out").glob("*/label_2/*.txt"))) == 3


def test_a_bad_frame_is_skipped_or_stops(drive, config, tmp_path):
    (drive / "training/velodyne/000001.bin").write_bytes(b"x" * 17)
    result = roadblocks("detect", drive, "-o", tmp_path / "out", "--config", config)
    assert result.exit_code == 1
    (line,) = [line for line in result.stderr.splitlines() if "000001.bin" in line]
    assert "17 bytes, expected a multiple of 16" in line
    assert ids(tmp_path / "out" / "detections.jsonl") == ["000000", "000002"]
    skipped = json.loads((tmp_path / "out" / "run.json").read_text())["summary"]["skipped"]
    assert [row["frame"] for row in skipped] == ["000001"] and "17" in skipped[0]["reason"]
    result = roadblocks("detect", drive, "-o", tmp_path / "stop", "--config", config, "--on-error", "stop")
    assert result.exit_code == 2
    assert ids(tmp_path / "stop" / "detections.jsonl") == ["000000"], "what was written stays"


def test_resume_equals_an_uninterrupted_run(drive, config, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert roadblocks("detect", drive, "-o", whole, "--config", config).exit_code == 0
    assert roadblocks("detect", drive, "-o", broken, "--config", config, "--frames", ":1").exit_code == 0
    # A kill in the middle of a line leaves the .part file with a torn end.
    text = (broken / "detections.jsonl").read_text()
    (broken / "detections.jsonl").rename(broken / "detections.jsonl.part")
    (broken / "detections.jsonl.part").write_text(text + '{"frame": "0000')
    result = roadblocks("detect", drive, "-o", broken, "--config", config, "--resume", "--json", "-")
    assert json.loads(result.stdout)["resumed"] == 1
    assert (broken / "detections.jsonl").read_bytes() == (whole / "detections.jsonl").read_bytes()
    for path in (whole / "label_2").iterdir():
        assert (broken / "label_2" / path.name).read_bytes() == path.read_bytes()


def test_a_second_run_replaces_the_first(drive, config, tmp_path):
    out = tmp_path / "out"
    assert roadblocks("detect", drive, "-o", out, "--config", config).exit_code == 0
    (out / "label_2" / "mine.txt").write_text("not theirs")
    assert roadblocks("detect", drive, "-o", out, "--config", config, "--frames", "0:1").exit_code == 0
    assert sorted(path.name for path in (out / "label_2").iterdir()) == ["000000.txt", "mine.txt"]


def test_frame_ids_in_old_output_cannot_reach_outside(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("keep")
    out = tmp_path / "out"
    (out / "label_2").mkdir(parents=True)
    (out / "detections.jsonl").write_text('{"frame": "../../victim"}\n{"frame": 3}\n[]\n')
    clear_output(out)
    with OutputFolder(out) as output:
        output.write(FrameResult(Frame(patch_points(), "1"), Detections.empty()))
    assert victim.read_text() == "keep" and ids(out / "detections.jsonl") == ["1"]


def test_a_data_set_is_never_written_over(drive, config, tmp_path):
    labels = drive / "training" / "label_2"
    labels.mkdir()
    (labels / "000000.txt").write_text("precious")
    copy = tmp_path / "copy"
    (copy / "label_2").mkdir(parents=True)
    (copy / "label_2" / "000000.txt").write_text("precious")
    for out in (drive / "training", drive / "training" / "out", copy):
        result = roadblocks("detect", drive, "-o", out, "--config", config)
        assert result.exit_code == 2 and "choose another" in " ".join(result.stderr.split())
    assert (labels / "000000.txt").read_text() == (copy / "label_2" / "000000.txt").read_text() == "precious"


def test_resuming_with_other_settings_is_refused(drive, config, tmp_path):
    out = tmp_path / "out"
    assert roadblocks("detect", drive, "-o", out, "--config", config, "--frames", ":1").exit_code == 0
    before = (out / "detections.jsonl").read_bytes()
    result = roadblocks("detect", drive, "-o", out, "--config", config, "--resume", "--score", "0.5")
    assert result.exit_code == 2 and "run.json: the run there has config" in " ".join(result.stderr.split())
    assert (out / "detections.jsonl").read_bytes() == before


def test_a_broken_camera_image_costs_only_its_panel(drive, config, tmp_path):
    images = drive / "training" / "image_2"
    images.mkdir()
    Image.new("RGB", (1242, 375)).save(images / "000000.png")
    (images / "000000.png").write_bytes((images / "000000.png").read_bytes()[:200])
    result = roadblocks("detect", drive, "-o", tmp_path / "out", "--config", config, "--render")
    assert result.exit_code == 0 and "000000.png" in result.stderr.replace("\n", "")
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3


def test_an_empty_frame_is_told(drive, config, tmp_path):
    result = roadblocks("detect", drive, "-o", tmp_path / "out", "--config", config)
    assert result.exit_code == 0 and "holds no points" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "holds nothing"),
        (lambda path: path.with_suffix(".bin").write_bytes(b"x" * 20), "multiple of 16"),
    ],
)
def test_hopeless_sources_are_one_line_and_code_2(config, tmp_path, make, words):
    path = tmp_path / "source"
    make(path)
    source = path.with_suffix(".bin") if path.with_suffix(".bin").exists() else path
    result = roadblocks("detect", source, "-o", tmp_path / "out", "--config", config)
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)


def test_wrong_usage(config, drive, tmp_path):
    assert roadblocks("detect").exit_code == 2
    result = roadblocks("detect", drive, "-o", tmp_path / "out", "--frames", "one:two")
    assert result.exit_code == 2 and "expected A:B" in result.stderr
    result = roadblocks("detect", drive, "-o", tmp_path / "out", "--config", "nosuch")
    assert result.exit_code == 2 and "no such configuration" in result.stderr
    result = roadblocks("evaluate", drive, tmp_path / "nothing")
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_read_only_output_is_one_line(drive, config, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    result = roadblocks("detect", drive, "-o", blocker / "out", "--config", config)
    assert result.exit_code == 2 and "Traceback" not in result.output and "file" in result.stderr


NAMES = ["a b", 'it\'s "quoted"', "ünïcode 雪", "-rf", "[bold]", "a\nb", "$(touch x)", "%s", "x" * 240]


@pytest.mark.parametrize("name", [*NAMES, b"\xff\xfe"], ids=repr)
def test_any_name_of_a_frame(config, tmp_path, name):
    (tmp_path / "drive").mkdir()
    folder = os.fsencode(tmp_path / "drive")
    patch_points().tofile(os.path.join(folder, os.fsencode(name) + b".bin"))
    (tmp_path / "drive" / "broken.bin").write_bytes(b"x" * 17)
    out = tmp_path / "out"
    result = roadblocks("detect", tmp_path / "drive", "-o", out, "--config", config, "--render", "--json", "-")
    assert result.exit_code == 1 and json.loads(result.stdout)["good"] == 1, result.output
    assert ids(out / "detections.jsonl") == [os.fsdecode(name)]
    assert os.listdir(os.fsencode(out / "pictures")) == [os.fsencode(name) + b".png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drive", "out"], "nothing is written elsewhere"


def test_the_summary_counts_every_kind(drive, config, tmp_path):
    folder = drive / "training" / "velodyne"
    good = np.tile(patch_points(1, 1), (10, 1))
    calibration = (drive / "training/calib/000000.txt").read_bytes()
    frames = {
        "bytes": good * np.array([1, 1, 1, 255], np.float32),
        "clipped": good * np.array([1, 1, 1, 2.5], np.float32),
        "far": good + np.array([100, 0, 0, 0], np.float32),
        "holes": np.where(np.arange(160)[:, None] < 5, np.float32(np.nan), good),
        "infinite": np.where(np.arange(160)[:, None] < 50, np.float32(np.inf), good),
        "metres": good * np.array([1000, 1000, 1000, 1], np.float32),
        "negative": -good,
    }
    for name, points in frames.items():
        points.astype(np.float32).tofile(folder / f"{name}.bin")
        (drive / "training/calib" / f"{name}.txt").write_bytes(calibration)
    good.tofile(folder / "uncalibrated.bin")
    (folder / "cut.bin").write_bytes(b"x" * 17)
    (folder / "gone.bin").symlink_to("nowhere")
    for name in ("cut", "gone"):
        (drive / "training/calib" / f"{name}.txt").write_bytes(calibration)
    result = roadblocks("detect", drive, "-o", tmp_path / "out", "--config", config)
    assert result.exit_code == 1 and "intensity scaled: 1" in result.stdout
    summary = json.loads((tmp_path / "out" / "run.json").read_text())["summary"]
    assert summary["faults"] == {
        "no points": 1, "intensity scaled": 1, "intensity clipped": 1, "truncated": 1, "outside the grid": 2,
        "unreadable": 1, "points dropped": 1, "not finite": 1, "not metres": 1, "intensity": 1, "calibration": 1,
    }  # fmt: skip
    kinds = {row["frame"]: row["kind"] for row in summary["skipped"]}
    assert kinds == {
        "cut": "truncated", "gone": "unreadable", "infinite": "not finite", "negative": "intensity",
        "uncalibrated": "calibration",
    }  # fmt: skip


@pytest.mark.parametrize("words", [["--config", "x" * 5000], ["--config", "/dev/zero"], ["--device", "abacus"]])
def test_hopeless_settings_are_one_line_and_code_2(drive, tmp_path, words):
    result = roadblocks("detect", drive, "-o", tmp_path / "out", *words)
    assert result.exit_code == 2 and "Traceback" not in result.output and isinstance(result.exception, SystemExit)


def test_help_lists_plugged_in_commands():
    result = roadblocks("--help")
    assert result.exit_code == 0
    for command in ("detect", "evaluate", "sample"):
        assert f"\n  {command} " in result.output
