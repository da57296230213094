"""SBNet's ``benchmark/*_tests.py``: masks, blocks and convolutions worked out by hand, and random ones.

Two masks: `M5`, 5×5 with ones at (1, 2) and (2, 0); `M8`, 8×8 with ones in rows 0 to 4 of columns 5 to 7 and at (2, 0).
Maps and weights are ones unless said, so an output counts the input cells under the kernel. SBNet's gradient tests
have no counterpart, and assert nothing there.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from kernels.filters import Filters
from kernels.table import OPS
from kernels.tiles import ActiveTiles, TileSpec
from tests.kernels.backends import BACKENDS, assert_same, call
from tests.kernels.sbnet_cases import M5, M8, ConvBlocks, on_backends, out_size, pads, scatter_oracle

TABLE = {op.name: op for op in OPS}
CONV = TABLE["tile_conv_3x3"]  # the function of every geometry
# A backend joins as soon as the table names its kernels.
CONV_BACKENDS = BACKENDS if CONV.cuda else BACKENDS[:2]
BASIC = ConvBlocks(3, 3, 1, "SAME")
LARGE = ConvBlocks(5, 2, 1, "VALID")
M5_ACTIVE = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3), (3, 0), (3, 1)]
M8_ACTIVE = [(0, 0), (0, 1), (1, 1)]


def listed(places):
    """(M, 3) index of places in image 0."""
    return np.array([(0, *place) for place in places], np.int32).reshape(-1, 3)


def active(backend, mask, blocks):
    """The active blocks, as tiles of the output."""
    shape = mask.shape[1:]
    tiles = call(backend, TABLE["reduce_mask"], mask=mask, spec=blocks.inputs(shape), threshold=0.0, pooling="max")
    return ActiveTiles(tiles.index, blocks.outputs(shape))


def convolved(backend, x, weights, blocks, tiles, base):
    """The sparse convolution by SBNet's conventions, onto a copy of ``base``."""
    filters = Filters(weights, np.zeros(weights.shape[3], np.float32), blocks.stride, blocks.before(x.shape[1:3]))
    return call(backend, CONV, x=x, filters=filters, tiles=tiles, out=base)


def counted(backend, mask, blocks, tiles=None, base=0):
    """The sparse convolution of ones with ones: (rows, cols)."""
    shape, ones = mask.shape[1:], np.ones((*mask.shape, 1), np.float32)
    weights = np.ones((blocks.kernel, blocks.kernel, 1, 1), np.float32)
    out = np.full((1, *blocks.out_shape(shape), 1), base, np.float32)
    tiles = active(backend, mask, blocks) if tiles is None else tiles
    return convolved(backend, ones, weights, blocks, tiles, out)[0, :, :, 0]


def dense(x, weights, blocks):
    """TensorFlow's convolution in float64, by windows of the padded map."""
    around = [pads(cells, blocks.kernel, blocks.stride, blocks.padding) for cells in x.shape[1:3]]
    padded = np.pad(x.astype(np.float64), [(0, 0), *around, (0, 0)])
    windows = sliding_window_view(padded, weights.shape[:2], axis=(1, 2))[:, :: blocks.stride, :: blocks.stride]
    return np.einsum("nijcrs,rsck->nijk", windows, weights.astype(np.float64))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("mask", "blocks", "places"), [(M5, BASIC, M5_ACTIVE), (M8, LARGE, M8_ACTIVE)])
def test_reduce_mask(mask, blocks, places, backend):
    assert np.array_equal(active(backend, mask, blocks).index, listed(places))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("mask", "blocks", "places"), [(M5, BASIC, M5_ACTIVE), (M8, LARGE, M8_ACTIVE)])
