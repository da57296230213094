"""The CUDA kernels of the residual unit: shapes, maps that fit and maps that do not, and their machine code."""

import dataclasses
import os

import numpy as np
import pytest

import kernels.residual_unit_cuda
from kernels.launch import to_device, to_host
from kernels.machine_code import CAPABILITIES, compile_kernel
from kernels.residual_unit import random_unit, residual_unit_reference
from kernels.residual_unit_cuda import CUDA_KERNELS, FULL_FLOAT_VARIANTS, FULL_HALF_VARIANTS, Plan, residual_unit_cuda
from kernels.tile_conv import active_cells
from kernels.tile_conv_cuda import Blocking
from kernels.tiles import ActiveTiles, TileSpec, random_tiles

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
TOLERANCE = {np.float32: 1e-5, np.float16: 6e-3}
on_devices = pytest.mark.parametrize("device", DEVICES)


@dataclasses.dataclass
class Case:
    """A unit to be tried; the rest comes from the random generator."""

    channels: tuple = (3, 2, 2, 3)
    kernels: tuple = (1, 3, 1)
    before: bool = True
    shape: tuple = (1, 5, 4)
    spec: TileSpec | None = None  # tiles of 3 cells
    share: float = 0.7
    dtype: type = np.float32

    def arrays(self):
        """x, unit, tiles, out."""
        rng = np.random.default_rng(0)
        unit = random_unit(rng, self.channels, self.kernels, self.before)
        x, out = rng.standard_normal((2, *self.shape, self.channels[0]), np.float32).astype(self.dtype)
        spec = self.spec or TileSpec.covering(self.shape[1:], 3)
        return x, unit, random_tiles(rng, spec, self.share, self.shape[0]), out

    def check(self):
        """The kernel's result is the reference's."""
        x, unit, tiles, out = self.arrays()
        expected = residual_unit_reference(x, unit, tiles, out)
        assert not self.share or active_cells(tiles, out.shape).any(), "the case gives something to do"
        found = run(x, unit, tiles, out)
        assert found.dtype == self.dtype
        error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        assert error.max() <= TOLERANCE[self.dtype], error.max()


def run(x, unit, tiles, out):
    """The CUDA kernel on NumPy arrays."""
    there = to_device(out)
    residual_unit_cuda(to_device(x), unit, to_device(tiles), there)
    return to_host(there)


HALF = {"dtype": np.float16}
BASIC = {"channels": (2, 3, 2), "kernels": (3, 3), "before": False}
CASES = {
    "bottleneck": Case(),
    "basic": Case(**BASIC),
    "basic with pre-activation": Case((2, 2, 2), (3, 3), True),
    "one layer": Case((2, 2), (3,), False),
    "one layer, 1x1": Case((5, 5), (1,), True),
    "5x5 inside": Case((2, 1, 2), (1, 5), False, share=0.4),
    "four layers": Case((2, 3, 1, 3, 2), (1, 3, 1, 1), True, share=0.4),
    "many channels": Case((9, 11, 9), (1, 1), True),
    "two images": Case(shape=(2, 3, 4), **BASIC),
    "tiles sticking out": Case(spec=TileSpec((3, 2), (3, 4), (-1, -1), (2, 2)), share=1, **BASIC),
    "no tiles": Case(share=0),
    "half bottleneck": Case((16, 8, 3, 16), **HALF),
    "half basic": Case((16, 16, 16), (3, 3), False, **HALF),
    "half, one layer": Case((32, 32), (3,), True, **HALF),
    "half, 5x5 inside": Case((16, 9, 16), (1, 5), True, **HALF),
    "half, many hidden channels": Case((16, 40, 16), (1, 1), True, **HALF),
    "half, two images": Case((16, 8, 16), (3, 1), False, shape=(2, 3, 4), **HALF),
    "half, tiles sticking out": Case(
        (16, 8, 16), (1, 3), spec=TileSpec((3, 2), (3, 4), (-1, -1), (2, 2)), share=1, **HALF
    ),
    "half, no tiles": Case((16, 16), (1,), share=0, **HALF),
}


@on_devices
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_equals_reference(device, case):
    case.check()


def without_shared_memory(monkeypatch):
    """Hidden maps of float32 units go to global memory."""
    variants = [dataclasses.replace(variant, bytes=-1) for variant in kernels.residual_unit_cuda.FLOAT_VARIANTS]
    monkeypatch.setattr(kernels.residual_unit_cuda, "FLOAT_VARIANTS", variants)


@on_devices
@pytest.mark.parametrize("case", [CASES["bottleneck"], CASES["basic"]], ids=["bottleneck", "basic"])
def test_hidden_maps_that_do_not_fit_shared_memory(device, case, monkeypatch):
    without_shared_memory(monkeypatch)
    case.check()


@on_devices
@pytest.mark.parametrize("case", [Case(), Case((16, 3, 3, 16), **HALF)], ids=["float", "half"])
def test_large_tiles_run_in_parts(device, case, monkeypatch):
    monkeypatch.setattr(kernels.residual_unit_cuda, "_PART_CELLS", 4)
    dataclasses.replace(case, shape=(1, 7, 7), spec=TileSpec((7, 5), (7, 5), (0, 0), (1, 2)), share=1).check()


