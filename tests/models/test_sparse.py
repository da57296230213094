"""The tile executor against onnxruntime on the whole grid."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.tile_conv import active_cells
from kernels.tiles import ActiveTiles, TileSpec, random_tiles
from models.dense import DenseExecutor
from models.network import load_network
from models.plan import GRID_TILE, StageChoice
from models.sparse import TileExecutor
from models.steps import DenseStep, UnitStep
from tests.models.small_networks import everything_network, residual_network

pytest.importorskip("onnxruntime")
TOLERANCE = 1e-4  # float32 sums in other orders, and Winograd's transforms


def grid_of(network, seed=0, share=0.2):
    """A sparse random grid."""
    rng = np.random.default_rng(seed)
    shape = network.info.grid.shape
    return (rng.random(shape, np.float32) * (rng.random(shape) < share)).astype(np.float32)


def grid_tiles(network):
    return TileSpec.covering(network.info.grid.shape[:2], GRID_TILE)


def assert_close(found, expected, where=...):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one[where], other[where], atol=TOLERANCE, rtol=TOLERANCE)


def output_cells(network, tiles):
    """(rows, cols) bool: output cells under active tiles."""
    stride, spec = network.info.output_stride, tiles.spec
    side = (GRID_TILE // stride,) * 2
    rows, cols = (-(-cells // stride) for cells in network.info.grid.shape[:2])
    return active_cells(ActiveTiles(tiles.index, TileSpec(side, side, (0, 0), spec.count)), (1, rows, cols))[0]


@settings(max_examples=15)
@given(
    st.integers(0, 99),
    st.tuples(st.integers(17, 70), st.integers(17, 70)),
    st.lists(st.sampled_from(["basic", "bottleneck"]), max_size=3),
    st.integers(1, 9),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_random_residual_networks(seed, shape, units, width, stride, fuse):
    network = residual_network(seed, *shape, width=2 * width, units=units, stride=stride)
    choices = {s: StageChoice(max(4, GRID_TILE // s), fuse_units=fuse) for s in (stride, 2 * stride)}
    executor, dense = TileExecutor(network, choices), DenseExecutor(network, "cpu")
    every = ActiveTiles.all(grid_tiles(network))
    some = random_tiles(np.random.default_rng(seed), every.spec, 0.3)
    grid = grid_of(network, seed)
    expected = dense.run(grid, every)
    assert_close(executor.run(grid, some, exact=True), expected, output_cells(network, some))
    assert_close(executor.run(grid, every), expected)
    empty = np.zeros_like(grid)
    assert_close(executor.run(empty, some), dense.run(empty, every)), "no trace of the frames before"


@pytest.fixture(scope="module")
def shipped():
    network = load_network("kitti")
    return network, TileExecutor(network), DenseExecutor(network, "cpu")


def test_shipped_network_exact_and_all_active(shipped):
    network, executor, dense = shipped
    every = ActiveTiles.all(grid_tiles(network))
    grid = (grid_of(network, share=0.01) > 0).astype(np.float32)
    expected = dense.run(grid, every)
    assert_close(executor.run(grid, every), expected)
    some = random_tiles(np.random.default_rng(0), every.spec, 0.02)
    assert_close(executor.run(grid, some, exact=True), expected, output_cells(network, some))


def test_an_empty_frame_equals_dense_and_computes_nothing(shipped):
    network, executor, dense = shipped
    every = ActiveTiles.all(grid_tiles(network))
    nothing = ActiveTiles(every.index[:0], every.spec)
    grid = np.zeros(network.info.grid.shape, np.float32)
    assert executor.computed_fraction(nothing) == 0
    assert_close(executor.run(grid, nothing), dense.run(grid, every))


def test_one_frame_leaves_no_trace_in_the_next(shipped):
    network, executor, _ = shipped
    spec = grid_tiles(network)
    fresh = TileExecutor(network)
    for seed in range(3):
        grid, tiles = grid_of(network, seed), random_tiles(np.random.default_rng(seed), spec, 0.05)
        executor.run(grid, tiles)
    score, regression = executor.run(grid, tiles)
    for one, other in zip((score, regression), fresh.run(grid, tiles), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
def test_any_number_of_threads_gives_the_same_bytes(shipped):
    network, executor, _ = shipped
    single = TileExecutor(network, threads=1)
    tiles = random_tiles(np.random.default_rng(1), grid_tiles(network), 0.1)
    grid = grid_of(network)
    for one, other in zip(executor.run(grid, tiles), single.run(grid, tiles), strict=True):
        assert one.tobytes() == other.tobytes()
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS, "the setting of others is left alone"


def test_everything_known_and_unknown():
    network = everything_network(0)
    executor, dense = TileExecutor(network), DenseExecutor(network, "cpu")
    left = [line for line in executor.plan.steps if isinstance(line.step, DenseStep)]
    assert sorted(node.op_type for line in left for node in line.step.nodes) == ["Conv", "LeakyRelu", "Resize"]
    assert "grouped" in left[0].why and "LeakyRelu is not known" in left[0].why
    every = ActiveTiles.all(grid_tiles(network))
    for seed in range(2):
        grid = grid_of(network, seed)
        assert_close(executor.run(grid, every), dense.run(grid, every))


def test_a_stage_that_is_faster_densely_runs_so():
    network = residual_network(3, 64, 64)
    executor = TileExecutor(network, {4: StageChoice(4, dense=True)})
    dense_steps = [line for line in executor.plan.steps if isinstance(line.step, DenseStep)]
    assert dense_steps and all("faster densely" in line.why for line in dense_steps)
    every, grid = ActiveTiles.all(grid_tiles(network)), grid_of(network)
    assert_close(executor.run(grid, every), DenseExecutor(network, "cpu").run(grid, every))


def test_units_are_recognised():
    network = residual_network(0, 64, 64, units=("basic", "bottleneck"))
    fused = {stride: StageChoice(max(4, GRID_TILE // stride), fuse_units=True) for stride in (2, 4)}
    units = [line.step.unit for line in TileExecutor(network, fused).plan.steps if isinstance(line.step, UnitStep)]
    assert [(len(unit.layers), unit.scale is not None, unit.relu) for unit in units] == [
        (2, False, True),
        (3, True, False),
        (2, False, True),
    ]


def test_bad_arguments(shipped):
    network, executor, _ = shipped
    grid = np.zeros(network.info.grid.shape, np.float32)
    with pytest.raises(ValueError, match="expected"):
        executor.run(grid[:-1], ActiveTiles.all(grid_tiles(network)))
    with pytest.raises(ValueError, match="expected"):
        executor.run(grid, ActiveTiles.all(TileSpec.covering(grid.shape[:2], 8)))
