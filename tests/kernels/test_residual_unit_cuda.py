"""The CUDA kernels of the residual unit: shapes, maps that fit and maps that do not, and their machine code."""

import dataclasses
import os

import numpy as np
import pytest

import kernels.residual_unit_cuda
from kernels.launch import SIMULATED, to_device, to_host
from kernels.machine_code import CAPABILITIES, compile_kernel
from kernels.residual_unit import random_unit, residual_unit_reference
from kernels.residual_unit_cuda import CUDA_KERNELS, KERNELS, residual_unit_cuda, unit_kernel
from kernels.tile_conv import active_cells
from kernels.tile_conv_cuda import Blocking
from kernels.tiles import ActiveTiles, TileSpec, random_tiles

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
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

    def arrays(self):
        """x, unit, tiles, out."""
        rng = np.random.default_rng(0)
        unit = random_unit(rng, self.channels, self.kernels, self.before)
        x, out = rng.standard_normal((2, *self.shape, self.channels[0]), np.float32)
        spec = self.spec or TileSpec.covering(self.shape[1:], 3)
        return x, unit, random_tiles(rng, spec, self.share, self.shape[0]), out

    def check(self):
        """The kernel's result is the reference's."""
        x, unit, tiles, out = self.arrays()
        expected = residual_unit_reference(x, unit, tiles, out)
        assert not self.share or active_cells(tiles, out.shape).any(), "the case gives something to do"
        found = run(x, unit, tiles, out)
        error = np.abs(found - expected) / np.maximum(1, np.abs(expected))
        assert error.max() <= 1e-5, error.max()


def run(x, unit, tiles, out):
    """The CUDA kernel on NumPy arrays."""
    there = to_device(out)
    residual_unit_cuda(to_device(x), unit, to_device(tiles), there)
    return to_host(there)


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
}


@on_devices
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_equals_reference(device, case):
    case.check()


@on_devices
@pytest.mark.parametrize("case", [CASES["bottleneck"], CASES["basic"]], ids=["bottleneck", "basic"])
def test_hidden_maps_that_do_not_fit_shared_memory(device, case, monkeypatch):
    monkeypatch.setattr(kernels.residual_unit_cuda, "_SHARED_FLOATS", 0)
    case.check()


@on_devices
def test_large_tiles_run_in_parts(device, monkeypatch):
    monkeypatch.setattr(kernels.residual_unit_cuda, "_PART_CELLS", 4)
    Case(shape=(1, 7, 7), spec=TileSpec((7, 5), (7, 5), (0, 0), (1, 2)), share=1).check()


@on_devices
@pytest.mark.parametrize("blocking", [Blocking(128, 32, 16, 4, 8), Blocking(64, 64, 16, 8, 4)], ids=["narrow", "wide"])
def test_blocks_of_full_size_equal_reference(device, blocking, monkeypatch):
    monkeypatch.setattr(kernels.residual_unit_cuda, "_BLOCKINGS", (blocking,))
    monkeypatch.setattr(kernels.residual_unit_cuda, "KERNELS", {(blocking, True): unit_kernel(blocking, True)})
    Case((17, 3, 17), (1, 1), spec=TileSpec.covering((5, 4), 5), share=1).check()


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
    monkeypatch.setattr(kernels.residual_unit_cuda, "_SHARED_FLOATS", 0)
    x, unit, tiles, out = Case((2, 2, 2), (1, 1)).arrays()
    first = run(x, unit, tiles, out)
    before = dict(unit.packed)
    assert np.array_equal(run(x, unit, tiles, out), first)
    assert set(before) == {"cuda_float32", "cuda_scratch"} and all(unit.packed[name] is before[name] for name in before)


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
    assert SIMULATED or len(KERNELS) == 4
    with pytest.raises(ValueError, match="evenly"):
        Blocking(32, 4, 4, 4, 1)
