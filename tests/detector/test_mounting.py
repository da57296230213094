"""Sensor settings: what the network sees, where the boxes come out, and `--auto-sensor` on the commands."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from detector import Config, Pipeline
from detector.cli import main
from detector.config import SensorConfig, from_mapping, load_config
from detector.errors import ConfigError, ModelError, RoadblocksError
from detector.ground import GroundPlane
from detector.mounting import Mounting
from models.network import KITTI_GROUND_Z_M, NetworkInfo
from tests.detector.test_ground import made_up_ground
from tests.tiny_network import INFO, patch_points, write_model

LOW_GROUND = replace(INFO, ground_z_m=-2.5)  # below the tiny network's bins, so that ground makes no car


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    path = folder / "tiny.yaml"
    path.write_text(f"model: {write_model(folder / 'tiny.onnx', info=LOW_GROUND)}\ndevice: cpu\n")
    return path


def raised_drive(folder, height_m, name="drive"):
    """Two frames of a LiDAR at this height: a car of the tiny network's on level ground."""
    (folder / name).mkdir()
    for number in range(2):
        car = patch_points(row=1, col=1)
        car[:, 2] += 2.5 - height_m
        ground = made_up_ground(GroundPlane(0, 0, height_m), seed=number)
        ground = ground[np.abs(ground[:, 2] + height_m) < 0.2]
        np.concatenate([ground, car]).tofile(folder / name / f"{number}.bin")
    return folder / name


@given(height_m=st.floats(-3, 4), scale=st.floats(0.01, 300))
def test_there_and_back(height_m, scale):
    mounting = Mounting.of(SensorConfig(height_m=height_m, intensity_scale=scale), INFO)
    points = patch_points()
    points[0, 2] = -height_m
    before = points.copy()
    moved = mounting.to_network(points)
    assert moved[0, 2] == pytest.approx(KITTI_GROUND_Z_M, abs=1e-6) and np.array_equal(points, before)
    assert np.array_equal(moved[:, :2], points[:, :2]) and moved[:, 3].max() <= 1
    assert moved[1, 3] == pytest.approx(min(1, 0.5 * scale), rel=1e-6)
    boxes = np.array([[1, 2, moved[5, 2], 4, 2, 1.5, 0.3]], np.float32)
    np.testing.assert_allclose(mounting.from_network(boxes)[0], [1, 2, points[5, 2], 4, 2, 1.5, 0.3], atol=1e-6)


def test_the_default_does_nothing():
    points, boxes = patch_points(), np.ones((1, 7), np.float32)
    plain = Mounting.of(SensorConfig(), INFO)
    assert plain.to_network(points) is points and plain.from_network(boxes) is boxes


def test_a_raised_sensor_finds_the_same_car(config):
    points = patch_points(row=1, col=2)
    plain = Pipeline.from_config(config).detect(points).detections
    lifted = points + np.array([0, 0, 2.2, 0], np.float32)
    assert len(Pipeline.from_config(config).detect(lifted).detections) == 0, "nothing in the lowest bin"
    sensor = SensorConfig(height_m=0.3)
    result = Pipeline.from_config(config, sensor=sensor).detect(lifted)
    np.testing.assert_allclose(result.detections.boxes - plain.boxes, [[0, 0, 2.2, 0, 0, 0, 0]], atol=1e-5)
    assert result.frame.points is lifted, "the frame stays as it was given"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"height_m": float("nan")}, "sensor.height_m is nan"),
        ({"height_m": 1e4}, "sensor.height_m is 10000"),
        ({"height_m": "high"}, "height_m is 'high', expected float"),
        ({"intensity_scale": 0}, "sensor.intensity_scale is 0"),
        ({"intensity_scale": float("inf")}, "intensity_scale is inf, expected float"),
    ],
)
def test_bad_settings(values, words):
    with pytest.raises(ConfigError, match=words):
        from_mapping(Config, {"sensor": values}, "here")


