"""`tools.gpu_check` as far as no GPU is needed: its stand-ins, its comparisons, its opponent, and its commands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detector.config import Config
from detector.types import Detections
from kernels.gpu import cuda_driver_answers
from kernels.launch import SIMULATED
from kernels.residual_unit import random_unit, residual_unit_reference
from kernels.table import OPS
from kernels.tile_conv import tile_conv_reference
from kernels.tiles import ActiveTiles, TileSpec
from kernels.unit import Unit
from models.network import INPUT_NAME
from models.sparse import TileExecutor
from tests.models.small_networks import residual_network
from tests.tiny_network import patch_points, write_model
from tests.tools.plan_digest import digest_of
from tools.benchmark.sbnet_rows import Row
from tools.gpu_check import bench
from tools.gpu_check.__main__ import main
from tools.gpu_check.checks import Check, check_ops, check_pipeline, guarded
from tools.gpu_check.frames import load_frames, save_frames
from tools.gpu_check.stand_ins import install

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
ROOT = Path(__file__).parents[2]
BARE = """
import sys
missing = {"onnx", "yaml", "PIL", "scipy", "click", "rich", "threadpoolctl", "onnxruntime", "matplotlib", "torch"}
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError(name)
from tools.gpu_check import stand_ins
sys.meta_path.insert(0, Bare())
real, stand_ins.find_spec = stand_ins.find_spec, lambda name: None if name in missing else real(name)
assert stand_ins.install() == ["yaml", "PIL", "onnx"]
from tests.tools.plan_digest import digest_of
import tools.gpu_check.bench, tools.gpu_check.checks
print(digest_of("kitti"))
"""


def test_a_bare_environment_imports_all_of_it_and_reads_the_shipped_network():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BARE]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == digest_of("kitti"), done.stderr[-2000:]
    assert install() == [], "what is installed needs no stand-in"


@pytest.mark.skipif(cuda_driver_answers() or SIMULATED, reason="a GPU is here")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert main([]) == 2
    told = capsys.readouterr()
    assert told.err == "gpu_check: no NVIDIA driver answers, or it sees no GPU; check nvidia-smi\n" and not told.out


def test_a_check_that_raises_is_a_bad_one():
    def fail():
        raise OSError("CUDA_ERROR\nILLEGAL")

    assert guarded("x", fail) == Check("x", False, float("inf"), "OSError: CUDA_ERROR ILLEGAL")


def pipelines(monkeypatch, on_gpu):
    """Stand-ins for pipelines: the CPU finds two boxes, a GPU what the test says."""
    boxes = np.array([[10, 0, -1, 4, 2, 1.5, 3.1], [20, 5, -1, 4, 2, 1.5, 0]], np.float32)
    tiles = ActiveTiles.all(TileSpec.covering((2, 2), 1))

    class Fake:
        def __init__(self, config):
            self.config = config

        def detect(self, points):
            scores = np.array([0.9, 0.11], np.float32)
            found = (boxes.copy(), scores) if self.config.device == "cpu" else on_gpu(boxes.copy(), scores)
            detections = Detections(*found, ("Car",) * len(found[0]))
            return type("Result", (), {"detections": detections, "tiles": tiles})

    monkeypatch.setattr("tools.gpu_check.checks.Pipeline", Fake)
    return list(check_pipeline([np.zeros((0, 4), np.float32)], Config()))


def test_boxes_are_matched(monkeypatch):
    def turned(boxes, scores):
        boxes[0, 6] -= 2 * np.pi - 0.001
        return boxes[::-1].copy(), scores[::-1].copy()

    same = pipelines(monkeypatch, turned)
    assert [check.name for check in same] == [f"pipeline, {p}, mask {m}" for m in ("occupancy", "all") for p in
                                              ("float32", "float16")]  # fmt: skip
    assert all(check.ok for check in same) and same[0].max_error == pytest.approx(0.001, rel=0.01)
    assert all(check.ok for check in pipelines(monkeypatch, lambda b, s: (b[:1], s[:1]))[1::2]), "on the verge"
    lost = pipelines(monkeypatch, lambda b, s: (b[1:], s[1:]))
    assert not any(check.ok for check in lost) and "no partner" in lost[0].note
    assert not any(check.ok for check in pipelines(monkeypatch, lambda b, s: (b + np.float32(0.2), s)))


def test_frames_survive_the_rounding(tmp_path):
    points = np.random.default_rng(0).uniform((-70, -40, -3, 0), (70, 40, 3, 1), (50, 4)).astype(np.float32)
    save_frames([points, points[:3]], tmp_path / "frames.npz")
    first, second = load_frames(tmp_path / "frames.npz")
    np.testing.assert_allclose(first, points, atol=0.0051)
    assert first.dtype == np.float32 and np.array_equal(second, first[:3])


def test_the_frames_that_travel_along():
    found = load_frames()
    assert len(found) >= 3 and all(len(points) > 10_000 and np.isfinite(points).all() for points in found)


def test_the_opponent_computes_the_same():
    torch = pytest.importorskip("torch")
    from tools.gpu_check.torch_dense import Dense

    dense, rng = Dense("cpu", half=False), np.random.default_rng(0)
    for before in (True, False):
        unit = random_unit(rng, (6, 3, 3, 6), (1, 3, 1), before)
        x = rng.standard_normal((1, 5, 7, 6), np.float32)
        expected = residual_unit_reference(x, unit, ActiveTiles.all(TileSpec.covering((5, 7), 7)), np.zeros_like(x))
        found = dense.captured(lambda x=x, unit=unit: dense.layers([unit])(dense.put(x)))()
        np.testing.assert_allclose(dense.get(found), expected, atol=1e-5)
    network = residual_network(0, 32, 32, units=("basic",))
    executor = TileExecutor(network)
    grid = rng.random(executor.plan.maps[INPUT_NAME].shape[1:], np.float32)
    with torch.no_grad():
        maps = dense.network(executor.plan)(dense.put(grid[None]))
    score, regression = executor.run(grid, ActiveTiles.all(executor.grid_tiles))
    np.testing.assert_allclose(dense.get(maps["score"])[0, :, :, 0], score, atol=1e-4)
    np.testing.assert_allclose(dense.get(maps["regression"])[0], regression, atol=1e-4)


def test_latency_of_a_detector(tmp_path, monkeypatch):
    free = iter([900.0, 700.0])
    monkeypatch.setattr(bench, "free_mb", lambda: next(free))
    config = Config(model=str(write_model(tmp_path / "tiny.onnx")), device="cpu")
    found = bench.measure_detector(config, [patch_points(), patch_points()[:0]], loops=2)
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"] and found["fps"] > 0
    assert found["peak_mb"] == 200 and found["frames"] == 4 and "backbone" in found["stage_ms"]


class ReferenceDense:
    """The opponent's methods in NumPy."""

    put = get = captured = staticmethod(lambda one: one)

    @staticmethod
    def layers(layers):
        def run(x):
            every = ActiveTiles.all(TileSpec.covering(x.shape[1:3], max(x.shape[1:3])))
            for layer in layers:
                reference = residual_unit_reference if isinstance(layer, Unit) else tile_conv_reference
                x = reference(x, layer, every, np.zeros_like(x))
            return x

        return run


