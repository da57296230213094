"""`tools.gpu_check` as far as no GPU is needed: its stand-ins, its comparisons, its opponent, and its commands."""

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from detector.config import Config
from detector.types import Detections
from kernels.gpu import cuda_driver_answers
from kernels.launch import SIMULATED
from kernels.op import Exact
from kernels.residual_unit import random_unit, residual_unit_reference
from kernels.tile_conv import tile_conv_reference
from kernels.tiles import ActiveTiles, TileSpec
from kernels.unit import Unit
from models.network import INPUT_NAME
from models.sparse import TileExecutor
from tests.models.small_networks import residual_network
from tests.tiny_network import INFO, SPEC, patch_points, tiny_model, write_mask_model, write_model
from tests.tools.plan_digest import digest_of
from tools.benchmark.masks import TOLERANCE, sparsity_of
from tools.benchmark.sbnet_rows import Row, read_rows
from tools.gpu_check import bench, jobs
from tools.gpu_check.__main__ import add, main
from tools.gpu_check.checks import check_op, check_pipeline
from tools.gpu_check.frames import load_frames, load_mask, save_frames, save_masks
from tools.gpu_check.half import half_checks
from tools.gpu_check.jobs import Job, Subject, all_jobs
from tools.gpu_check.stand_ins import install
from tools.gpu_check.workers import MARK, do_jobs, joined, work_through

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
ROOT = Path(__file__).parents[2]
SMALL = replace(SPEC, x_max_m=25.6, y_min_m=-12.8, y_max_m=12.8)  # four tiles
SHIFT_M = np.array([0, SPEC.y_min_m - SMALL.y_min_m, 0, 0], np.float32)  # of `patch_points`, to its corner
# What a plain CUDA image lacks; Python imports a module of this name before anything else.
BARE = """
import os, sys
missing = {"onnx", "yaml", "PIL", "scipy", "click", "rich", "threadpoolctl", "onnxruntime", "matplotlib", "torch"}
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in missing:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Bare())
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from tests.simulator import install
    install()
"""
DIGEST = """
from tools.gpu_check.stand_ins import install
assert install() == ["yaml", "PIL", "onnx"]
from tests.tools.plan_digest import digest_of
import tools.gpu_check.jobs, tools.gpu_check.workers
print(digest_of("kitti"))
"""


@pytest.fixture
def bare(tmp_path):
    """Environment of a process in which these packages are not installed."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BARE)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def run_python(environment, *arguments):
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_bare_environment_imports_all_of_it_and_reads_the_shipped_network(bare):
    done = run_python(bare, "-c", DIGEST)
    assert done.stdout.strip() == digest_of("kitti"), done.stderr[-2000:]
    assert install() == [], "what is installed needs no stand-in"


@pytest.mark.skipif(cuda_driver_answers() or SIMULATED, reason="a GPU is here")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert main([]) == 2
    told = capsys.readouterr()
    assert told.err == "gpu_check: no NVIDIA driver answers, or it sees no GPU; check nvidia-smi\n" and not told.out


def fake_job(name, run=None, limit_s=20.0):
    return Job(name, limit_s, run or (lambda: {"rows": [name]}), lambda note: {"rows": [note]})


def fail():
    raise OSError("CUDA_ERROR\nILLEGAL")


def test_a_worker_tells_of_every_job_and_ends_when_the_gpu_is_lost(monkeypatch):
    problems = iter(["", "no kernel runs"])
    monkeypatch.setattr("tools.gpu_check.workers.gpu_problem", lambda: next(problems))
    some, out = [fake_job("a"), fake_job("b", fail), fake_job("c"), fake_job("d", fail), fake_job("e")], io.StringIO()
    do_jobs(some, 0, out)
    told = [json.loads(line.removeprefix(MARK)) for line in out.getvalue().splitlines()]
    assert [answer.get("part") for answer in told] == [{"rows": ["a"]}, None, {"rows": ["c"]}, None]
    assert told[1]["error"] == "OSError: CUDA_ERROR ILLEGAL"
    assert [answer["last"] for answer in told] == [False, False, False, True]


WORKER = """
import json, os, sys, time
print("something else")
for number in range(int(sys.argv[1]), 6):
    if number == 1:
        os._exit(7)
    time.sleep(60 * (number == 3))
    print("gpu_check: " + json.dumps({"part": {"rows": [number]}, "seconds": 0.1, "last": number == 4}), flush=True)
    if number == 4:
        break
