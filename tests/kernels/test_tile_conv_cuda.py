"""The CUDA kernels of the tile convolution: every geometry against the equation, and their machine code."""

import dataclasses
import os

import numpy as np
import pytest

import kernels.tile_conv_cuda
from kernels.filters import Filters
from kernels.launch import to_device, to_host
from kernels.machine_code import CAPABILITIES, compile_kernel
from kernels.tile_conv import active_cells, tile_conv_reference
from kernels.tile_conv_cuda import CUDA_KERNELS, tile_conv_cuda
from kernels.tiles import ActiveTiles, TileSpec, random_tiles

DEVICES = [pytest.param("simulator", marks=pytest.mark.simulator), pytest.param("device", marks=pytest.mark.gpu)]
on_devices = pytest.mark.parametrize("device", DEVICES)
TOLERANCE = {np.float32: 1e-5, np.float16: 4e-3}


@dataclasses.dataclass
class Case:
    """A convolution to be tried; the rest comes from the random generator."""

    kernel: tuple = (3, 3)
    stride: int = 1
    padding: tuple | None = None  # half the kernel
    transposed: bool = False
    channels: tuple = (5, 6)
    shape: tuple = (1, 7, 9)
    spec: TileSpec | None = None  # tiles of 4 cells
    share: float = 0.6
    relu: bool = True
    residual: bool = True
    dtype: type = np.float32

    def arrays(self, seed=0):
        """x, filters, tiles, out, residual."""
        rng = np.random.default_rng(seed)
        weights = rng.standard_normal((*self.kernel, *self.channels), np.float32)
        weights /= np.float32(np.sqrt(weights[..., 0].size))
        padding = tuple(size // 2 for size in self.kernel) if self.padding is None else self.padding
        padding = (0, 0) if self.transposed else padding
        bias = rng.standard_normal(self.channels[1], np.float32)
        filters = Filters(weights, bias, self.stride, padding, self.transposed)
        images, *cells = self.shape
        cells = [size * self.stride if self.transposed else -(-size // self.stride) for size in cells]
        spec = self.spec or TileSpec.covering(tuple(cells), 4)
        tiles = random_tiles(rng, spec, self.share, images)
        x, out, residual = (
            rng.standard_normal(shape, np.float32).astype(self.dtype)
            for shape in ((*self.shape, self.channels[0]), *[(images, *cells, self.channels[1])] * 2)
        )
        return x, filters, tiles, out, residual if self.residual else None

    def check(self):
        """The kernel's result is the reference's."""
        x, filters, tiles, out, residual = self.arrays()
        expected = tile_conv_reference(x, filters, tiles, out, self.relu, residual)
        assert not len(tiles) or active_cells(tiles, out.shape).any(), "the case gives something to do"
        found = run(x, filters, tiles, out, self.relu, residual)
        assert found.dtype == self.dtype
        error = np.abs(found - expected.astype(np.float64)) / np.maximum(1, np.abs(expected.astype(np.float64)))
        assert error.max() <= TOLERANCE[self.dtype], error.max()


def run(x, filters, tiles, out, relu=False, residual=None):
    """The CUDA kernel on NumPy arrays."""
    there = to_device(out)
    tile_conv_cuda(to_device(x), filters, to_device(tiles), there, relu, to_device(residual))
    return to_host(there)


HALF = {"dtype": np.float16, "channels": (16, 16)}
STICKING_OUT = TileSpec((3, 5), (4, 5), (-1, -2), (3, 3))
CASES = {
    "3x3": Case(),
    "1x1": Case((1, 1)),
    "5x3": Case((5, 3)),
    "stride 2": Case(stride=2),
    "stride 2, 1x1": Case((1, 1), stride=2),
    "stride 3": Case(stride=3, shape=(1, 13, 10)),
    "no padding": Case(padding=(0, 0)),
    "lopsided padding": Case(padding=(2, 0)),
    "padding beyond the kernel": Case((1, 1), padding=(2, 3), share=1),
    "transposed": Case((2, 2), 2, transposed=True),
    "transposed, odd tiles": Case((2, 2), 2, transposed=True, spec=TileSpec((5, 3), (5, 3), (-1, 0), (3, 6))),
    "transposed by 3": Case((3, 3), 3, transposed=True, shape=(1, 3, 3)),
    "two images": Case(shape=(2, 7, 9)),
    "tiles sticking out": Case(spec=STICKING_OUT, share=1, shape=(2, 7, 9)),
    "tile larger than a block": Case((1, 1), spec=TileSpec((9, 7), (9, 7), (0, 0), (1, 1)), share=1),
    "tiles of one cell": Case(spec=TileSpec((1, 1), (1, 2), (0, 0), (7, 4))),
    "neither residual nor ReLU": Case(residual=False, relu=False),
    "ReLU without residual": Case(residual=False),
    "residual without ReLU": Case(relu=False),
    "one channel": Case(channels=(1, 1)),
    "many channels": Case((1, 1), channels=(21, 19)),
    "no tiles": Case(share=0),
    "half 3x3": Case(**HALF),
    "half 1x1": Case((1, 1), **HALF),
    "half stride 2": Case(stride=2, shape=(2, 7, 9), **HALF),
    "half 1x1, stride 2": Case((1, 1), stride=2, **HALF),
    "half transposed": Case((2, 2), 2, transposed=True, shape=(1, 3, 4), **HALF),
    "half transposed, odd tiles": Case(
        (2, 2), 2, transposed=True, shape=(1, 3, 3), spec=TileSpec((3, 5), (3, 5), (-1, 0), (3, 2)), **HALF
    ),
    "half, tiles sticking out": Case(spec=STICKING_OUT, shape=(2, 7, 9), **HALF),
    "half, neither residual nor ReLU": Case((1, 1), residual=False, relu=False, padding=(1, 0), **HALF),
    "half, many channels": Case((1, 1), dtype=np.float16, channels=(48, 32)),
    "half, no tiles": Case(share=0, **HALF),
}


@on_devices
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_equals_reference(device, case):
    case.check()


# What a device runs is too large for the simulator to try on every case.
LARGE_CASES = {
    "narrow": Case((1, 1), channels=(3, 5), share=1, shape=(1, 9, 18)),
    "wide": Case((1, 1), channels=(17, 40)),
    "half, narrow": Case(dtype=np.float16, channels=(16, 16)),
    "half, wide": Case((1, 1), dtype=np.float16, channels=(48, 80), spec=TileSpec.covering((7, 9), 9), share=1),
}


@on_devices
@pytest.mark.parametrize("case", LARGE_CASES.values(), ids=list(LARGE_CASES))
def test_blocks_of_full_size_equal_reference(device, case, monkeypatch):
    monkeypatch.setattr(kernels.tile_conv_cuda, "SIMULATED", False)
    case.check()


@on_devices
def test_cells_outside_active_tiles_keep_their_bytes(device):
    x, filters, tiles, out, _ = Case(shape=(2, 7, 9)).arrays()
    found, inside = run(x, filters, tiles, out), active_cells(tiles, out.shape)
    assert inside.any() and not inside.all()
    assert np.array_equal(found[~inside], out[~inside]) and (found[inside] != out[inside]).all()


@on_devices
def test_tiles_of_an_image_that_is_not_there_are_dropped(device):
    x, filters, _, out, _ = Case().arrays()
    tiles = ActiveTiles(np.array([[1, 0, 0], [7, 1, 1]], np.int32), TileSpec.covering((7, 9), 4))
    assert np.array_equal(run(x, filters, tiles, out), out)


@on_devices
def test_result_of_a_cell_depends_on_no_other_tile(device):
    x, filters, _, out, _ = Case().arrays()
    spec = TileSpec.covering((7, 9), 4)
    alone = run(x, filters, ActiveTiles(np.array([[0, 1, 1]], np.int32), spec), out)
    together = run(x, filters, ActiveTiles.all(spec), out)
    assert np.array_equal(alone[:, 4:, 4:8], together[:, 4:, 4:8])


@on_devices
def test_only_as_many_tiles_as_the_device_counts_are_run(device):
    x, filters, _, out, _ = Case().arrays()
    tiles = to_device(ActiveTiles.all(TileSpec.covering((7, 9), 4)))
    fewer = dataclasses.replace(tiles, count=to_device(np.array([2], np.int32)))
    there = to_device(out)
    tile_conv_cuda(to_device(x), filters, fewer, there, False, None)
    assert np.array_equal(active_cells(fewer.to_host(), out.shape), (to_host(there) != out).all(axis=3))


@on_devices
def test_weights_go_to_the_device_once(device):
    x, filters, tiles, out, _ = Case((1, 1)).arrays()
    run(x, filters, tiles, out)
    before = filters.packed["cuda_float32"][0]
    run(x, filters, tiles, out)
    assert filters.packed["cuda_float32"][0] is before and list(filters.packed) == ["cuda_float32"]


@on_devices
@pytest.mark.parametrize("channels", [(5, 16), (16, 24)])
def test_half_precision_wants_multiples_of_16_channels(device, channels):
    x, filters, tiles, out, _ = Case(dtype=np.float16, channels=channels).arrays()
    with pytest.raises(ValueError, match="multiples of 16"):
        run(x, filters, tiles, out)


@on_devices
def test_maps_with_gaps_are_refused(device):
    x, filters, tiles, out, _ = Case(shape=(1, 14, 9)).arrays()
    with pytest.raises(ValueError, match="x is not contiguous"):
        tile_conv_cuda(to_device(x)[:, ::2], filters, to_device(tiles), to_device(out), False, None)


@pytest.mark.parametrize("capability", CAPABILITIES, ids="sm_{0[0]}{0[1]}".format)
@pytest.mark.parametrize("kernel", CUDA_KERNELS, ids=lambda kernel: kernel.kernel.__name__)
def test_machine_code(kernel, capability):
    if "CI" not in os.environ:  # there a missing compiler is a failure
        pytest.importorskip("cuda.core", reason="numba-cuda with NVVM and nvJitLink is not installed: extra 'test'")
    code = compile_kernel(kernel, capability)
    assert code.spill_bytes == 0 and code.stack_bytes == 0, "sums stay in registers"
    assert code.registers <= 128, "four blocks fit on a multiprocessor"
    assert not code.uses_float64
    assert code.uses_tensor_cores == kernel.tensor_cores == ("cp.async" in code.ptx) == ("ldmatrix" in code.ptx)
