"""What must hold for any map and any tiles, whatever their size, stride and offset: drawn at random on the CPU.

The oracle is one of matrix products. With ``rows[t, i]`` = 1 where tile row t covers map row i, and ``cols`` likewise,
``rows.T @ active @ cols`` says how many active tiles cover each cell, and ``rows @ mask @ cols.T`` sums each tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from kernels.filters import Filters
from kernels.reduce_mask import reduce_mask
from kernels.sparse_gather import sparse_gather
from kernels.sparse_scatter import sparse_scatter
from kernels.tile_conv import tile_conv
from kernels.tiles import ActiveTiles, TileSpec, random_tiles


def coverage(spec, axis, cells):
    """(tiles, cells) float64: 1 where a tile covers a cell, along one axis."""
    start = spec.offset[axis] + spec.stride[axis] * np.arange(spec.count[axis])
    distance = np.arange(cells) - start[:, None]
    return ((distance >= 0) & (distance < spec.size[axis])).astype(float)


def times_covered(tiles, shape):
    """(N, H, W) how many active tiles cover each cell."""
    active = np.zeros((shape[0], *tiles.spec.count))
    active[tuple(tiles.index.T)] = 1
    return coverage(tiles.spec, 0, shape[1]).T @ active @ coverage(tiles.spec, 1, shape[2])


@dataclass
class Scene:
    """A map of small whole numbers, whose sums are exact, and tiles on it."""

    x: np.ndarray
    tiles: ActiveTiles
    rng: np.random.Generator


def pair(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def scenes(draw, overlap=True):
    size, offset, count = draw(pair(1, 5)), draw(pair(-6, 6)), draw(pair(0, 5))
    stride = draw(pair(1, 7))
    if not overlap:
        stride = (max(stride[0], size[0]), max(stride[1], size[1]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, shape = draw(st.integers(1, 3)), draw(pair(1, 12))
    x = rng.integers(-8, 9, (images, *shape, draw(st.integers(1, 5)))).astype(np.float32)
    share = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return Scene(x, random_tiles(rng, TileSpec(size, stride, offset, count), share, images), rng)


@given(scenes(overlap=False))
def test_scatter_puts_back_what_gather_took(scene):
    found = sparse_scatter(sparse_gather(scene.x, scene.tiles), scene.tiles, np.full_like(scene.x, 10))
    covered = times_covered(scene.tiles, scene.x.shape)[..., None] > 0
    assert np.array_equal(found, np.where(covered, scene.x, 10))


@given(scenes())
def test_adding_counts_the_tiles_over_a_cell(scene):
    stack = sparse_gather(scene.x, scene.tiles)
    found = sparse_scatter(stack, scene.tiles, np.full_like(scene.x, 10), add=True)
    assert np.array_equal(found, 10 + scene.x * times_covered(scene.tiles, scene.x.shape)[..., None])


@given(scenes())
def test_adding_is_the_transpose_of_gathering(scene):
    # <gather(x), s> = <x, scatter_add(s)>: what SBNet's gradient tests check, without gradients.
    stack = scene.rng.integers(-8, 9, sparse_gather(scene.x, scene.tiles).shape).astype(np.float32)
    added = sparse_scatter(stack, scene.tiles, np.zeros_like(scene.x), add=True)
    assert np.vdot(sparse_gather(scene.x, scene.tiles), stack) == np.vdot(scene.x, added)


@given(scenes(overlap=False))
def test_gather_takes_back_what_scatter_put(scene):
    spec = scene.tiles.spec
    stack = scene.rng.standard_normal((len(scene.tiles), *spec.size, scene.x.shape[3]), np.float32)
    found = sparse_gather(sparse_scatter(stack, scene.tiles, scene.x.copy()), scene.tiles)
    rows, cols = (coverage(spec, axis, scene.x.shape[1 + axis]) for axis in (0, 1))
    for part, taken, (_, row, col) in zip(stack, found, scene.tiles.index, strict=True):
        assert np.array_equal(part[taken != 0], taken[taken != 0])
        assert np.count_nonzero(taken) == rows[row].sum() * cols[col].sum() * part.shape[-1], "0 outside the map only"


@given(scenes(overlap=False))
def test_a_view_gathers_and_scatters_as_its_copy(scene):
    view = np.ascontiguousarray(scene.x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    stack = sparse_gather(view, scene.tiles)
    assert np.array_equal(stack, sparse_gather(scene.x, scene.tiles))
    out = sparse_scatter(-stack, scene.tiles, view)
    assert out is view and np.array_equal(view, sparse_scatter(-stack, scene.tiles, scene.x.copy()))


@given(scenes(), st.sampled_from([-3.0, 0.0, 0.5, 6.0]))
def test_reduce_mask_is_any_and_mean_of_the_cells_in_reach(scene, threshold):
    mask, spec = np.ascontiguousarray(scene.x[..., 0]), scene.tiles.spec
    rows, cols = coverage(spec, 0, mask.shape[1]), coverage(spec, 1, mask.shape[2])
    reached = rows @ (mask > threshold) @ cols.T > 0
    assert np.array_equal(reduce_mask(mask, spec, threshold).index, np.argwhere(reached))
    inside = np.outer(rows.sum(1), cols.sum(1)) > 0
    sums = rows @ mask @ cols.T
    # Whole numbers: sums are exact, and a mean that equals the threshold is exact too.
    above = (sums > threshold * spec.size[0] * spec.size[1]) & inside
    assert np.array_equal(reduce_mask(mask, spec, threshold, "mean").index, np.argwhere(above))


@given(scenes())
def test_a_fuller_mask_never_has_fewer_tiles(scene):
    mask, spec = np.ascontiguousarray(scene.x[..., 0]), scene.tiles.spec
    more = np.maximum(mask, scene.rng.integers(-8, 9, mask.shape)).astype(np.float32)
    for pooling in ("max", "mean"):
        some, all_of_them = ({*map(tuple, reduce_mask(m, spec, 2.0, pooling).index)} for m in (mask, more))
        assert some <= all_of_them


@dataclass
class Layer:
    """A convolution with its maps, and the dense result where every cell is computed."""

    x: np.ndarray
    filters: Filters
    out: np.ndarray
    residual: np.ndarray | None
    relu: bool
    dense: np.ndarray


@st.composite
def layers(draw, transposed=False):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    stride = draw(st.integers(1, 3))
    kernel = (stride, stride) if transposed else draw(pair(1, 4))
    padding = (0, 0) if transposed else (draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1)))
    images, cells = draw(st.integers(1, 2)), draw(pair(4, 11))
    channels, columns = draw(st.sampled_from([(1, 1), (3, 5), (4, 4), (8, 17)]))
    x = rng.standard_normal((images, *cells, channels), np.float32)
    weights = rng.standard_normal((*kernel, channels, columns), np.float32) / np.float32(np.sqrt(channels * 4))
    filters = Filters(weights, rng.standard_normal(columns, np.float32), stride, padding, transposed)
    dense = _upsampled(x, filters) if transposed else _correlated(x, filters)
    out = rng.standard_normal(dense.shape, np.float32)
    residual = rng.standard_normal(dense.shape, np.float32) if draw(st.booleans()) else None
    relu = draw(st.booleans())
    dense = dense if residual is None else dense + residual
    return Layer(x, filters, out, residual, relu, np.maximum(dense, 0) if relu else dense)


def _correlated(x, filters):
    """SciPy's correlation, channel by channel, of the map with the same padding all round."""
    around = [(0, 0), *((p, p) for p in filters.padding), (0, 0)]
    padded, step = np.pad(x.astype(np.float64), around), filters.stride
    channels, columns = filters.channels
    images = []
    for image in padded:
        sums = [
            sum(correlate2d(image[..., c], filters.weights[..., c, k], mode="valid") for c in range(channels))
            for k in range(columns)
        ]
        images.append(np.stack(sums, axis=-1)[::step, ::step])
    return np.stack(images) + filters.bias


