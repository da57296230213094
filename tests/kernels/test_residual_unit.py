"""`residual_unit` on the CPU against the equation, and against the same unit run step by step on the whole map."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.filters import Filters
from kernels.residual_unit import random_unit, residual_unit, residual_unit_reference
from kernels.tile_conv import active_cells, tile_conv
from kernels.tiles import ActiveTiles, TileSpec, random_tiles
from kernels.unit import Unit
from kernels.workspace import Workspace


@settings(max_examples=40)
@given(
    st.integers(0, 99),
    st.tuples(st.integers(1, 2), st.integers(1, 17), st.integers(1, 17)),
    st.lists(st.tuples(st.sampled_from([1, 3, 5]), st.integers(1, 20)), min_size=1, max_size=3),
    st.booleans(),
    st.integers(1, 9),
    st.tuples(st.integers(-5, 5), st.integers(-5, 5)),
)
def test_any_unit_equals_the_reference(seed, shape, layers, before, tile, offset):
    rng = np.random.default_rng(seed)
    sizes, widths = zip(*layers, strict=True)
    unit = random_unit(rng, (widths[-1], *widths), sizes, before)
    images, rows, cols = shape
    count = tuple(max(0, -(-(cells - first) // tile)) for cells, first in zip((rows, cols), offset, strict=True))
    tiles = random_tiles(rng, TileSpec((tile,) * 2, (tile,) * 2, offset, count), 0.6, images)
    x, out = rng.standard_normal((2, images, rows, cols, unit.channels), np.float32)
    expected = residual_unit_reference(x, unit, tiles, out)
    found = residual_unit(x, unit, tiles, out.copy())
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    idle = ~active_cells(tiles, out.shape)
    assert np.array_equal(found[idle], out[idle])


def test_equals_its_layers_one_after_the_other():
    rng = np.random.default_rng(0)
    unit = random_unit(rng, (24, 24, 24), (3, 3), before=False)
    x = rng.standard_normal((1, 30, 26, 24), np.float32)
    every = ActiveTiles.all(TileSpec.covering((30, 26), 8))
    hidden, out, fused = np.zeros((3, *x.shape), np.float32)
    tile_conv(x, unit.layers[0], every, hidden, relu=True)
    tile_conv(hidden, unit.layers[1], every, out, relu=True, residual=x)
    np.testing.assert_allclose(residual_unit(x, unit, every, fused), out, atol=1e-4)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
def test_any_number_of_threads_gives_the_same_bytes():
    rng = np.random.default_rng(1)
    unit = random_unit(rng, (20, 7, 9, 20), (1, 3, 1), before=True)
    x = rng.standard_normal((1, 40, 30, 20), np.float32)
    tiles = random_tiles(rng, TileSpec.covering((40, 30), 7), 0.7)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        try:
            results.append(residual_unit(x, unit, tiles, np.zeros_like(x)).tobytes())
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert results[0] == results[1]


def test_a_workspace_is_asked_only_once():
    rng = np.random.default_rng(0)
    unit, x = random_unit(rng, (8, 8, 8), (3, 3), before=False), np.zeros((1, 30, 30, 8), np.float32)
    tiles, workspace = ActiveTiles.all(TileSpec.covering((30, 30), 8)), Workspace()
    residual_unit(x, unit, tiles, np.zeros_like(x), workspace)
    before = workspace.allocations
    residual_unit(x, unit, ActiveTiles(tiles.index[1:], tiles.spec), np.zeros_like(x), workspace)
    assert workspace.allocations == before


UNIT = random_unit(np.random.default_rng(0), (4, 2, 4), (3, 1), before=True)
TILES = ActiveTiles.all(TileSpec.covering((9, 9), 4))
MAP = np.zeros((1, 9, 9, 4), np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"x": MAP.astype(np.float64)}, TypeError, "x is float64, expected float32"),
        ({"x": MAP[..., :3]}, ValueError, "x has shape"),
        ({"out": MAP[:, 1:]}, ValueError, "out has shape"),
        ({"x": MAP[:, ::-1]}, ValueError, "not contiguous"),
        ({"tiles": ActiveTiles(TILES.index[:0], TileSpec((4, 4), (3, 4), (0, 0), (3, 3)))}, ValueError, "overlap"),
        ({"tiles": ActiveTiles(np.array([[1, 0, 0]], np.int32), TILES.spec)}, ValueError, "names image 1"),
    ],
)
def test_bad_arguments_touch_nothing(changes, error, words):
    arguments = {"x": MAP, "unit": UNIT, "tiles": TILES, "out": np.ones_like(MAP)} | changes
    before = arguments["out"].copy()
    with pytest.raises(error, match=words):
        residual_unit(**arguments)
    assert np.array_equal(arguments["out"], before)


def test_in_place_is_refused():
    with pytest.raises(ValueError, match="out is also the input"):
        residual_unit(MAP, UNIT, TILES, MAP)


def layer(size, inside, outside, **geometry):
    weights = np.zeros((size, size, inside, outside), np.float32)
    return Filters(weights, np.zeros(outside, np.float32), **({"padding": (size // 2,) * 2} | geometry))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (((),), "at least one layer"),
        (((layer(3, 4, 4, stride=2),),), "expected an odd square, stride 1"),
        (((layer(2, 4, 4),),), "expected an odd square"),
        (((layer(3, 4, 2), layer(3, 4, 4)),), "layer 1 takes 4 channels"),
        (((layer(3, 4, 4),), np.ones(4, np.float32), None), "both or neither"),
    ],
)
def test_bad_units(arguments, words):
    with pytest.raises(ValueError, match=words):
        Unit(*arguments)
