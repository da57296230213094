"""The pipeline on CUDA: points up, boxes down, the same boxes as on the CPU."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from detector import Config, Frame, Pipeline
from detector.config import BudgetConfig, MaskConfig, SensorConfig
from detector.errors import ModelError
from detector.stages import STAGES, Stage, StageClock
from kernels.launch import SIMULATED, to_host
from kernels.transfers import POINT_STEP
from models.errors import NoGpuError
from models.sparse import TileExecutor
from tests.tiny_network import INFO, SPEC, patch_points, tiny_model, write_mask_model, write_model

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
on_devices = pytest.mark.parametrize("device", DEVICES)
FOUR_TILES = replace(SPEC, x_max_m=25.6, y_min_m=-12.8, y_max_m=12.8)
SHIFT_M = np.array([0, SPEC.y_min_m - FOUR_TILES.y_min_m, 0, 0], np.float32)  # of `patch_points`, to this grid's corner


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny.onnx"
    return str(write_model(path, tiny_model(spec=FOUR_TILES), replace(INFO, grid=FOUR_TILES)))


@pytest.fixture(scope="module")
def model_with_mask(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "tiny.onnx"
    write_mask_model(path, FOUR_TILES)
    return str(write_model(path, tiny_model(spec=FOUR_TILES), replace(INFO, grid=FOUR_TILES)))


def cars(*patches):
    """Points of cars at rows and columns of output cells, of which the grid has 8 × 8."""
    return Frame(
        np.concatenate([patch_points(*patch) - SHIFT_M for patch in patches] or [np.zeros((0, 4), np.float32)])
    )


def tall(frame):
    """The frame with more points, 1.3 m above all of it."""
    return Frame(np.concatenate([frame.points, frame.points + np.array([0, 0, 1.3, 0], np.float32)]))


FRAMES = [cars((0, 0), (1, 1), (7, 6)), cars((6, 1)), cars(), cars((0, 7))]


def both(model, **settings):
    """Pipelines on CUDA and on the CPU."""
    return [Pipeline(Config(model=model, device=device, **settings)) for device in ("cuda", "cpu")]


def assert_same(found, expected):
    assert np.array_equal(found.tiles.index, expected.tiles.index) and found.tiles.spec == expected.tiles.spec
    assert np.array_equal(found.mask, expected.mask) and found.mask.dtype == np.bool_
    assert (found.tiles_run, found.tiles_left_out) == (expected.tiles_run, expected.tiles_left_out)
    assert found.detections.labels == expected.detections.labels
    for name in ("boxes", "scores"):
        one, other = getattr(found.detections, name), getattr(expected.detections, name)
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@on_devices
def test_boxes_equal_those_of_the_cpu(device, model):
    cuda, cpu = both(model, mask=MaskConfig(margin_m=0.8))
    assert (cuda.device, cpu.device) == ("cuda", "cpu")
    results = [cpu.detect(frame) for frame in FRAMES]
    assert [len(result.detections) for result in results] == [3, 1, 0, 1], "the frames give something to find"
    assert [result.tiles_run for result in results] == [2, 1, 0, 1], "and tiles come and go"
    for frame, expected in zip(FRAMES, results, strict=True):
        found = cuda.detect(frame)
        assert_same(found, expected)
        assert list(found.stage_ms) == [row.stage.value for row in STAGES if row.owner == "pipeline"]
    if device == "device":  # the simulator bears no kernels of two threads at once
        for found, expected in zip(cuda.stream(FRAMES), results, strict=True):
            assert_same(found, expected)
    clocks = [StageClock(), StageClock()]  # two frames on their way, as in a stream
    prepared = [cuda.prepare(frame, clock, cuda.new_buffers()) for frame, clock in zip(FRAMES[:2], clocks, strict=True)]
    assert (cuda.frames_ahead, cpu.frames_ahead) == (1, 0)
    started = [cuda.start(*each) for each in zip(FRAMES, clocks, prepared, strict=False)]
    assert_same(cuda.detect(FRAMES[3]), results[3])  # between them, as users of a stream may
    for finish, expected in zip(started, results, strict=False):
        assert_same(finish(), expected)
    assert np.array_equal(cuda.active_tiles(FRAMES[0]).index, results[0].tiles.index)


@on_devices
@pytest.mark.parametrize(("source", "tiles"), [("road", [2, 1, 0]), ("foreground+occupancy", [2, 0, 0])])
def test_predicted_masks_equal_those_of_the_cpu(device, source, tiles, model_with_mask):
    """The mask network runs on the device too; a LiDAR mounted half a metre lower changes nothing for it."""
    shift_m = np.array([0, 0, 0.5, 0], np.float32)
    sensor = SensorConfig(height_m=0.5 - INFO.ground_z_m)
    cuda, cpu = both(model_with_mask, mask=MaskConfig(source, margin_m=0.0), sensor=sensor)
    for frame, expected_tiles in zip((tall(FRAMES[0]), FRAMES[1], FRAMES[2]), tiles, strict=True):
        lower = Frame(frame.points - shift_m)
        expected = cpu.detect(lower)
        assert expected.tiles_run == expected_tiles
        assert_same(cuda.detect(lower), expected)
        assert np.allclose(expected.detections.boxes[:, 2], -1.5)
        # Filled up with points in no cell, which neither grid nor masks have noticed: frames of any size look alike.
        placed, count = to_host(cuda._buffers.place(lower.points)), len(lower.points)
        assert len(placed) == POINT_STEP > count and np.array_equal(placed[:count], lower.points)
        assert np.isnan(placed[count:]).all()


@on_devices
def test_maps_are_looked_up_on_the_host(device, model, tmp_path):
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "road.png")
    for frame_of_map in ("ego", "world"):  # without a pose, a map of the world tells nothing
        place = {"frame": frame_of_map, "x_min_m": 0, "y_min_m": -12.8, "cell_m": 3.2}
        (tmp_path / "road.png.json").write_text(json.dumps(place))
        cuda, cpu = both(model, mask=MaskConfig(f"map:{tmp_path / 'road.png'}", margin_m=0.0))
        expected = cpu.detect(FRAMES[0])
        assert expected.mask.any() and expected.mask.all() == (frame_of_map == "world")
        assert_same(cuda.detect(FRAMES[0]), expected)


@on_devices
def test_a_budget_goes_by_likelihood(device, model_with_mask):
    mask = MaskConfig("foreground", threshold=0.001, margin_m=0.0)
    cuda, cpu = both(model_with_mask, budget=BudgetConfig(tiles=1), mask=mask)
    frame = Frame(np.concatenate([cars((0, 0)).points, tall(cars((7, 6))).points]))
    expected = cpu.detect(frame)
    assert expected.tiles.index.tolist() == [[0, 1, 1]], "the far one is likely"
    assert_same(cuda.detect(frame), expected)


@on_devices
def test_a_budget_of_tiles_and_all_tiles(device, model):
    cuda, cpu = both(model, budget=BudgetConfig(tiles=1), mask=MaskConfig("all"))
    found = cuda.detect(FRAMES[0])
    assert_same(found, cpu.detect(FRAMES[0]))
    assert found.tiles_left_out == 3


@on_devices
def test_auto_takes_the_cpu_where_the_mask_network_finds_no_memory(device, model_with_mask, monkeypatch, caplog):
    """The detector has found enough of it."""
    free = iter([1e9, 5e6] * 2)
    monkeypatch.setattr("models.sparse_cuda.free_bytes", lambda: next(free))
    config = Config(model=model_with_mask, mask=MaskConfig("road", margin_m=0.0))
    pipeline = Pipeline(config)
    (told,) = [record for record in caplog.records if record.name == "roadblocks"]
    why = r"device cuda: .* has 5 MB free, expected 2\d\d MB for tiny.mask; close .*, or use --device cpu"
    assert told.levelname == "WARNING" and re.fullmatch(f"everything runs on the CPU: {why}", told.message)
    assert (
        pipeline.device == "cpu" and pipeline.config.device == "auto" and isinstance(pipeline._executor, TileExecutor)
    )
    assert pipeline.detect(FRAMES[0]).tiles_run == 2
    with pytest.raises(NoGpuError, match=f"^{why}$"):
        Pipeline(replace(config, device="cuda"))


@pytest.mark.skipif(SIMULATED, reason="there it finds a GPU")
def test_auto_takes_the_cpu_where_no_gpu_will_do(model, monkeypatch):
    monkeypatch.setattr("models.sparse_cuda.gpu_problem", lambda: "no NVIDIA driver answers; check nvidia-smi")
    assert isinstance(Pipeline(Config(model=model))._executor, TileExecutor)
    with pytest.raises(
        NoGpuError, match=r"^device cuda: no NVIDIA driver answers; check nvidia-smi; or use --device cpu$"
    ):
        Pipeline(Config(model=model, device="cuda"))
    with pytest.raises(ModelError, match="device 'tpu': expected one of auto, cpu, cuda"):
        Pipeline(Config(model=model, device="tpu"))


def test_device_stages_are_settled_in_their_order(monkeypatch):
    moments = iter([10.0, 13.0, 20.0, 24.0])
    marks = SimpleNamespace(now=lambda: next(moments), give_back=lambda *_: None)
    monkeypatch.setattr("detector.stages.elapsed_ms", lambda start, end: end - start)
    clock = StageClock()
    for stage in (Stage.MASK, Stage.NMS):
        with clock.on_device(stage, marks):
            pass
    assert clock.elapsed_ms == {}, "the device may still be at it"
    clock.settle()
    clock.settle()
    assert clock.elapsed_ms == {"mask": 3.0, "nms": 4.0}
