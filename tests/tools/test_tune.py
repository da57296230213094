"""`roadblocks tune` and `roadblocks models` on a network small enough to measure in a second."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from detector import Config, Frame, Pipeline
from detector.models_command import models
from models.network import load_network
from models.plan import StageChoice
from models.tuning import load_choices, tuning_file, unit_name
from tests.tiny_network import INFO, SPEC, patch_points, tiny_model, write_model, write_wide_model
from tools.tune import Measurement, all_ways, best_choices, sample_frames, tune

pytest.importorskip("onnxruntime")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("ROADBLOCKS_CACHE", str(tmp_path / "cache"))
    model = write_model(tmp_path / "tiny.onnx")
    path = tmp_path / "tiny.yaml"
    path.write_text(f"model: {model}\n")
    for number in range(3):
        patch_points(row=number % 2).tofile(tmp_path / f"{number}.bin")
    return path


def test_tune_measures_and_keeps(config, tmp_path):
    done = CliRunner().invoke(tune, [str(tmp_path), "--config", str(config), "--frames", "2", "--show"])
    assert done.exit_code == 0, done.output
    assert "chosen" in done.output and "2 frames" in done.output and "densely" in done.output
    kept = tuning_file(load_network(tmp_path / "tiny.onnx"), unit_name())
    assert kept.is_file() and str(kept) in done.output.replace("\n", "")
    assert set(load_choices(load_network(tmp_path / "tiny.onnx"), unit_name())) <= {4}


@pytest.mark.parametrize(
    "device",
    [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)],
)
def test_a_card_is_tuned_by_itself(device, tmp_path, monkeypatch):
    monkeypatch.setenv("ROADBLOCKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tools.tune.ROUNDS", 1)
    monkeypatch.setattr("tools.tune.tile_sizes", lambda stride: [4, 8])
    small = replace(SPEC, x_max_m=25.6, y_min_m=-12.8, y_max_m=12.8)
    model = write_model(tmp_path / "tiny.onnx", tiny_model(spec=small), replace(INFO, grid=small))
    (tmp_path / "tiny.yaml").write_text(f"model: {model}\nmask:\n  source: occupancy\n")
    patch_points().tofile(tmp_path / "0.bin")
    words = [str(tmp_path), "--config", str(tmp_path / "tiny.yaml"), "--device", "cuda", "--show"]
    done = CliRunner().invoke(tune, words)
    assert done.exit_code == 0, done.output
    assert "1 frames" in done.output and "densely" not in done.output and "8×8" in done.output
    network = load_network(model)
    assert tuning_file(network, unit_name("cuda")).is_file() and not tuning_file(network, unit_name()).is_file()


def test_every_frame_is_measured_on_its_own_tiles(tmp_path):
    for number, rows in enumerate([(0, 5), (10,), (15, 3, 7)]):
        np.concatenate([patch_points(row, 2) for row in rows]).tofile(tmp_path / f"{number}.bin")
    pipeline = Pipeline(Config(model=str(write_wide_model(tmp_path / "wide.onnx")), device="cpu"))
    for number, (grid, tiles) in enumerate(sample_frames(pipeline, tmp_path, 3)):
        again = pipeline.prepare(Frame(np.fromfile(tmp_path / f"{number}.bin", np.float32).reshape(-1, 4)))
        np.testing.assert_array_equal(grid, again.grid)
        np.testing.assert_array_equal(tiles.index, again.tiles.index)


def test_every_stage_is_tried_in_several_sizes_and_densely():
    ways = list(all_ways(load_network("kitti")))
    assert {stride for stride, _ in ways} == {2, 4, 8, 16}
    sizes = [choice.tile_cells for stride, choice in ways if stride == 4 and not choice.dense and choice.fuse_units]
    assert sizes == [4, 8, 16, 32]
    assert sum(choice.dense for _, choice in ways) == 4


def test_the_fastest_wins_if_it_clearly_beats_the_default():
    lines = [(2, 8, 3.0), (2, 16, 2.0), (4, 4, 1.0), (4, 8, 0.99), (16, 2, 5.0), (16, 4, 4.0)]
    sweep = [Measurement(stride, StageChoice(size), ms) for stride, size, ms in lines]
    assert best_choices(sweep) == {2: StageChoice(16), 4: StageChoice(4), 16: StageChoice(4)}


def test_a_source_without_frames_is_one_clear_line(config, tmp_path):
    (tmp_path / "none").mkdir()
    done = CliRunner().invoke(tune, [str(tmp_path / "none"), "--config", str(config)])
    assert done.exit_code != 0 and "none" in str(done.exception or done.output)


def test_models_show_prints_the_plan(config, tmp_path):
    done = CliRunner().invoke(models, ["show", str(tmp_path / "tiny.onnx")])
    assert done.exit_code == 0, done.output
    assert "conv 4×4 /4" in done.output and "on tiles" in done.output and "defaults" in done.output
    done = CliRunner().invoke(models, ["list"])
    assert "kitti" in done.output and "non-commercial" in " ".join(done.output.split()).replace("│", "")


def test_models_show_of_nothing_is_one_clear_line(tmp_path):
    done = CliRunner().invoke(models, ["show", str(tmp_path / "nosuch.onnx")])
    assert done.exit_code == 2 and np.size(done.output.splitlines()) <= 1