def _upsampled(x, filters):
    """Each cell becomes a square: cell times weights, by a Kronecker product per pair of channels."""
    channels, columns = filters.channels
    images = [
        np.stack(
            [sum(np.kron(image[..., c], filters.weights[..., c, k]) for c in range(channels)) for k in range(columns)],
            axis=-1,
        )
        for image in x.astype(np.float64)
    ]
    return np.stack(images) + filters.bias


def run(layer, tiles, out, method="auto"):
    return tile_conv(layer.x, layer.filters, tiles, out, layer.relu, layer.residual, method=method)


def assert_near(found, expected):
    """Float32 sums of up to a few hundred products, and Winograd's transforms."""
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)


def all_tiles(spec, images):
    cells = np.indices((images, *spec.count), dtype=np.int32).reshape(3, -1)
    return ActiveTiles(np.ascontiguousarray(cells.T), spec)


@settings(max_examples=60)
@given(layers() | layers(transposed=True), st.integers(1, 7))
def test_convolution_of_all_tiles_is_the_dense_one(layer, tile_cells):
    tiles = all_tiles(TileSpec.covering(layer.out.shape[1:3], tile_cells), len(layer.x))
    assert_near(run(layer, tiles, layer.out.copy()), layer.dense)


@settings(max_examples=60)
@given(layers() | layers(transposed=True), st.data())
def test_convolution_computes_active_cells_and_keeps_the_others(layer, data):
    size, offset, count = data.draw(pair(1, 6)), data.draw(pair(-5, 5)), data.draw(pair(0, 4))
    gap = data.draw(pair(0, 2))
    spec = TileSpec(size, (size[0] + gap[0], size[1] + gap[1]), offset, count)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    tiles = random_tiles(rng, spec, 0.6, len(layer.x))
    found = run(layer, tiles, layer.out.copy())
    active = times_covered(tiles, layer.out.shape) > 0
    assert np.array_equal(found[~active], layer.out[~active])
    assert_near(found[active], layer.dense[active])


@settings(max_examples=40)
@given(layers(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_two_halves_of_the_tiles_make_the_whole(layer, tile_cells, seed):
    spec = TileSpec.covering(layer.out.shape[1:3], tile_cells)
    tiles = all_tiles(spec, len(layer.x))
    first = np.random.default_rng(seed).random(len(tiles)) < 0.5
    whole, halves = run(layer, tiles, layer.out.copy(), "direct"), layer.out.copy()
    for part in (first, ~first):
        run(layer, ActiveTiles(tiles.index[part], spec), halves, "direct")
    assert np.array_equal(whole, halves), "a cell's sum does not depend on which other tiles run"


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8])
def test_other_types_of_numbers_are_refused(dtype):
    x, tiles = np.zeros((1, 4, 4, 1), dtype), ActiveTiles.all(TileSpec.covering((4, 4), 2))
    filters = Filters(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))
    for call in (
        lambda: reduce_mask(x[..., 0], tiles.spec),
        lambda: sparse_gather(x, tiles),
        lambda: sparse_scatter(np.zeros((4, 2, 2, 1), dtype), tiles, x),
        lambda: tile_conv(x, filters, tiles, np.zeros((1, 4, 4, 1), np.float32)),
    ):
        with pytest.raises(TypeError, match="expected float32"):
            call()