def test_configuration_files_hold_the_settings(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("sensor: {height_m: 2, intensity_scale: 0.01}\n")
    assert load_config(path).sensor == SensorConfig(height_m=2.0, intensity_scale=0.01)


def test_the_network_says_where_its_ground_was():
    assert NetworkInfo.from_json(LOW_GROUND.to_json()).ground_z_m == -2.5
    older = {key: value for key, value in json.loads(INFO.to_json()).items() if key != "ground_z_m"}
    assert NetworkInfo.from_json(json.dumps(older)).ground_z_m == KITTI_GROUND_Z_M
    with pytest.raises(ModelError, match="ground_z_m is nan"):
        replace(INFO, ground_z_m=float("nan"))


def test_detect_measures_and_applies(config, tmp_path):
    drive = raised_drive(tmp_path, height_m=1.5)
    words = ["detect", str(drive), "--config", str(config), "-o"]
    plain = CliRunner().invoke(main, [*words, str(tmp_path / "plain")])
    assert plain.exit_code == 0 and "sensor" not in plain.stderr
    result = CliRunner().invoke(main, [*words, str(tmp_path / "auto"), "--auto-sensor"])
    assert result.exit_code == 0, result.output
    assert "from 2 frames: 1." in result.stderr and "shifted by -1.0" in result.stderr
    record = json.loads((tmp_path / "auto" / "run.json").read_text())
    assert record["config"]["sensor"]["height_m"] == pytest.approx(1.5, abs=0.03)
    boxes = [json.loads(line)["boxes"] for line in (tmp_path / "auto" / "detections.jsonl").read_text().splitlines()]
    # The tiny network's car: z = -1 where the ground is at -2.5; here the ground is at -1.5.
    assert [len(each) for each in boxes] == [1, 1]
    assert boxes[0][0][2] == pytest.approx(0.0, abs=0.05)


def test_stream_measures_and_applies(config, tmp_path):
    drive = raised_drive(tmp_path, height_m=1.5)
    result = CliRunner().invoke(main, ["stream", str(drive), "--config", str(config), "--auto-sensor", "--rate", "inf"])
    assert result.exit_code == 0, result.output
    assert [len(json.loads(line)["boxes"]) for line in result.stdout.splitlines()] == [1, 1]


def test_profile_measures_and_applies(config, tmp_path, monkeypatch):
    seen = {}

    def measure(frames, settings, *others):
        seen.update(settings)
        raise RoadblocksError("far enough")

    monkeypatch.setattr("detector.profile.measure.measure", measure)
    drive = raised_drive(tmp_path, height_m=1.5)
    result = CliRunner().invoke(main, ["profile", str(drive), "--config", str(config), "--auto-sensor"])
    assert "far enough" in result.stderr and seen["sensor"].height_m == pytest.approx(1.5, abs=0.03)


def test_recordings_of_two_sensors_are_refused(config, tmp_path):
    drives = [str(raised_drive(tmp_path, height_m, name)) for height_m, name in ((1.5, "car"), (3.0, "truck"))]
    result = CliRunner().invoke(
        main, ["detect", *drives, "-o", str(tmp_path / "out"), "--config", str(config), "--auto-sensor"]
    )
    assert result.exit_code == 2 and "expected one sensor; run them one by one" in result.stderr


def test_without_a_good_frame_there_is_nothing_to_measure(config, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.bin").write_bytes(b"abc")
    result = CliRunner().invoke(
        main, ["detect", str(tmp_path / "bad"), "-o", str(tmp_path / "out"), "--config", str(config), "--auto-sensor"]
    )
    assert result.exit_code == 2 and "no frame to estimate the sensor from" in result.stderr


def test_doctor_says_what_to_set(config, tmp_path):
    drive = raised_drive(tmp_path, height_m=1.5)
    result = CliRunner().invoke(main, ["doctor", str(drive), "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert "As a configuration file" in result.stdout and "sensor:\n  height_m: 1." in result.stdout
    report = json.loads(CliRunner().invoke(main, ["doctor", str(drive), "--config", str(config), "--json", "-"]).stdout)
    assert report["verdict"] == "warning"
    (recording,) = report["recordings"]
    assert recording["sensor"] == {"height_m": pytest.approx(1.5, abs=0.03)} and recording["frames"] == 2
    right = tmp_path / "right.yaml"
    right.write_text(f"{config.read_text()}sensor: {{height_m: 1.5}}\n")
    report = json.loads(CliRunner().invoke(main, ["doctor", str(drive), "--config", str(right), "--json", "-"]).stdout)
    assert [line["state"] for line in report["findings"] if line["name"] == "sensor.height_m"] == ["ok"]