"""


def test_no_job_takes_another_one_with_it(monkeypatch):
    """One ends its process, one hangs, one is the last that its process can do."""
    monkeypatch.setattr("tools.gpu_check.workers.START_S", 10.0)
    some = [fake_job(str(number), limit_s=2.0) for number in range(6)]
    record = {"seconds": {}, "errors": {}}
    for job, answer in work_through(some, [sys.executable, "-c", WORKER], time.monotonic() + 60):
        add(record, job, answer)
    assert record["rows"] == [0, "the process ended with status 7", 2, "took longer than 2 s", 4, 5]
    assert list(record["errors"]) == ["1", "3"] and list(record["seconds"]) == list("012345")
    late = [answer["error"] for _, answer in work_through(some, ["/nowhere"], time.monotonic() - 1)]
    assert late == ["no time was left"] * 6


def test_every_job_has_a_name_of_its_own_and_can_be_chosen():
    names = [job.name for job in all_jobs(Subject())]
    assert len(set(names)) == len(names) and sum(name.startswith("row ") for name in names) == 16
    assert sum("mask foreground" in name for name in names) == 3, "the shipped mask network is checked"
    assert [job.name for job in all_jobs(Subject(), "nms .small|latency$")] == [
        "machine", "check nms (small)", "bench latency"]  # fmt: skip
    row, check = (job.failed("why") for job in all_jobs(Subject(), "unit/conv-5/road|nms .small")[::-1][:2])
    assert row["rows"][0]["note"] == "why" and row["rows"][0]["ours"] is None
    assert check == {"checks": [{"name": "nms (small)", "ok": False, "max_error": None, "note": "why"}]}


HALF_CHECKS = [pytest.param(*each, id=f"{each[0].name} {each[1].name}") for each in half_checks()]
WITH_WEIGHTS = [each for each in HALF_CHECKS if "tile_conv" in each.id or "unit" in each.id]


def in_numpy(op):
    """The op as a device with float16 would do it, on NumPy arrays: sums are exact, and the result is rounded."""

    def function(**inputs):
        wide = {key: as_float32(value) for key, value in inputs.items()}
        return op.reference(**wide).astype(inputs["out"].dtype)

    return replace(op, function=function)


def as_float32(value):
    return value.astype(np.float32) if isinstance(value, np.ndarray) and value.dtype == np.float16 else value


def spoilt(op):
    """The op with one weight that is wrong by a tenth of what weights usually are."""

    def function(**inputs):
        layer = inputs["unit"].layers[1] if "unit" in inputs else inputs["filters"]
        layer.weights[-1, 0, 2, 1] += np.float32(0.1 * layer.weights.std())
        return op.function(**inputs)

    return replace(op, function=function)


@pytest.fixture
def on_the_host(monkeypatch):
    """What goes to the device stays where it is."""
    for name in ("to_device", "to_host"):
        monkeypatch.setattr(f"tools.gpu_check.checks.{name}", lambda value: value)


@pytest.mark.parametrize(("op", "ends"), HALF_CHECKS)
def test_float16_checks_bear_a_rounded_result(op, ends, on_the_host):
    outcome = check_op(in_numpy(op), "small", ends)
    assert outcome.ok, outcome
    assert (outcome.max_error > 0) == (ends.target == "float16" and op.equality != Exact())


@pytest.mark.parametrize(("op", "ends"), WITH_WEIGHTS)
def test_float16_checks_see_a_wrong_weight(op, ends, on_the_host):
    outcome = check_op(spoilt(in_numpy(op)), "small", ends)
    assert not outcome.ok and "expected at most" in outcome.note


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "ends"), HALF_CHECKS)
def test_float16_checks_on_the_device(device, op, ends):
    outcome = check_op(op, "small", ends)
    assert outcome.ok, outcome


@pytest.mark.parametrize("device", DEVICES)
def test_float16_checks_see_a_wrong_weight_on_the_device(device):
    ((op, ends),) = [each.values for each in HALF_CHECKS if each.id == "tile_conv_1x1 float16"]
    assert not check_op(spoilt(op), "small", ends).ok


def outcome_of(monkeypatch, on_gpu, precision, tiles=None):
    """What is said of pipelines of which the CPU's finds two boxes, a GPU's what the test says."""
    boxes = np.array([[10, 0, -1, 4, 2, 1.5, 3.1], [20, 5, -1, 4, 2, 1.5, 0]], np.float32)
    every = ActiveTiles.all(TileSpec.covering((16, 16), 1))

    class Fake:
        def __init__(self, config):
            self.cpu = config.device == "cpu"

        def detect(self, points):
            scores = np.array([0.9, 0.11], np.float32)
            found = (boxes.copy(), scores) if self.cpu else on_gpu(boxes.copy(), scores)
            detections = Detections(*found, ("Car",) * len(found[0]))
            ran = every if self.cpu or tiles is None else ActiveTiles(every.index[:tiles], every.spec)
            return SimpleNamespace(detections=detections, tiles=ran, tiles_total=256)

    monkeypatch.setattr("tools.gpu_check.checks.Pipeline", Fake)
    return check_pipeline(Config(precision=precision), [np.zeros((0, 4), np.float32)])


def test_boxes_are_matched(monkeypatch):
    def turned(boxes, scores):
        boxes[0, 6] -= 2 * np.pi - 0.001
        return boxes[::-1].copy(), scores[::-1].copy()

    same = outcome_of(monkeypatch, turned, "float32")
    assert same.ok and same.max_error == pytest.approx(0.001, rel=0.01) and not same.note
    assert outcome_of(monkeypatch, lambda b, s: (b[:1], s[:1]), "float16").ok, "on the verge"
    for precision in ("float32", "float16"):
        lost = outcome_of(monkeypatch, lambda b, s: (b[1:], s[1:]), precision)
        assert not lost.ok and "no partner" in lost.note
        assert not outcome_of(monkeypatch, lambda b, s: (b + np.float32(0.2), s), precision).ok
    assert outcome_of(monkeypatch, turned, "float32", 255).note == "0.39% of the tiles differ"
    assert not outcome_of(monkeypatch, turned, "float32", 254).ok


def test_frames_survive_the_rounding(tmp_path):
    points = np.random.default_rng(0).uniform((-70, -40, -3, 0), (70, 40, 3, 1), (50, 4)).astype(np.float32)
    save_frames([points, points[:3]], tmp_path / "frames.npz")
    first, second = load_frames(tmp_path / "frames.npz")
    np.testing.assert_allclose(first, points, atol=0.0051)
    assert first.dtype == np.float32 and np.array_equal(second, first[:3])


def test_the_frames_that_travel_along():
    found = load_frames()
    assert len(found) >= 3 and all(len(points) > 10_000 and np.isfinite(points).all() for points in found)


def test_the_masks_that_travel_along(tmp_path):
    for row in read_rows():
        if row.mask != "synthetic":
            mask = load_mask(row.name, row.shape)
            assert mask.shape == (1, *row.shape) and mask.dtype == np.float32
            assert sparsity_of(mask) == pytest.approx(row.sparsity, abs=TOLERANCE) and set(np.unique(mask)) == {0, 1}
    mask = (np.random.default_rng(0).random((1, 5, 13)) < 0.5).astype(np.float32)
    save_masks({"a/b": mask}, tmp_path / "masks.npz")
    assert np.array_equal(load_mask("a/b", (5, 13), tmp_path / "masks.npz"), mask)


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


def test_frames_per_second_of_batches(tmp_path):
    config = Config(model=str(write_model(tmp_path / "tiny.onnx")), device="cpu")
    found = bench.measure_batches(config, [patch_points()], loops=2, batches=(1, 2))
    assert list(found) == ["1", "2"] and min(found.values()) > 0


def test_the_benchmarks_give_their_parts_of_the_record(tmp_path, monkeypatch):
    """On the CPU, in the place of the GPU."""
    monkeypatch.setattr(jobs, "Config", lambda model, device="": Config(model=model, device="cpu"))
    monkeypatch.setattr(bench, "free_mb", lambda: 900.0)
    save_frames([patch_points()], tmp_path / "frames.npz")
    subject = Subject(str(write_model(tmp_path / "tiny.onnx")), tmp_path / "frames.npz", loops=2)
    out, record = io.StringIO(), {}
    do_jobs(all_jobs(subject, "bench [lb]")[1:], 0, out)
    for line in out.getvalue().splitlines():
        joined(record, json.loads(line.removeprefix(MARK))["part"])
    assert {"latency_ms", "stage_ms", "fps", "peak_mb", "graph"} <= record.keys()
    assert record["without_graph"].keys() == record.keys() - {"without_graph", "fps_by_batch"}
    assert list(record["fps_by_batch"]) == ["1", "2", "4", "8"] and record["latency_ms"]["p99"] > 0


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
def test_rows_on_the_device(device, monkeypatch):
    monkeypatch.setitem(bench.WIDTHS, "conv-5", 3)
    rows = [Row(kind, "conv-5", 1, 8, 8, channels, "synthetic", 0.9, 1.0, 1.0) for kind, channels in
            (("conv", 12), ("unit", 16))]  # fmt: skip
    for row in rows:
        record = bench.measure_row(row, row.masks([])[0], ReferenceDense, rounds=1)
        assert record["ours"] == record["dense_ms"] / record["sparse_ms"] and record["channels"] == row.channels


@pytest.mark.parametrize("device", DEVICES)
def test_all_of_it_in_a_bare_environment(device, tmp_path, bare):
    """The whole way, from the command to its record, on small things; what PyTorch is needed for says so."""
    write_mask_model(tmp_path / "tiny.onnx", SMALL)
    write_model(tmp_path / "tiny.onnx", tiny_model(spec=SMALL), replace(INFO, grid=SMALL))
    save_frames([patch_points() - SHIFT_M], tmp_path / "frames.npz")
    record_file = tmp_path / "record.json"
    wanted = "(reduce_mask|pack_frame|tile_conv_1x1 float16) .small|pipeline, float32, mask foreground"
    wanted += "|bench dense|row conv/conv-5"
    # The simulator bears no kernels of two threads at once, as a stream has them.
    wanted += "|bench latency$" if device == "device" else ""
    paths = ["--model", str(tmp_path / "tiny.onnx"), "--frames", str(tmp_path / "frames.npz")]
    command = ["-m", "tools.gpu_check", *paths, "--loops", "1", "--only", wanted, "--json", str(record_file)]
    done = run_python(bare, *command)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    record = json.loads(record_file.read_text())
    assert [(check["name"], check["ok"]) for check in record["checks"]] == [
        ("reduce_mask (small)", True),
        ("pack_frame (small)", True),
        ("tile_conv_1x1 float16 (small)", True),
        ("pipeline, float32, mask foreground", True),
    ], record
    assert {"device", "driver", "versions", "date", "revision"} <= record.keys()
    assert device == "simulator" or record["fps"] > 0
    assert record["stand_ins"] == ["yaml", "PIL", "onnx"]
    assert record["rows"][0]["stage"] == "conv-5" and "torch" in record["rows"][0]["note"]
    assert list(record["errors"]) == ["bench dense network", "row conv/conv-5/synthetic"]
    assert "4 of 4 checks are good" in done.stdout
