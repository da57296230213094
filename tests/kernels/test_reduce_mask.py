"""`reduce_mask` and the tile types, on SBNet's hand-made masks and against the reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch import to_device
from kernels.reduce_mask import reduce_mask, reduce_mask_reference
from kernels.tiles import ActiveTiles, TileSpec
from kernels.workspace import Workspace

# SBNet's 5x5 test mask (benchmark/*_tests.py): ones at (1, 2) and (2, 0).
M5 = np.zeros((1, 5, 5), np.float32)
M5[0, 1, 2] = M5[0, 2, 0] = 1


def test_5x5_by_hand():
    # Size 3, stride 1, offset -1: the tile of (r, c) is the 3x3 neighbourhood of cell (r, c).
    tiles = reduce_mask(M5, TileSpec((3, 3), (1, 1), (-1, -1), (5, 5)))
    near = {(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)} | {
        (1, 0),
        (2, 0),
        (3, 0),
        (3, 1),
    }
    assert {tuple(tile) for tile in tiles.index[:, 1:].tolist()} == near
    assert tiles.index.dtype == np.int32


def test_empty_mask_has_no_tile():
    assert len(reduce_mask(np.zeros((1, 4, 4), np.float32), TileSpec.covering((4, 4), 2))) == 0


def test_mean_divides_by_the_full_tile_at_the_border():
    spec = TileSpec((4, 4), (4, 4), (-2, -2), (1, 1))  # 4 of its 16 cells are inside
    mask = np.ones((1, 4, 4), np.float32)
    assert len(reduce_mask(mask, spec, 0.25, "mean")) == 0, "4 / 16 is not strictly above 0.25"
    assert len(reduce_mask(mask, spec, 0.24, "mean")) == 1


def test_a_tile_outside_the_image_never_runs():
    spec = TileSpec((2, 2), (2, 2), (-4, 0), (2, 1))
    assert len(reduce_mask(np.ones((1, 4, 4), np.float32), spec, -1.0)) == 0


pairs = st.tuples(st.integers(1, 5), st.integers(1, 5))


def test_nan_is_above_nothing():
    spec, mask = TileSpec.covering((1, 4), 2), np.array([[[np.nan, 1, 0, np.nan]]], np.float32)
    assert reduce_mask(mask, spec).index.tolist() == [[0, 0, 0]]
    assert reduce_mask(mask, spec, -1.0).index.tolist() == [[0, 0, 0], [0, 0, 1]]
    assert len(reduce_mask(mask, spec, -1.0, "mean")) == 0


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12)),
    pairs,
    pairs,
    st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    st.tuples(st.integers(0, 5), st.integers(0, 5)),
    st.sampled_from(["max", "mean"]),
    st.sampled_from([0.5, 0.3, -1.0]),
    st.booleans(),
)
def test_equals_reference(seed, shape, size, stride, offset, count, pooling, threshold, eighths):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 9, shape).astype(np.float32) / 8 if eighths else rng.random(shape, np.float32)
    spec = TileSpec(size, stride, offset, count)
    expected = reduce_mask_reference(mask, spec, threshold, pooling)
    assert np.array_equal(reduce_mask(mask, spec, threshold, pooling).index, expected.index)
    turned = np.ascontiguousarray(mask.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert np.array_equal(reduce_mask(turned, spec, threshold, pooling).index, expected.index)


@pytest.mark.simulator
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_tile_and_all_tiles_on_the_device(share):
    spec = TileSpec.covering((9, 9), 1)  # more tiles than the block has threads
    tiles = reduce_mask(to_device(np.full((1, 9, 9), share, np.float32)), spec)
    assert tiles.index.shape == (81, 3)
    assert np.array_equal(tiles.to_host().index, ActiveTiles.all(spec).index[: 81 if share else 0])


def test_a_workspace_keeps_the_list_until_the_next_call():
    workspace, spec = Workspace(), TileSpec.covering((4, 4), 2)
    full = reduce_mask(np.ones((1, 4, 4), np.float32), spec, workspace=workspace)
    allocations = workspace.allocations
    empty = reduce_mask(np.zeros((1, 4, 4), np.float32), spec, workspace=workspace)
    assert len(full) == 4 and len(empty) == 0 and workspace.allocations == allocations
    assert np.shares_memory(full.index, reduce_mask(np.ones((1, 4, 4), np.float32), spec, workspace=workspace).index)


def test_bad_arguments_touch_nothing():
    workspace = Workspace()
    spec = TileSpec.covering((4, 4), 2)
    with pytest.raises(TypeError, match="float64, expected float32"):
        reduce_mask(np.zeros((1, 4, 4)), spec, workspace=workspace)
    with pytest.raises(ValueError, match=r"expected \(N, H, W\)"):
        reduce_mask(np.zeros((4, 4), np.float32), spec, workspace=workspace)
    with pytest.raises(ValueError, match="'median', expected one of"):
        reduce_mask(np.zeros((1, 4, 4), np.float32), spec, pooling="median", workspace=workspace)
    assert workspace.allocations == 0
    with pytest.raises(ValueError, match="tile size"):
        TileSpec((0, 2), (1, 1), (0, 0), (1, 1))


def test_tiles_cover_and_check_themselves():
    spec = TileSpec.covering((704, 801), 16)
    assert spec.count == (44, 51) and spec.total == 44 * 51 == len(ActiveTiles.all(spec))
    assert np.array_equal(ActiveTiles.all(spec).index[51], [0, 1, 0])
    with pytest.raises(ValueError, match="outside the"):
        ActiveTiles(np.array([[0, 44, 0]], np.int32), spec)
    with pytest.raises(ValueError, match="int64"):
        ActiveTiles(np.zeros((1, 3), np.int64), spec)