@on_devices
@pytest.mark.parametrize("variant", FULL_FLOAT_VARIANTS + FULL_HALF_VARIANTS, ids=lambda v: v.kernel.__name__)
def test_blocks_of_full_size_equal_reference(device, variant, monkeypatch):
    for name in ("FLOAT_VARIANTS", "HALF_VARIANTS"):
        monkeypatch.setattr(kernels.residual_unit_cuda, name, (variant,))
    half = variant in FULL_HALF_VARIANTS
    channels, dtype = ((48, 3, 48), np.float16) if half else ((17, 3, 17), np.float32)
    Case(channels, (1, 1), spec=TileSpec.covering((5, 4), 5), share=1, dtype=dtype).check()


@on_devices
def test_cells_outside_active_tiles_keep_their_bytes(device):
    x, unit, tiles, out = Case(share=0.4).arrays()
    found, inside = run(x, unit, tiles, out), active_cells(tiles, out.shape)
    assert inside.any() and not inside.all()
    assert np.array_equal(found[~inside], out[~inside]) and (found[inside] != out[inside]).all()


@on_devices
def test_tiles_of_an_image_that_is_not_there_are_dropped(device):
    x, unit, _, out = Case().arrays()
    tiles = ActiveTiles(np.array([[1, 0, 0], [7, 1, 1]], np.int32), TileSpec.covering((5, 4), 3))
    assert np.array_equal(run(x, unit, tiles, out), out)


@on_devices
def test_later_calls_allocate_nothing(device, monkeypatch):
    without_shared_memory(monkeypatch)
    x, unit, tiles, out = Case((2, 2, 2), (1, 1)).arrays()
    first = run(x, unit, tiles, out)
    before = dict(unit.packed)
    assert np.array_equal(run(x, unit, tiles, out), first)
    assert len(before) == 3, "weights, plan, scratch"
    assert unit.packed.keys() == before.keys() and all(unit.packed[name] is before[name] for name in before)


@on_devices
def test_maps_with_gaps_are_refused(device):
    x, unit, tiles, out = Case(shape=(1, 10, 4)).arrays()
    with pytest.raises(ValueError, match="x is not contiguous"):
        residual_unit_cuda(to_device(x)[:, ::2], unit, to_device(tiles), to_device(out))


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("kernel", CUDA_KERNELS, ids=lambda kernel: kernel.kernel.__name__)
def test_machine_code(kernel, capability):
    if "CI" not in os.environ:  # there a missing compiler is a failure
        pytest.importorskip("cuda.core", reason="numba-cuda with NVVM and nvJitLink is not installed: extra 'test'")
    code = compile_kernel(kernel, capability)
    assert code.spill_bytes == 0 and code.stack_bytes == 0, "sums stay in registers"
    assert code.registers <= 128, "four blocks fit on a multiprocessor"
    assert code.uses_tensor_cores == kernel.tensor_cores and not code.uses_float64


def test_blockings_share_their_loads_evenly():
    with pytest.raises(ValueError, match="evenly"):
        Blocking(32, 4, 4, 4, 1)


@on_devices
def test_half_precision_wants_multiples_of_16_channels(device):
    x, unit, tiles, out = Case(dtype=np.float16).arrays()
    with pytest.raises(ValueError, match="multiple of 16"):
        run(x, unit, tiles, out)


@pytest.mark.parametrize("half", [False, True], ids=["float", "half"])
@pytest.mark.parametrize("channels", [(96, 24, 24, 96), (256, 64, 64, 256), (512, 128, 128, 512)], ids=str)
@pytest.mark.parametrize("tile", [(16, 16), (5, 7), (40, 24)], ids=str)
def test_plans_of_typical_units(channels, tile, half):
    unit = random_unit(np.random.default_rng(0), channels, (1, 3, 1), True)
    plan = Plan.best(unit, tile, half)
    assert all(1 <= size <= min(16, whole) for size, whole in zip(plan.part, tile, strict=True))
    rows, cols = plan.part
    with_halo, without = (rows + 2) * (cols + 2), rows * cols
    if half:
        least = 2 * (with_halo * channels[0] + with_halo * channels[1])
    else:
        least = 4 * (with_halo * channels[1] + without * channels[2])
    size = plan.size * (16 if half else 4)
    assert least <= size and plan.in_shared == (size <= plan.variant.bytes < 48 * 1024) and plan.in_shared >= half
    whole = Plan.of(unit, tile, plan.part, half, dataclasses.replace(plan.variant, pixels=1, columns=1))
    assert sum(layer.weights.size for layer in unit.layers) * tile[0] * tile[1] <= whole.work <= plan.work


def test_half_precision_maps_that_fit_nowhere_are_refused():
    unit = random_unit(np.random.default_rng(0), (2048, 2048), (5,), False)
    with pytest.raises(ValueError, match="do not fit"):
        Plan.best(unit, (8, 8), half=True)
