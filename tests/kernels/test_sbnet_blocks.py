"""SBNet's ``test_sparse_blocks.py``: a mask to tiles, tiles out of a map, tiles into a map, bit for bit.

Every backend is held against oracles in `sbnet_cases` that work on whole tiles. On maps of more than 200,000 elements
only compiled backends are, because the references loop over cells in Python.
"""

import numpy as np
import pytest

from kernels.table import OPS
from kernels.tiles import ActiveTiles, TileSpec
from tests.kernels.backends import BACKENDS, COMPILED, call
from tests.kernels.sbnet_cases import (
    BASE,
    BLOCK_CASES,
    M5,
    active_oracle,
    gather_oracle,
    on_backends,
    scatter_oracle,
)

TABLE = {op.name: op for op in OPS}


@pytest.mark.parametrize(("case", "backend"), on_backends(*BLOCK_CASES))
def test_reduce_gather_scatter(case, backend):
    x, mask, threshold = case.inputs()
    spec = case.spec
    name = "reduce_mask" if case.pooling == "max" else "reduce_mask_mean"
    tiles = call(backend, TABLE[name], mask=mask, spec=spec, threshold=threshold, pooling=case.pooling)
    # SBNet compares sets and sorts, because its GPU lists tiles in any order; here the list itself is promised.
    assert np.array_equal(tiles.index, active_oracle(mask, spec, threshold, case.pooling))
    assert tiles.index.dtype == np.int32, "SBNet's int16 ends at 32,767 tiles"
    assert np.array_equal(tiles.index, sorted(tiles.index.tolist()) or np.empty((0, 3)))
    if case.sparsity == 100:
        assert len(tiles) == 0, "SBNet makes up one block (0, 0, 0) where none is active"
    stack = call(backend, TABLE["sparse_gather"], x=x, tiles=tiles)
    filled = stack[: len(tiles)]  # a device stack has room for one tile at least
    assert np.array_equal(filled, gather_oracle(x, tiles))
    base = np.full(x.shape, BASE, np.float32)
    scatter = TABLE["sparse_scatter_add" if case.add else "sparse_scatter"]
    found = call(backend, scatter, stack=stack, tiles=tiles, out=base, add=case.add)
    assert np.array_equal(found, scatter_oracle(filled, tiles, base, case.add))


def test_the_cases_have_work_to_do():
    shares = []
    for case in BLOCK_CASES:
        if case.elements < 2_000_000:
            _, mask, threshold = case.inputs()
            active = active_oracle(mask, case.spec, threshold, case.pooling)
            shares.append(len(active) / (case.images * case.spec.total))
    assert np.mean(np.array(shares) > 0) > 0.6, "most have active tiles"
    assert np.mean((np.array(shares) > 0) & (np.array(shares) < 1)) > 0.3, "many have both kinds"


def test_the_oracles_on_a_map_by_hand():
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    tiles = ActiveTiles(np.array([[0, 0, 0], [0, 1, 1]], np.int32), TileSpec((2, 2), (2, 2), (-1, 0), (2, 2)))
    stack = gather_oracle(x, tiles)
    assert stack[..., 0].tolist() == [[[0, 0], [1, 2]], [[6, 0], [9, 0]]]
    kept = scatter_oracle(stack, tiles, np.full_like(x, BASE), add=False)
    assert kept[0, :, :, 0].tolist() == [[1, 2, 10], [10, 10, 6], [10, 10, 9]]
    assert active_oracle(x[..., 0], tiles.spec, 8, "max").tolist() == [[0, 1, 1]]
    assert active_oracle(x[..., 0], tiles.spec, 3.7, "mean").tolist() == [[0, 1, 0], [0, 1, 1]], "means 6 and 15/4"


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(("size", "stride"), [((3, 3), (1, 1)), ((2, 3), (1, 3)), ((2, 3), (2, 2))])
def test_overlapping_tiles_are_not_written(size, stride, backend):
    tiles = ActiveTiles.all(TileSpec(size, stride, (-1, -2), (2, 2)))
    stack = np.zeros((len(tiles), *size, 1), np.float32)
    with pytest.raises(ValueError, match="overlap"):
        call(backend, TABLE["sparse_scatter"], stack=stack, tiles=tiles, out=np.zeros((1, 5, 5, 1), np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_mean_of_a_tile_that_sticks_out_is_diluted(backend):
    # As in SBNet: 1 of the corner tile's 4 cells is inside, so a mask of ones has the mean 1/4 there.
    spec = TileSpec((2, 2), (2, 2), (-1, -1), (3, 3))
    ones = np.ones_like(M5)
    for threshold, count in ((0.24, 9), (0.25, 8), (0.49, 8), (0.5, 4)):
        tiles = call(backend, TABLE["reduce_mask_mean"], mask=ones, spec=spec, threshold=threshold, pooling="mean")
        assert len(tiles) == count, threshold
