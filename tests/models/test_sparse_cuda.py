"""The tile executor on CUDA: equal to the one on the CPU, frame after frame, in float32 and on tensor cores."""

from itertools import islice

import numpy as np
import pytest

import models.sparse_cuda
from kernels.launch import to_device, to_host
from kernels.tiles import ActiveTiles, TileSpec
from models.errors import ModelError, NoGpuError
from models.half_precision import half_maps
from models.network import load_network
from models.plan import GRID_TILE, StageChoice, make_plan
from models.sparse import TileExecutor
from models.sparse_cuda import CudaTileExecutor
from models.steps import ConvStep
from tests.models.small_networks import Builder, everything_network, residual_network

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
on_devices = pytest.mark.parametrize("device", DEVICES)
TOLERANCE = {"float32": 1e-4, "float16": 3e-2}  # sums in other orders; a network's depth of roundings to 11 bits


def frames_of(network, seed):
    """Frames whose tiles come and go, of a sparse random grid: some, others, none, some."""
    rng = np.random.default_rng(seed)
    spec = TileSpec.covering(network.info.grid.shape[:2], GRID_TILE)
    every = ActiveTiles.all(spec)
    for chosen in (every.index[:2], every.index[1:3], every.index[:0], every.index[2:]):
        shape = network.info.grid.shape
        yield (rng.random(shape, np.float32) * (rng.random(shape) < 0.1)).astype(np.float32), ActiveTiles(chosen, spec)


def check(network, precision, choices=None, count=4):
    """The two executors give the same maps everywhere, on so many frames; returns the one on CUDA."""
    cuda, cpu = CudaTileExecutor(network, choices, precision), TileExecutor(network, choices)
    for grid, tiles in islice(frames_of(network, 0), count):
        found = cuda.run(to_device(grid), tiles.to_device())
        for one, other in zip(map(to_host, found), cpu.run(grid, tiles), strict=True):
            assert one.shape == other.shape and one.dtype == np.float32
            np.testing.assert_allclose(one, other, atol=TOLERANCE[precision], rtol=TOLERANCE[precision])
    return cuda


def small_network(width):
    """One convolution down, a unit, one level down and up, heads."""
    net = Builder(np.random.default_rng(1), 32, 32, 4)
    x = net.relu(net.norm(net.conv("grid", width, 3, 4)))
    x = net.relu(net.add(net.up(net.basic_unit(net.conv(x, width, 1, 2)), width), x))
    net.heads(x)
    return net.network(4)


@on_devices
def test_float32_equals_the_cpu(device):
    assert not check(small_network(5), "float32").half


@on_devices
@pytest.mark.parametrize("fuse", [False, True])
def test_float16_equals_the_cpu(device, fuse):
    """20 channels are padded to 32."""
    choices = {stride: StageChoice(max(2, GRID_TILE // stride), fuse_units=fuse) for stride in (4, 8)}
    cuda = check(small_network(20), "float16", choices, 2 if fuse else 4)  # fused units are slow to simulate
    assert len(cuda.half) > 2 and cuda._maps["score"].dtype == np.float32


@on_devices
def test_everything_known_and_unknown(device):
    pytest.importorskip("onnxruntime")
    check(everything_network(0, 16, 32), "float32")


@on_devices
def test_milliseconds_of_every_step(device):
    network = small_network(2)
    executor, (grid, tiles) = CudaTileExecutor(network, None, "float32"), next(frames_of(network, 0))
    spent: dict[str, float] = {}
    executor.run(to_device(grid), tiles.to_device(), step_ms=spent)
    assert len(spent) == len(executor.plan.steps) and min(spent.values()) >= 0


def test_maps_that_can_be_float16():
    plan = make_plan(load_network("kitti"))
    left = {name: plan.maps[name].channels for name in set(plan.maps) - half_maps(plan)}
    assert sorted(left.values()) == [1, 1, 8, 23], "the grid and the heads"
    pooled = everything_network(0)
    assert not half_maps(make_plan(pooled)), "narrow maps, and pieces that tiles cannot run"


def test_concatenated_parts_that_are_no_multiples_of_16_stay_float32():
    for width, expected in ((20, 0), (32, 3)):
        net = Builder(np.random.default_rng(0), 32, 32, 4)
        parts = [net.conv("grid", width, 3, 2) for _ in range(2)]
        net.heads(net.node("Concat", parts, 2 * width, axis=1))
        assert len(half_maps(make_plan(net.network()))) == expected


def test_units_that_do_not_fit_stay_float32(monkeypatch):
    network = residual_network(0, 32, 32, width=16)
    choices = {stride: StageChoice(GRID_TILE // stride, fuse_units=True) for stride in (2, 4)}
    assert half_maps(make_plan(network, choices))
    monkeypatch.setattr("models.half_precision.fits_half", lambda unit, tile: False)
    plan = make_plan(network, choices)
    wide = [line.step.target for line in plan.steps if isinstance(line.step, ConvStep)]
    assert not half_maps(plan) & set(wide[:2])


def test_one_clear_line_where_no_gpu_will_do(monkeypatch):
    network = small_network(2)
    monkeypatch.setattr(models.sparse_cuda, "gpu_problem", lambda: "no NVIDIA driver answers")
    with pytest.raises(NoGpuError, match="device cuda: no NVIDIA driver answers; or use --device cpu"):
        CudaTileExecutor(network)
    monkeypatch.setattr(models.sparse_cuda, "gpu_problem", str)
    monkeypatch.setattr(models.sparse_cuda, "gpu_name", lambda: "T4")
    monkeypatch.setattr(models.sparse_cuda, "capability", lambda: (7, 5))
    monkeypatch.setattr(models.sparse_cuda, "free_bytes", lambda: 1e6)
    with pytest.raises(NoGpuError, match=r"T4 has 1 MB free, expected 2\d\d MB for small"):
        CudaTileExecutor(network)
    with pytest.raises(ModelError, match=r"T4 has compute capability 7.5, expected at least 8.0"):
        CudaTileExecutor(network, precision="float16")
    with pytest.raises(ModelError, match="expected one of: auto, float32, float16"):
        CudaTileExecutor(network, precision="float64")