def test_sparse_gather(mask, blocks, places, backend):
    shape = mask.shape[1:]
    x = np.arange(mask.size, dtype=np.float32).reshape(1, *shape, 1)
    spec = blocks.inputs(shape)
    padded = np.pad(x[0, :, :, 0], [(-spec.offset[0], blocks.block), (-spec.offset[1], blocks.block)])
    step, size = spec.stride[0], blocks.block
    expected = [padded[step * row : step * row + size, step * col : step * col + size] for row, col in places]
    stack = call(backend, TABLE["sparse_gather"], x=x, tiles=ActiveTiles(listed(places), spec))
    assert np.array_equal(stack[..., 0], expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sparse_scatter(backend):
    x = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    tiles = active(backend, M5, BASIC)
    stack = call(backend, TABLE["sparse_gather"], x=x, tiles=ActiveTiles(tiles.index, BASIC.inputs((5, 5))))
    sums = stack.sum(axis=(1, 2), keepdims=True)  # a VALID convolution of the stack with ones
    out = call(backend, TABLE["sparse_scatter"], stack=sums, tiles=tiles, out=np.zeros_like(x))
    assert out[0, :, :, 0].tolist() == [
        [0, 21, 27, 33, 0],
        [33, 54, 63, 72, 0],
        [63, 99, 108, 117, 0],
        [93, 144, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_upsample_indices(backend):
    # SBNet lists the cells of blocks; here, tiles of a map that holds its own coordinates.
    x = np.stack([np.zeros((5, 5)), *np.indices((5, 5))], axis=-1).astype(np.float32)[None]
    places = listed([(1, 2), (2, 0)])
    stack = call(
        backend, TABLE["sparse_gather"], x=x, tiles=ActiveTiles(places, TileSpec((3, 3), (1, 1), (0, 0), (3, 3)))
    )
    first, second = product((0,), (1, 2, 3), (2, 3, 4)), product((0,), (2, 3, 4), (0, 1, 2))
    assert stack.reshape(-1, 3).tolist() == [list(cell) for cell in (*first, *second)]
    around = TileSpec((3, 3), (1, 1), (-1, -1), (5, 5))
    stack = call(backend, TABLE["sparse_gather"], x=x, tiles=ActiveTiles(listed([(2, 2)]), around))
    assert (stack[0, :, :, 1:] - 2).reshape(-1, 2).tolist() == [list(cell) for cell in product((-1, 0, 1), repeat=2)]


@pytest.mark.parametrize("backend", CONV_BACKENDS)
def test_sparse_conv2d_of_given_blocks(backend):
    for padding, expected in (
        ("VALID", [[0, 0, 0], [0, 0, 9], [9, 0, 0]]),
        ("SAME", [[0] * 5, [0, 0, 9, 0, 0], [6, 0, 0, 0, 0], [0] * 5, [0] * 5]),
    ):
        blocks = ConvBlocks(3, 3, 1, padding)
        tiles = ActiveTiles(listed([(1, 2), (2, 0)]), blocks.outputs((5, 5)))
        assert_same(CONV, counted(backend, M5, blocks, tiles), np.array(expected, np.float32))


SAME_3 = [[0, 6, 6, 6, 0], [6, 9, 9, 9, 0], [6, 9, 9, 9, 0], [6, 9, 0, 0, 0], [0, 0, 0, 0, 0]]
SAME_4 = [[4, 6, 6, 6, 0], [6, 9, 9, 9, 0], [6, 9, 9, 9, 0], [6, 9, 9, 9, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("backend", CONV_BACKENDS)
@pytest.mark.parametrize(
    ("mask", "blocks", "expected"),
    [
        pytest.param(M5, ConvBlocks(3, 3, 1, "VALID"), [[9, 9, 9], [9, 9, 9], [9, 0, 0]], id="valid"),
        pytest.param(M5, BASIC, SAME_3, id="same"),
        pytest.param(M5, ConvBlocks(4, 3, 1, "SAME"), SAME_4, id="even_block"),
        pytest.param(M5, ConvBlocks(5, 3, 2, "SAME"), [[4, 6, 0], [6, 9, 0], [0, 0, 0]], id="strides"),
        pytest.param(M8, LARGE, [[4] * 7] * 4 + [[0] * 4 + [4] * 3] * 3, id="large_block_strides"),
    ],
)
def test_sparse_conv2d_with_mask(mask, blocks, expected, backend):
    assert_same(CONV, counted(backend, mask, blocks), np.array(expected, np.float32))


@pytest.mark.parametrize("backend", CONV_BACKENDS)
def test_sparse_conv2d_custom_keeps_what_is_in_the_output(backend):
    # SBNet computes in place of its input, so there inactive cells keep the input: ones. Here it is what ``out`` held.
    expected = np.array(SAME_3, np.float32)
    assert_same(CONV, counted(backend, M5, BASIC, base=1), np.where(expected == 0, np.float32(1), expected))


@pytest.mark.parametrize("backend", CONV_BACKENDS)
def test_an_empty_mask_changes_nothing(backend):
    # SBNet convolves one block at the origin then.
    found = counted(backend, np.zeros_like(M5), BASIC, base=-7)
    assert np.array_equal(found, np.full((5, 5), -7, np.float32))


@dataclass(frozen=True)
class RandomConv:
    """SBNet's random maps: 10 images of 28×28×10, a sixth of their cells active."""

    blocks: ConvBlocks
    elements = 10 * 28 * 28 * 10

    def __str__(self):
        return str(self.blocks)


CORRECTNESS = [
    RandomConv(ConvBlocks(kernel + 2, kernel, stride, padding))
    for kernel, padding, stride in product((1, 3, 5), ("SAME", "VALID"), (1, 2))
]
# A block as large as the kernel is SBNet's "matmul" variant: one output cell per block.
MATMUL = [
    RandomConv(ConvBlocks(kernel, kernel, 1, padding)) for kernel, padding in product((1, 3, 5), ("SAME", "VALID"))
]


@pytest.mark.parametrize(("case", "backend"), on_backends(*CORRECTNESS, *MATMUL))
def test_sparse_conv2d_correctness(case, backend):
    rng, blocks = np.random.default_rng(0), case.blocks
    x = rng.uniform(-1, 1, (10, 28, 28, 10)).astype(np.float32)
    weights = rng.uniform(-1, 1, (blocks.kernel, blocks.kernel, 10, 10)).astype(np.float32)
    mask = (rng.uniform(-5, 1, x.shape[:3]) > 0).astype(np.float32)
    expected = dense(x, weights, blocks)
    base = np.full(expected.shape, np.nan, np.float32)
    tiles = active(backend, mask, blocks)
    found = convolved(backend, x, weights, blocks, tiles, base)
    ones = np.ones((blocks.kernel, blocks.kernel, 1, 1), np.float32)
    covered = dense(mask[..., None], ones, blocks)[..., 0] > 0
    # SBNet allows rtol 1e-2, atol 0.1. NaN tells a cell that no tile computed.
    assert covered.mean() > 0.1
    assert_same(CONV, found[covered], expected[covered].astype(np.float32))
    stack = np.ones((len(tiles), *tiles.spec.size, 1), np.float32)
    computed = scatter_oracle(stack, tiles, np.zeros((*base.shape[:3], 1), np.float32), add=False)
    assert np.array_equal(np.isnan(found), np.broadcast_to(computed == 0, found.shape))


SIZES = [(n, k, s) for n, k, s in product((6, 7, 10, 11), (1, 2, 3, 4, 7), (1, 2, 3)) if k <= n]


@pytest.mark.parametrize("backend", CONV_BACKENDS[:2])  # 228 launches would take the simulator minutes
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_conv_dims(padding, backend):
    for cells, kernel, stride in SIZES:
        blocks = ConvBlocks(kernel, kernel, stride, padding)
        first = -pads(cells, kernel, stride, padding)[0]
        last = cells if padding == "SAME" else cells - kernel + 1
        starts = range(first, first + last, stride)
        inside = [len(range(max(start, 0), min(start + kernel, cells))) for start in starts]
        assert out_size(cells, kernel, stride, padding) == len(inside)
        shape = (cells, cells)
        tiles = ActiveTiles.all(blocks.outputs(shape))
        found = counted(backend, np.ones((1, *shape), np.float32), blocks, tiles)
        assert_same(CONV, found, np.outer(inside, inside).astype(np.float32))


def test_deconv_dims():
    for cells, kernel, stride in SIZES:
        assert out_size(cells * stride, kernel, stride, "SAME") == cells


def test_padding():
    def around(stride, padding):
        return [*pads(5, 2, stride, padding), *pads(6, 3, stride, padding)]

    assert around(1, "SAME") == [0, 1, 1, 1]
    assert around(2, "SAME") == [0, 1, 0, 1]
    assert around(1, "VALID") == [0, 0, 0, 0]


def test_bad_geometry():
    ones = np.ones((2, 3, 1, 1), np.float32)
    with pytest.raises(ValueError, match="weights has shape"):
        Filters(ones[..., None], np.zeros(1, np.float32))
    with pytest.raises(ValueError, match="stride 0"):
        Filters(ones, np.zeros(1, np.float32), stride=0)