@pytest.mark.parametrize("device", DEVICES)
def test_rows_and_checks_on_the_device(device, tmp_path, monkeypatch):
    ops = [op for op in OPS if op.name in ("pack_frame", "reduce_mask")]
    assert [(check.name, check.ok) for check in check_ops(ops, "small")] == [
        ("reduce_mask (small)", True), ("pack_frame (small)", True)]  # fmt: skip
    monkeypatch.setitem(bench.WIDTHS, "conv-5", 3)
    rows = [Row(kind, "conv-5", 1, 8, 8, channels, "synthetic", 0.9, 1.0, 1.0) for kind, channels in
            (("conv", 12), ("unit", 16))]  # fmt: skip
    for row in rows:
        record = bench.measure_row(row, row.masks([])[0], ReferenceDense, rounds=1)
        assert record["ours"] == record["dense_ms"] / record["sparse_ms"] and record["channels"] == row.channels
    late = list(bench.measure_rows([(rows[0], np.zeros((1, 8, 8), np.float32))], None, until_s=0.0))
    assert late[0]["ours"] is None and late[0]["note"] == "no time was left"
    file = tmp_path / "check.json"
    assert main(["--small", "--checks-only", "--ops", "reduce_mask_mean", "--json", str(file)]) == 0
    record = json.loads(file.read_text())
    assert {"device", "driver", "versions", "date", "revision"} <= record.keys()
    assert [(check["name"], check["ok"]) for check in record["checks"]] == [("reduce_mask_mean (small)", True)]
