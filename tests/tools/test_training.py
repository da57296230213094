"""Training with PyTorch: loss, export, and a run of a few steps that resumes."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest

from detector.config import load_config
from detector.errors import ConfigError
from kernels.tiles import ActiveTiles, TileSpec
from models.dense import DenseExecutor
from models.grid import BevSpec
from models.network import NetworkInfo, load_network
from models.plan import GRID_TILE
from models.sparse import TileExecutor
from tests.training_frames import frame_with_a_car
from tools.training.dataset import TrainingData
from tools.training.samples import SampleConfig, WindowConfig

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roadblocks[train]'")

from tools.training import trainer  # noqa: E402
from tools.training.export import export_detector  # noqa: E402
from tools.training.loss import detection_loss  # noqa: E402
from tools.training.network import (  # noqa: E402
    REGRESSION_MEAN,
    REGRESSION_STD,
    ExportedDetector,
    where_computed,
)
from tools.training.trainer import (  # noqa: E402
    NetworkConfig,
    TrainConfig,
    Trainer,
    build_network,
    initial_weights,
    train,
)

SPEC = BevSpec(x_max_m=12.8, y_min_m=-6.4, y_max_m=6.4)
SMALL = TrainConfig(
    steps=4,
    batch=2,
    checkpoint_every=2,
    grid=SPEC,
    network=NetworkConfig(widths=(8, 8, 16, 16), units=(1, 1, 1, 1)),
    samples=SampleConfig(window=WindowConfig(rows=64, cols=64)),
)


def test_loss_is_nothing_when_right_and_focal_by_hand():
    score = torch.zeros(1, 4, 4)
    score[0, 1, 1] = 1
    ignored = torch.zeros(1, 4, 4, dtype=torch.bool)
    target = torch.randn(1, 8, 4, 4)
    mean, std = (torch.tensor(v).view(1, 8, 1, 1) for v in (REGRESSION_MEAN, REGRESSION_STD))
    logits = torch.where(score[:, None] > 0, 30.0, -30.0)
    right = detection_loss(logits, (target - mean) / std, score, target, ignored)
    assert right.score.item() < 1e-6 and right.regression.item() < 1e-6
    even = detection_loss(torch.zeros(1, 1, 4, 4), (target - mean) / std, score, target, ignored)
    assert even.score.item() == pytest.approx(0.25 * np.log(2) * (0.75 + 15 * 0.25), rel=1e-5)
    none = detection_loss(torch.zeros(1, 1, 4, 4), (target - mean) / std, score * 0, target, ~ignored)
    assert none.score.item() == 0


def test_scores_learn_how_well_boxes_fit():
    mean, std = (torch.tensor(v).view(1, 8, 1, 1) for v in (REGRESSION_MEAN, REGRESSION_STD))
    target = torch.tensor([0, 0, -0.9, np.log(4.0), np.log(2.0), 0.4, 1, 0]).float().view(1, 8, 1, 1).repeat(1, 1, 1, 2)
    found = target.clone()
    found[0, 0, 0, 1] = 2.0  # half a length ahead: a third of the union is shared
    score, ignored = torch.ones(1, 1, 2), torch.zeros(1, 1, 2, dtype=torch.bool)
    logits = torch.logit(torch.tensor([1 - 1e-7, 1 / 3])).view(1, 1, 1, 2)
    fitting = detection_loss(logits, (found - mean) / std, score, target, ignored, iou_score=True)
    assert fitting.score.item() < 1e-6
    plain = detection_loss(logits, (found - mean) / std, score, target, ignored)
    assert plain.score.item() == pytest.approx(0.75 * (2 / 3) ** 2 * np.log(3) / 2, rel=1e-4)


def test_training_with_a_mask_computes_what_the_tile_executor_does(tmp_path):
    network = network_with_statistics()
    info = NetworkInfo("small", SPEC, 4, ("Car",), 0.5, "none")
    export_detector(network, info, tmp_path / "small.onnx")
    rng = np.random.default_rng(0)
    grid = (rng.random(SPEC.shape) < 0.02).astype(np.float32)
    spec = TileSpec.covering(grid.shape[:2], GRID_TILE)
    active = rng.random(spec.count) < 0.3
    tiles = ActiveTiles(np.argwhere(active[None]).astype(np.int32), spec)
    score, regression = TileExecutor(load_network(tmp_path / "small.onnx")).run(grid, tiles)
    batch = torch.from_numpy(np.stack([grid, np.zeros_like(grid)])).permute(0, 3, 1, 2)
    computed = torch.from_numpy(np.stack([active, active]))[:, None]
    with torch.no_grad():
        logits, normalised = network(batch, computed)
    mean, std = (torch.tensor(v).view(8, 1, 1) for v in (REGRESSION_MEAN, REGRESSION_STD))
    # Tile executor and PyTorch agree where tiles are computed; elsewhere nothing but the empty scene is left in both.
    assert np.allclose(torch.sigmoid(logits[0, 0]).numpy(), score, atol=1e-5)
    assert np.allclose((normalised[0] * std + mean).permute(1, 2, 0).numpy(), regression, atol=1e-3)
    with torch.no_grad():
        unmasked = torch.sigmoid(network(batch)[0][0, 0]).numpy()
    assert np.abs(unmasked - score).max() > 1e-4, "the mask of this test changes something"


@pytest.mark.parametrize("stride", [4, 16])
def test_gradients_of_computed_tiles_are_those_of_where(stride):
    torch.manual_seed(stride)
    x = torch.randn(3, 5, 256 // stride, 384 // stride, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    computed = torch.rand(3, 1, 256 // GRID_TILE, 384 // GRID_TILE) < 0.2
    wanted = torch.randn_like(x)
    filled = where_computed(x, computed)
    # A map of ones and zeros tells what is kept: nothing else is 1 in all samples but the last.
    ones = torch.ones_like(x)
    ones[-1] = 0
    keep = where_computed(ones, computed) > 0
    plain = torch.where(keep, x, x[-1:])
    assert torch.equal(filled, plain)
    assert 0 < keep[:-1].float().mean() < 1, "the mask of this test keeps a part"
    assert torch.allclose(*(torch.autograd.grad((y * wanted).sum(), x)[0] for y in (filled, plain)), atol=1e-12)


def network_with_statistics():
    """An untrained network whose batch norms do something."""
    torch.manual_seed(0)
    network = build_network(SMALL).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network


def test_export_equals_pytorch(tmp_path):
    network = network_with_statistics()
    info = NetworkInfo("small", SPEC, 4, ("Car",), 0.5, "none")
    export_detector(network, info, tmp_path / "small.onnx")
    loaded = load_network(tmp_path / "small.onnx")
    assert loaded.info == info
    kinds = {node.op_type for node in onnx.load_from_string(loaded.content).graph.node}
    assert kinds == {"Conv", "Relu", "Add", "ConvTranspose", "Sigmoid"}, "batch norm is folded, nothing odd is left"
    grid = np.random.default_rng(0).random(SPEC.shape).astype(np.float32)
    tiles = ActiveTiles.all(TileSpec.covering(SPEC.shape[:2], 16))
    score, regression = DenseExecutor(loaded, "cpu").run(grid, tiles)
    with torch.no_grad():
        expected = ExportedDetector(network)(torch.from_numpy(grid).permute(2, 0, 1)[None])
    np.testing.assert_allclose(score, expected[0][0, 0].numpy(), atol=1e-5)
    np.testing.assert_allclose(regression, expected[1][0].permute(1, 2, 0).numpy(), atol=1e-4)


def test_every_cycle_of_the_learning_rate_is_the_same(tmp_path):
    run = Trainer(replace(SMALL, steps=40, cycles=2, warmup=0.1), tmp_path)
    rates = []
    for run.step in range(40):
        rates.append(run.learning_rate())
    assert rates[:20] == pytest.approx(rates[20:])
    assert max(rates[:20]) == rates[2] == pytest.approx(SMALL.learning_rate, rel=1e-3)
    assert rates[0] < 1e-5 and rates[19] < 0.02 * SMALL.learning_rate


def statistics(network):
    return {name: value.clone() for name, value in network.named_buffers()}


def test_batch_norms_are_those_of_the_exported_network_at_the_end(tmp_path):
    data = TrainingData.of([frame_with_a_car(np.random.default_rng(seed)) for seed in range(2)], [])
    config = replace(SMALL, steps=6, validate_every=1, frozen_norms=0.5)
    norms, averaged = [], []

    def look(run):
        norms.append(statistics(run.network))
        averaged.append(statistics(run.average.module))

    run = train(config, data, tmp_path, look)
    for name, value in norms[2].items():
        assert not torch.equal(value, norms[1][name]), f"{name} still moves"
        assert not torch.equal(value, averaged[2][name]), f"{name} is not the average yet"
        for later in norms[3:]:
            assert torch.equal(later[name], averaged[2][name]), name
    grid = torch.randn(2, SPEC.channels, 64, 64)
    learning = run.network(grid)
    for found, expected in zip(learning, run.network.eval()(grid), strict=True):
        assert torch.equal(found, expected), "what is learned is what is shipped"


def read_curve(folder):
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


class Stopped(Exception):
    """What a kill does to a run."""


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "REPORT_EVERY", 1)
    data = TrainingData.of([frame_with_a_car(np.random.default_rng(seed)) for seed in range(2)], [])
    start = train(replace(SMALL, steps=1), data, tmp_path / "start")
    config = replace(SMALL, validate_every=3)

    def run(name, workers=1, stop_at=None):
        validated = []

        def on_validate(trainer):
            validated.append(trainer.step)
            if trainer.step == stop_at:
                raise Stopped

        arguments = (replace(config, workers=workers), data, tmp_path / name, on_validate, start.folder)
        if stop_at is None:
            return train(*arguments), validated
        with pytest.raises(Stopped):
            train(*arguments)
        return None, validated

    whole, validated = run("whole")
    assert validated == [3, 4]
    # Stopped after step 3, it goes on from the checkpoint of step 2; by then its start may have changed.
    assert run("stopped", stop_at=3)[1] == [3]
    (start.folder / "checkpoint.pt").unlink()
    resumed, validated = run("stopped", workers=2)
    assert validated == [3, 4]
    assert [row["step"] for row in read_curve(tmp_path / "stopped")] == [1, 2, 3, 4]
    for row, expected in zip(read_curve(tmp_path / "stopped"), read_curve(tmp_path / "whole"), strict=True):
        assert {**row, "step_s": 0} == {**expected, "step_s": 0}
    for name, value in resumed.average.state_dict().items():
        assert torch.equal(value, whole.average.state_dict()[name]), name


@pytest.mark.parametrize("name", ["simulated", "recorded", "fine_tune", "gpu", "surround"])
def test_recipes_load_and_know_their_grid(name):
    assert load_config(f"train/{name}", TrainConfig).grid.shape == (1408 if name == "surround" else 704, 800, 23)


def test_a_run_resumes_and_learns(tmp_path):
    frames = [frame_with_a_car(np.random.default_rng(seed)) for seed in range(2)]
    seen = []
    data = TrainingData.of(frames, [])
    trainer = train(SMALL, data, tmp_path, lambda trainer: seen.append(trainer.step))
    assert trainer.step == 4 and seen == [4]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["train"]["seed"] == 0 and config["train"]["grid"]["x_max_m"] == 12.8
    resumed = Trainer(SMALL, tmp_path)
    assert resumed.step == 4
    for name, value in resumed.network.state_dict().items():
        assert torch.equal(value.cpu(), trainer.network.state_dict()[name].cpu()), name
    assert trainer.learning_rate() < 1e-3 < SMALL.learning_rate
    started = Trainer(SMALL, tmp_path / "new", lambda: initial_weights(tmp_path, SMALL, data))
    assert started.step == 0
    for name, value in started.network.state_dict().items():
        assert torch.equal(value, trainer.average.module.state_dict()[name]), name
    nowhere = partial(initial_weights, tmp_path / "nowhere", SMALL, data)
    assert Trainer(SMALL, tmp_path, nowhere).step == 4, "a run that goes on needs no start any more"
    with pytest.raises(ConfigError, match=r"checkpoint.pt: No such file.*tools.train run"):
        Trainer(SMALL, tmp_path / "new", nowhere)
