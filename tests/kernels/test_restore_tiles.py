"""`restore_tiles` against its equation: any geometry, one image for many, and nothing touched on bad arguments."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch import to_device
from kernels.restore_tiles import restore_tiles, restore_tiles_reference
from kernels.tiles import ActiveTiles, TileSpec, random_tiles

pairs = st.tuples(st.integers(1, 5), st.integers(1, 5))


def test_by_hand():
    base, out = np.arange(9, dtype=np.float32).reshape(1, 3, 3, 1), np.full((2, 3, 3, 1), -1, np.float32)
    # The one tile of image 1 covers the lower right corner and sticks out of it.
    tiles = ActiveTiles(np.array([[1, 0, 0]], np.int32), TileSpec((2, 2), (2, 2), (2, 1), (1, 1)))
    assert restore_tiles(base, tiles, out) is out
    assert out[0].tolist() == np.full((3, 3, 1), -1).tolist()
    assert out[1, ..., 0].tolist() == [[-1, -1, -1], [-1, -1, -1], [-1, 7, 8]]


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 3)),
    pairs,
    pairs,
    st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    pairs,
    st.booleans(),
)
def test_equals_reference(seed, shape, size, stride, offset, count, one_base):
    rng = np.random.default_rng(seed)
    tiles = random_tiles(rng, TileSpec(size, stride, offset, count), 0.4, shape[0])
    base = rng.standard_normal((1, *shape[1:]) if one_base else shape, np.float32)
    out = rng.standard_normal(shape, np.float32)
    expected = restore_tiles_reference(base, tiles, out)
    assert np.array_equal(restore_tiles(base, tiles, out.copy()), expected)
    strided = np.repeat(out, 2, axis=3)[..., ::2]
    assert np.array_equal(restore_tiles(base, tiles, strided), expected)


def test_no_tiles_change_nothing():
    tiles = ActiveTiles(np.zeros((0, 3), np.int32), TileSpec.covering((4, 4), 2))
    out = np.ones((1, 4, 4, 2), np.float32)
    assert restore_tiles(np.zeros_like(out), tiles, out).all()


@pytest.mark.simulator
def test_half_precision_on_the_device():
    rng = np.random.default_rng(0)
    base, out = (rng.standard_normal((2, 5, 6, 2)).astype(np.float16) for _ in range(2))
    tiles = random_tiles(rng, TileSpec.covering((5, 6), 2), 0.5, 2)
    found = restore_tiles(to_device(base), to_device(tiles), to_device(out)).copy_to_host()
    assert np.array_equal(found, restore_tiles_reference(base, tiles, out))


ONES = np.ones((2, 4, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("base", "out", "error", "words"),
    [
        (ONES.astype(np.float64), ONES, TypeError, "base is float64, expected float32"),
        (ONES.astype(np.float16), ONES, TypeError, "base is float16, expected float32"),
        (ONES, ONES.astype(np.float64), TypeError, "out is float64, expected float32"),
        (ONES[0], ONES, ValueError, r"base has shape \(4, 4, 3\), expected \(N, H, W, C\)"),
        (ONES[:, :3], ONES, ValueError, r"out has shape \(2, 4, 4, 3\), expected \(2, 3, 4, 3\)"),
        (np.ones((3, 4, 4, 3), np.float32), ONES, ValueError, r"expected \(3, 4, 4, 3\)"),
        (ONES[:1], ONES[:1], ValueError, "image 1, expected images 0 to 0"),
    ],
)
def test_bad_arguments_touch_nothing(base, out, error, words):
    tiles = ActiveTiles(np.array([[0, 0, 0], [1, 1, 1]], np.int32), TileSpec.covering((4, 4), 2))
    out = out.copy()
    with pytest.raises(error, match=words):
        restore_tiles(base * 2, tiles, out)
    assert (out == 1).all()
