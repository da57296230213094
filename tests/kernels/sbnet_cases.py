"""The cases of SBNet's own tests, and NumPy oracles for them that share nothing with the kernels or their references.

SBNet is uber-research/sbnet: ``sbnet_ops/tests/test_sparse_blocks.py`` and ``benchmark/*_tests.py``. Cases bear its
names. It tests forward passes and gradients; this project has the forward ones. Its variants ``transpose`` (stacks
are always NHWC here) and ``test_var`` (scatter is always in place here) are one case, and what it repeats is run once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kernels.tiles import ActiveTiles, TileSpec
from tests.kernels.backends import BACKENDS

Pair = tuple[int, int]
Float32 = NDArray[np.float32]

BASE = 10.0  # what SBNet scatters onto
# Elements of a map up to which a backend takes part: the references loop over cells in Python, and the simulator runs
# every thread of the GPU as one of Python's.
MOST_ELEMENTS = {"reference": 200_000, "simulator": 20_000}


@dataclass(frozen=True)
class BlockCase:
    """One call of SBNet's ``runTestForOneSize``."""

    test: str
    shape: tuple[int, int, int]  # H, W, C
    size: Pair
    stride: Pair
    offset: Pair = (-1, -2)
    sparsity: float = 70
    images: int = 1
    pooling: str = "max"

    def __str__(self) -> str:
        sizes = (self.images, *self.shape, *self.size, *self.stride, *self.offset)
        return f"{self.test}-{','.join(map(str, sizes))}-{self.sparsity}-{self.pooling}"

    @property
    def elements(self) -> int:
        return self.images * int(np.prod(self.shape))

    @property
    def spec(self) -> TileSpec:
        """As many tiles as begin inside the map."""
        count = [1 + (self.shape[a] - self.offset[a] - 1) // self.stride[a] for a in (0, 1)]
        return TileSpec(self.size, self.stride, self.offset, (count[0], count[1]))

    @property
    def add(self) -> bool:
        """Whether blocks overlap. SBNet writes them all the same, where equal values hide the race; here they add."""
        return any(stride < size for stride, size in zip(self.stride, self.size, strict=True))

    def inputs(self) -> tuple[Float32, Float32, float]:
        """Map, mask and threshold.

        The map is rounded to 1/1024, so that sums of overlapping tiles are exact, whatever their order.
        """
        rng, shape = np.random.default_rng(0), (self.images, *self.shape)
        mask = rng.standard_normal(shape[:3], np.float32)
        x = np.round(rng.standard_normal(shape, np.float32) * 1024) / np.float32(1024)
        return x, mask, 1e32 if self.sparsity == 100 else float(np.percentile(x, self.sparsity))


def _permutations() -> Iterator[BlockCase]:
    shapes = ((1, 1, 1), (1, 1, 2), (1, 2, 3), (2, 1, 3), (3, 2, 1), (1, 2, 1), (3, 2, 7), (1, 1, 50176))
    for images, pooling, sparsity, shape in product((1, 7), ("mean", "max"), (0, 10, 50, 99), shapes):
        yield BlockCase("SimplePermutations", shape, (1, 1), (1, 1), (0, 0), sparsity, images, pooling)


BLOCK_CASES = (
    BlockCase("Simple", (2, 3, 2), (2, 3), (3, 4)),
    BlockCase("Simple", (5, 5, 1), (3, 3), (1, 1)),
    BlockCase("ZeroBlockCount", (2, 2, 1), (1, 1), (1, 1), (0, 0), sparsity=100),
    BlockCase("BasicGradients", (2, 2, 1), (1, 1), (1, 1), (0, 0), sparsity=0),
    BlockCase("BasicGradients", (2, 2, 1), (1, 1), (1, 1), (0, 0), sparsity=0, images=3),
    BlockCase("BasicGradients", (6, 6, 1), (1, 1), (1, 1)),
    BlockCase("OverlappingGradients", (3, 3, 1), (2, 2), (1, 1), (0, 0), sparsity=0),
    BlockCase("OverlappingGradients", (13, 12, 1), (2, 3), (1, 2), (0, 0), sparsity=0.1),
    *(
        BlockCase("Sparsities", (200, 300, 32), (3, 4), (2, 3), sparsity=share, pooling="mean")
        for share in (10, 20, 30, 40, 50, 70, 90, 99)
    ),
    BlockCase("AvgPoolingWithHoles", (2, 3, 2), (2, 3), (3, 4), pooling="mean"),
    *(BlockCase("ChannelSweep", (380, 480, c), (18, 18), (18, 18)) for c in (15, 16, 24, 32, 48, 64)),
    BlockCase("ChannelSweep", (200, 300, 32), (16, 16), (16, 16)),
    *_permutations(),
    BlockCase("UnevenKernelSizes", (8, 10, 7), (3, 4), (3, 4)),
    BlockCase("GapsSingleChannel", (8, 10, 1), (3, 4), (4, 5)),
    BlockCase("GapsMultiChannel", (8, 10, 7), (3, 4), (4, 5)),
    BlockCase("UnevenBoffs", (5, 5, 1), (3, 2), (3, 2)),
    BlockCase("UnevenNonOverlapping", (5, 3, 1), (2, 3), (2, 3), (0, 0)),
    BlockCase("UnevenNonOverlapping", (5, 3, 1), (2, 3), (2, 3)),
    BlockCase("SimpleEvenOverlapping", (3, 3, 1), (2, 2), (1, 1), (0, 0)),
    BlockCase("SimpleStridesWithHoles", (3, 3, 1), (1, 1), (2, 2)),
    BlockCase("LargeBlockSizes", (2048, 2048, 1), (1500, 490), (300, 390)),
    BlockCase("LayerSizes", (300, 480, 64), (18, 18), (18, 18)),
    BlockCase("LayerSizes", (600, 960, 64), (18, 18), (18, 18)),
    BlockCase("LayerSizes", (300, 480, 256), (18, 18), (18, 18)),
)


def on_backends(*cases):
    """Parameters (case, backend) for tests: each case on every backend that is fast enough for it."""
    entries = [(entry, ()) if isinstance(entry, str) else (entry.values[0], entry.marks) for entry in BACKENDS]
    return [
        pytest.param(case, backend, marks=marks, id=f"{case}-{backend}")
        for backend, marks in entries
        for case in cases
        if case.elements <= MOST_ELEMENTS.get(backend, case.elements)
    ]


def active_oracle(mask: Float32, spec: TileSpec, threshold: float, pooling: str) -> NDArray[np.int32]:
    """(M, 3) int32 index of the tiles whose pooled value is above the threshold, over all tiles at once."""
    value = np.full((len(mask), *spec.count), -np.inf if pooling == "max" else 0, np.float32)
    windows = _windows(mask, spec, -np.inf if pooling == "max" else 0)
    if pooling == "max":
        value = windows.max(axis=(-2, -1))
    else:
        for i, j in np.ndindex(*spec.size):  # cell after cell, as the mean is defined
            value += windows[..., i, j]
        value /= np.float32(spec.size[0] * spec.size[1])
    inside = _windows(np.ones_like(mask), spec, 0).any(axis=(-2, -1))
    return np.argwhere((value > np.float32(threshold)) & inside).astype(np.int32)


def _windows(mask: Float32, spec: TileSpec, outside: float) -> Float32:
    """(N, tile rows, tile cols, rows, cols) view of what each tile covers."""
    pads = []
    for a in (0, 1):
        before = max(0, -spec.offset[a])
        last = spec.offset[a] + spec.stride[a] * (spec.count[a] - 1) + spec.size[a]
        pads.append((before, max(0, last - mask.shape[1 + a])))
    padded = np.pad(mask, [(0, 0), *pads], constant_values=outside)
    first = [pads[a][0] + spec.offset[a] for a in (0, 1)]
    all_windows = sliding_window_view(padded, spec.size, axis=(1, 2))
    every = all_windows[:, first[0] :: spec.stride[0], first[1] :: spec.stride[1]]
    return every[:, : spec.count[0], : spec.count[1]]


def gather_oracle(x: Float32, tiles: ActiveTiles) -> Float32:
    """The stack, tile by tile."""
    stack = np.zeros((len(tiles), *tiles.spec.size, x.shape[3]), np.float32)
    for part, (n, in_map, in_tile) in zip(stack, _places(tiles, x.shape), strict=True):
        part[in_tile] = x[n][in_map]
    return stack


def scatter_oracle(stack: Float32, tiles: ActiveTiles, out: Float32, add: bool) -> Float32:
    """The map, tile by tile."""
    out = out.copy()
    for part, (n, in_map, in_tile) in zip(stack, _places(tiles, out.shape), strict=True):
        out[n][in_map] = part[in_tile] + (out[n][in_map] if add else 0)
    return out


def _places(tiles: ActiveTiles, shape: tuple[int, ...]) -> Iterator[tuple[int, tuple[slice, ...], tuple[slice, ...]]]:
    """For each tile its image, where it lies in the map, and what part of it that is."""
    spec = tiles.spec
    for n, *position in tiles.index.tolist():
        start = [spec.offset[a] + spec.stride[a] * position[a] for a in (0, 1)]
        low = [max(start[a], 0) for a in (0, 1)]
        high = [max(min(start[a] + spec.size[a], shape[1 + a]), low[a]) for a in (0, 1)]
        in_map = tuple(slice(low[a], high[a]) for a in (0, 1))
        yield n, in_map, tuple(slice(low[a] - start[a], high[a] - start[a]) for a in (0, 1))


M5 = np.zeros((1, 5, 5), np.float32)
M5[0, 1, 2] = M5[0, 2, 0] = 1
M8 = np.zeros((1, 8, 8), np.float32)
M8[0, :5, 5:] = M8[0, 2, 0] = 1


def out_size(cells: int, kernel: int, stride: int, padding: str) -> int:
    """Cells of a convolution's output along one axis, by TensorFlow's rules."""
    return -(-cells // stride) if padding == "SAME" else (cells - kernel) // stride + 1


def pads(cells: int, kernel: int, stride: int, padding: str) -> Pair:
    """Zeros before and after the map along one axis, by TensorFlow's rules."""
    reach = (out_size(cells, kernel, stride, padding) - 1) * stride + kernel
    total = max(reach - cells, 0) if padding == "SAME" else 0
    return total // 2, total - total // 2


@dataclass(frozen=True)
class ConvBlocks:
    """SBNet's blocks for one convolution: squares of ``block`` input cells, for a square kernel.

    Two lists of tiles share one index: input blocks overlap by what the kernel reaches, output tiles do not.
    """

    block: int
    kernel: int
    stride: int
    padding: str

    def __post_init__(self) -> None:
        assert (self.block - self.kernel) % self.stride == 0, "SBNet asks for this too"

    def __str__(self) -> str:
        return f"b{self.block}k{self.kernel}s{self.stride}-{self.padding}"

    @property
    def tile(self) -> int:
        """Output cells of a block."""
        return (self.block - self.kernel) // self.stride + 1

    def out_shape(self, shape: Pair) -> Pair:
        rows, cols = (out_size(cells, self.kernel, self.stride, self.padding) for cells in shape)
        return rows, cols

    def before(self, shape: Pair) -> Pair:
        """Zeros above and left of the map."""
        top, left = (pads(cells, self.kernel, self.stride, self.padding)[0] for cells in shape)
        return top, left

    def outputs(self, shape: Pair) -> TileSpec:
        """The blocks on the output map."""
        return TileSpec.covering(self.out_shape(shape), self.tile)

    def inputs(self, shape: Pair) -> TileSpec:
        """The same blocks on the input map."""
        (top, left), step = self.before(shape), self.block - self.kernel + self.stride
        return TileSpec((self.block,) * 2, (step,) * 2, (-top, -left), self.outputs(shape).count)
