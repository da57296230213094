"""Training of the road-mask network: targets that move with the points, loss by hand, a run that ends in a mask."""

from dataclasses import replace

import numpy as np
import pytest

from detector.errors import ConfigError
from models.grid import BevSpec
from models.mask_network import CLASSES, OUTPUT_STRIDE, MaskNetwork, mask_input, mask_network_of, mask_spec
from models.network import NetworkInfo, load_network
from tests.tiny_network import INFO, tiny_model, write_model
from tests.training_frames import frame_with_a_car
from tools.simulation.drive import simulate_drive
from tools.training.augment import AugmentConfig, Motion
from tools.training.mask_samples import (
    MaskData,
    MaskDataConfig,
    MaskFrame,
    MaskSampleMaker,
    from_simulation,
    mask_targets,
)
from tools.training.road_labels import NOT_ROAD, ROAD, UNKNOWN

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'roadblocks[train]'")

from kernels.workspace import Workspace  # noqa: E402
from tools.training.export import export_mask_network  # noqa: E402
from tools.training.mask_trainer import MaskTrainConfig, load_mask, mask_loss, train_mask  # noqa: E402

SPEC = BevSpec(x_max_m=12.8, y_min_m=-6.4, y_max_m=6.4)
COARSE = mask_spec(SPEC)
RASTER = replace(SPEC, cell_m=0.2)
STILL = Motion(mirrored=False, angle_rad=0.0, scale=1.0, lift_m=0.0)
CELL_M = COARSE.cell_m * OUTPUT_STRIDE


def frame_with_road(is_road):
    """A frame whose ground is road where ``is_road(x, y)`` says, and unknown beyond 12 m ahead."""
    x = RASTER.x_min_m + (np.arange(RASTER.rows)[:, None] + 0.5) * RASTER.cell_m
    y = RASTER.y_min_m + (np.arange(RASTER.cols)[None, :] + 0.5) * RASTER.cell_m
    road = np.where(is_road(x, y), ROAD, NOT_ROAD).astype(np.uint8)
    road[x[:, 0] > 12] = UNKNOWN
    return MaskFrame(frame_with_a_car(np.random.default_rng(0)), road, RASTER)


@pytest.mark.parametrize("angle_rad", [0.0, 0.3, -0.2])
@pytest.mark.parametrize("mirrored", [False, True])
def test_road_moves_with_the_points(mirrored, angle_rad):
    motion = Motion(mirrored, angle_rad, 1.05, 0.3)
    frame = frame_with_road(lambda x, y: y - 0.5 * x < 0)
    places = np.random.default_rng(1).uniform((1, -5, -1, 0), (11, 5, 0, 1), (200, 4)).astype(np.float32)
    was_road = places[:, 1] - 0.5 * places[:, 0] < 0
    off_the_border = np.abs(places[:, 1] - 0.5 * places[:, 0]) > 2 * CELL_M
    motion.move(places, np.zeros((0, 7), np.float32))
    target, weight = mask_targets(frame, np.zeros((0, 7), np.float32), np.zeros(0, bool), motion, COARSE, 0.4)
    rows, cols = ((places[:, :2] - (SPEC.x_min_m, SPEC.y_min_m)) / CELL_M).astype(int).T
    inside = (rows >= 0) & (rows < target.shape[1]) & (cols >= 0) & (cols < target.shape[2])
    rows, cols, was_road, known = rows[inside], cols[inside], was_road[inside], off_the_border[inside]
    known &= weight[0, rows, cols] > 0
    assert known.sum() > 50
    np.testing.assert_array_equal(target[0, rows, cols][known], was_road[known])


def test_what_nobody_knows_has_no_weight_and_cells_on_a_border_are_shared():
    frame = frame_with_road(lambda x, y: y + 0 * x < 0.4)
    boxes = np.array([[6, -2, -1, 4, 1.6, 1.5, 0], [6, 3, -1, 4, 1.6, 1.5, 0]], np.float32)
    target, weight = mask_targets(frame, boxes, np.array([True, False]), STILL, COARSE, 0.4)
    assert target.shape == weight.shape == (2, 16, 16)
    assert not weight[0, 15].any() and weight[0, :15].all(), "12 m are 15 cells"
    np.testing.assert_allclose(target[0, 3], [1] * 8 + [0.5] + [0] * 7)
    assert target[1, 5:10, 4:7].all() and target[1].sum() <= 24, "a box of 4 x 1.6 m covers up to 7 x 4 cells"
    assert not weight[1, 7, 11] and weight[1, 7, 5] and not target[1, 7, 11], "a car that does not count"


def test_samples_repeat_and_simulated_cars_count_all_round():
    config = MaskDataConfig(front_frames=1, surround_frames=1, augment=AugmentConfig(pasted_cars=0))
    found = next(iter(simulate_drive(1, 3, full=True)))
    frame = from_simulation(found, True)
    assert frame.surround and len(frame.frame.boxes) == len(found.objects)
    assert (frame.frame.boxes[frame.frame.counted, 0] < 0).any(), "cars behind count as well"
    maker = MaskSampleMaker(MaskData([], [frame], []), SPEC, config, 0, count=3)
    for one, other in zip(maker[1], maker[1], strict=True):
        assert np.array_equal(one, other) and one.dtype == np.float32
    with pytest.raises(IndexError):
        maker[3]


def test_loss_by_hand():
    logits, weight = torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    target = torch.zeros(1, 2, 2, 2)
    target[0, 1, 0, 0] = 1
    even = np.log(2)
    assert mask_loss(logits, target, weight, 1.0).item() == pytest.approx(2 * even)
    logits[0, 1, 0, 0] = -20.0  # a missed vehicle: 20 nats, five times
    expected = even + (5 * 20 + 3 * even) / (5 + 3)
    assert mask_loss(logits, target, weight, 5.0).item() == pytest.approx(expected, rel=1e-5)
    weight[0, 1, 0, 0] = 0
    assert mask_loss(logits, target, weight, 5.0).item() == pytest.approx(2 * even)


def test_a_run_ends_in_a_mask_that_the_executor_runs_alike(tmp_path):
    frame = frame_with_road(lambda x, y: y + 0 * x < 0.4)
    config = MaskTrainConfig(steps=3, batch=2, data=MaskDataConfig(augment=AugmentConfig(pasted_cars=0)))
    made = train_mask(config, MaskData([], [frame], []), tmp_path / "run", SPEC).eval()
    network, facts = load_mask(tmp_path / "run")
    assert facts == {"steps": 3, "seed": 0}
    write_model(tmp_path / "net.onnx", tiny_model(spec=SPEC), replace(INFO, grid=SPEC))
    info = NetworkInfo("net.mask", COARSE, OUTPUT_STRIDE, CLASSES, 0.5, "none")
    export_mask_network(network.eval(), info, tmp_path / "net.mask.onnx")
    grid = mask_input(frame.frame.points, COARSE, Workspace())
    found = MaskNetwork(mask_network_of(load_network(tmp_path / "net.onnx")))(grid)
    with torch.no_grad():
        expected = torch.sigmoid(made(torch.from_numpy(grid)[None].permute(0, 3, 1, 2)))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(ConfigError, match=r"nowhere.*expected a folder of `tools.train mask`"):
        load_mask(tmp_path / "nowhere")
