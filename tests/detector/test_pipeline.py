"""`Pipeline` on a network known by heart, and its stages against the stage table."""

import dataclasses

import numpy as np
import pytest

from detector import Config, Frame, Pipeline, load_config
from detector.calibration import Calibration
from detector.config import SensorConfig
from detector.errors import ConfigError, FrameError, ModelError
from detector.stages import STAGES, Stage, StageClock, summarize
from tests.tiny_network import CAR_SIZE, INFO, SPEC, patch_points, tiny_model, write_model

AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])  # camera_from_lidar
PROJECTION = np.array([[1, 0, 50, 0], [0, 1, 50, 0], [0, 0, 1, 0.0]])
WIDE = Calibration(AXES, PROJECTION, (100, 100))
BLIND = Calibration(AXES, np.array([[1, 0, -50, 0], [0, 1, 50, 0], [0, 0, 1, 0.0]]), (1, 1))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("network") / "tiny.onnx")
    return Pipeline(Config(model=str(path), device="cpu"))


def test_a_car_by_hand(pipeline):
    result = pipeline.detect(patch_points(row=1, col=2))
    np.testing.assert_allclose(result.detections.boxes, [[4.8, 3.2, -1.0, *CAR_SIZE, 0.0]], atol=1e-5)
    np.testing.assert_allclose(result.detections.scores, [1 / (1 + np.exp(-11.5))], rtol=1e-5)
    assert result.detections.labels == ("Car",)
    assert (result.tiles_run, result.tiles_total) == (1, 1)


def test_one_frame_leaves_no_trace_in_the_next(pipeline):
    assert len(pipeline.detect(patch_points()).detections) == 1
    assert len(pipeline.detect(np.zeros((0, 4), np.float32)).detections) == 0


def test_stages_entered_are_the_pipeline_s_rows_of_the_table(pipeline):
    expected = [row.stage.value for row in STAGES if row.owner == "pipeline"]
    assert list(pipeline.detect(patch_points()).stage_ms) == expected
    assert [row.stage for row in STAGES] == list(Stage)


def test_same_input_same_bytes(pipeline):
    points = np.concatenate([patch_points(0, 0), patch_points(1, 1)])
    first, second = (pipeline.detect(points).detections for _ in range(2))
    assert len(first) == 2 and first.boxes.tobytes() == second.boxes.tobytes()


def test_points_outside_the_camera_view_are_cropped(pipeline):
    points = patch_points(row=1, col=1)
    assert len(pipeline.detect(Frame(points, calibration=WIDE)).detections) == 1
    assert len(pipeline.detect(Frame(points, calibration=BLIND)).detections) == 0
    sensor = dataclasses.replace(pipeline.config.sensor, crop_to_camera=False)
    uncropped = Pipeline(dataclasses.replace(pipeline.config, sensor=sensor))
    assert len(uncropped.detect(Frame(points, calibration=BLIND)).detections) == 1


def test_cropped_by_default_where_the_network_looks_ahead_only(pipeline, tmp_path):
    spec = dataclasses.replace(SPEC, x_min_m=-SPEC.x_max_m)
    path = write_model(tmp_path / "round.onnx", tiny_model(spec=spec), dataclasses.replace(INFO, grid=spec))
    around = Pipeline(Config(model=str(path), device="cpu"))
    assert pipeline.crops_to_camera and not around.crops_to_camera
    blind = Frame(patch_points(row=1, col=1), calibration=BLIND)
    assert [len(each.detect(blind).detections) for each in (pipeline, around)] == [0, 1]
    cropped = dataclasses.replace(around.config, sensor=SensorConfig(crop_to_camera=True))
    assert len(Pipeline(cropped).detect(blind).detections) == 0


@pytest.mark.parametrize("calibration", [None, WIDE])
@pytest.mark.filterwarnings("error")
def test_points_that_are_no_numbers_fall_away(pipeline, calibration):
    nonsense = np.full((3, 4), [np.nan, np.inf, -np.inf, 0.5], np.float32)
    points = np.concatenate([nonsense, np.tile(patch_points(row=1, col=1), (4, 1))])
    result = pipeline.detect(Frame(points, calibration=calibration))
    found = result.detections
    assert found.boxes.tobytes() == pipeline.detect(points[3:]).detections.boxes.tobytes() and len(found) == 1
    assert [warning.fault for warning in result.warnings] == ["points dropped"]


def test_stream_takes_arrays_frames_and_folders(pipeline, tmp_path):
    points = patch_points()
    results = list(pipeline.stream([points, Frame(points[:0], id="empty")]))
    assert [(result.frame_id, len(result.detections)) for result in results] == [("0", 1), ("empty", 0)]
    for name in ("b", "a"):
        points.tofile(tmp_path / f"{name}.bin")
    assert [result.frame_id for result in pipeline.stream(tmp_path)] == ["a", "b"]


def test_from_config_overrides(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"model: {write_model(tmp_path / 'tiny.onnx')}\nscore: 0.2\n")
    pipeline = Pipeline.from_config(path, device="cpu", score=0.999999)
    assert pipeline.config.score == 0.999999 and load_config(path).score == 0.2
    assert len(pipeline.detect(patch_points()).detections) == 0


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (np.zeros((3, 3), np.float32), r"shape \(3, 3\), expected an array of shape \(N, 4\)"),
        (np.zeros((3, 4)), "float64, expected float32"),
        ([[1, 2, 3, 4]], "list, expected an array"),
        (np.full((3, 4), np.nan, np.float32), "frame 0: 3 of 3 points hold NaN or infinity, expected at most 5%"),
    ],
)
def test_bad_frames(pipeline, points, words):
    with pytest.raises(FrameError, match=words):
        pipeline.detect(points)


@pytest.mark.parametrize(
    ("shift_m", "calibration", "words"),
    [(1000, None, "none of 16 points lies in the grid"), (0, BLIND, "in the camera's view"), (0, WIDE, None)],
)
def test_nothing_where_the_network_looks(pipeline, shift_m, calibration, words):
    points = patch_points(row=1, col=1) + np.array([0, shift_m, 0, 0], np.float32)
    result = pipeline.detect(Frame(points, calibration=calibration))
    assert len(result.detections) == (words is None)
    told = [warning.text for warning in result.warnings if warning.fault == "outside the grid"]
    assert len(told) == (words is not None) and all(words in text for text in told)


def test_bad_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"mask.source is 'street', expected one of: auto, all, occupancy"):
        Pipeline.from_config(Config(), mask="street")
    with pytest.raises(ModelError, match="no such network"):
        Pipeline.from_config(Config(model="nosuch"))


def test_clock_adds_up_and_summary_by_hand():
    clock = StageClock()
    for _ in range(2):
        with clock(Stage.MASK):
            pass
    assert 0 < clock.elapsed_ms["mask"] < 100
    frames = [{"load": 1.0, "backbone": float(ms), "write": 50.0} for ms in range(101)]
    summary = summarize(frames)
    assert summary["backbone"] == {"p50_ms": 50.0, "p95_ms": 95.0, "p99_ms": 99.0, "max_ms": 100.0}
    assert summary["total"]["p50_ms"] == 51.0, "load to nms: writing is not in it"
    assert list(summary) == [stage.value for stage in Stage] + ["total"]
    assert summarize([]) == {}
