"""`voxelize` against its equation, by hand, by reference and on real frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.launch import to_device
from kernels.voxelize import voxelize, voxelize_reference
from kernels.workspace import Workspace

SHAPE = (6, 8, 5)  # two height bins, below, above, intensity
GRID = {"origin_m": (-1.0, 2.0, -0.5), "cell_m": 0.5, "z_bin_m": 1.0, "shape": SHAPE}


def grid_of(*points):
    return voxelize(np.array(points, np.float32).reshape(-1, 4), **GRID)


def test_by_hand():
    grid = grid_of([-1.0, 2.0, -0.5, 0.25], [-0.51, 2.49, 0.49, 0.75], [0.0, 3.0, 1.49, 0.5])
    assert grid[0, 0].tolist() == [1, 0, 0, 0, 0.75]
    assert grid[2, 2].tolist() == [0, 1, 0, 0, 0.5]
    assert grid.sum() == 1 + 0.75 + 1 + 0.5


def test_below_and_above():
    grid = grid_of([0, 3, -0.51, 0.0], [0, 3, 1.5, 0.0])
    assert grid[2, 2].tolist() == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("x", [-1.0001, 2.0, np.nan, np.inf, -np.inf, 1e30])
def test_outside_falls_away(x):
    assert grid_of([x, 3, 0, 1.0]).sum() == 0
    assert grid_of([0, 3, np.nan, 1.0]).sum() == 0


def test_edges_are_half_open():
    grid = grid_of([1.9999, 5.9999, 0, 0], [-1.0, 2.0, 0, 0])
    assert grid[5, 7, 0] == 1 and grid[0, 0, 0] == 1


def test_order_does_not_matter():
    points = np.random.default_rng(0).uniform((-2, 1, -2, 0), (3, 7, 3, 1), (500, 4)).astype(np.float32)
    assert np.array_equal(voxelize(points, **GRID), voxelize(points[::-1].copy(), **GRID))


def test_nan_and_negative_intensities_count_as_zero():
    grid = grid_of([0, 3, 0, np.nan], [0, 3, 0, -0.5], [0, 3, 0, 0.25], [0, 3, 0, np.nan], [-1, 2, 0, np.nan])
    assert grid[2, 2, 4] == 0.25 and grid[0, 0, 4] == 0 and grid[0, 0, 0] == 1


@pytest.mark.simulator
def test_edge_cases_on_the_device():
    points = np.random.default_rng(0).uniform(-3, 7, (60, 4)).astype(np.float32)
    points[:40] = np.random.default_rng(1).choice([np.nan, np.inf, -1.0, 0.0, -0.0, 1e30, 2.5], (40, 4))
    out = to_device(np.full(SHAPE, 7, np.float32))
    with np.errstate(all="ignore"):  # the simulator computes with NumPy's numbers, which warn of NaN
        assert voxelize(to_device(points), **GRID, out=out) is out
    assert np.array_equal(out.copy_to_host(), voxelize_reference(points, **GRID))


def test_no_points_and_reuse():
    out = np.full(SHAPE, 7, np.float32)
    assert voxelize(np.zeros((0, 4), np.float32), **GRID, out=out) is out
    assert not out.any()


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 60),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(4, 9)),
)
def test_equals_reference(seed, count, shape):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-4, 4, (count, 4)).astype(np.float32)
    points[rng.random((count, 4)) < 0.05] = np.nan
    points[:, 3] = rng.random(count)
    # Coordinates on cell edges are where implementations differ.
    on_edge = rng.random(count) < 0.3
    points[on_edge, 0] = np.round(points[on_edge, 0] / 0.3) * np.float32(0.3)
    arguments = ((float(rng.uniform(-3, 3)), 0.0, -1.0), 0.3, 0.4, shape)
    assert np.array_equal(voxelize(points, *arguments), voxelize_reference(points, *arguments))


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 60), st.tuples(*[st.integers(1, 7)] * 2, st.integers(4, 7))), max_size=5),
)
def test_a_frame_leaves_no_trace_in_the_next(seed, frames):
    rng, workspace = np.random.default_rng(seed), Workspace()
    for count, shape in frames:
        points = rng.uniform(-2, 5, (count, 4)).astype(np.float32)
        arguments = (points, (0.0, 0.0, -1.0), 0.6, 0.4, shape)
        expected = voxelize_reference(*arguments)
        assert np.array_equal(voxelize(*arguments, workspace=workspace), expected)
        # Another grid through the same workspace does not disturb the one that it keeps.
        assert np.array_equal(voxelize(*arguments, out=np.full(shape, 7, np.float32), workspace=workspace), expected)


def test_points_of_any_layout():
    wide = np.random.default_rng(3).uniform(-1, 5, (50, 9)).astype(np.float32)
    expected = voxelize_reference(wide[::2, 1:5].copy(), **GRID)
    assert expected.any() and np.array_equal(voxelize(wide[::2, 1:5], **GRID), expected)
    assert np.array_equal(voxelize(np.asfortranarray(wide[::2, 1:5]), **GRID), expected)


def test_equals_reference_on_a_real_frame(shared):
    points = np.fromfile(shared / "kitti/training/velodyne/000002.bin", np.float32).reshape(-1, 4)
    arguments = ((0.0, -40.0, -3.0), 0.1, 0.2, (704, 800, 23))
    grid = voxelize(points, *arguments)
    assert np.array_equal(grid, voxelize_reference(points, *arguments))
    assert 10_000 < np.count_nonzero(grid[..., :22]) < 200_000


@pytest.mark.parametrize(
    ("points", "error", "words"),
    [
        (np.zeros((3, 4)), TypeError, "float64, expected float32"),
        (np.zeros((3, 3), np.float32), ValueError, r"\(3, 3\), expected \(N, 4\)"),
        (np.zeros(4, np.float32), ValueError, r"expected \(N, 4\)"),
    ],
)
def test_bad_points(points, error, words):
    with pytest.raises(error, match=words):
        voxelize(points, **GRID)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"shape": (6, 8, 4)}, ValueError, r"out has shape \(6, 8, 5\), expected \(6, 8, 4\)"),
        ({"shape": (6, 8, 3)}, ValueError, "expected positive sizes, > 3 channels"),
        ({"cell_m": -0.1}, ValueError, "positive sizes"),
        ({"points": np.zeros((1, 3), np.float32)}, ValueError, r"\(1, 3\), expected \(N, 4\)"),
        ({"out": np.ones(SHAPE)}, TypeError, "out is float64, expected float32"),
        ({"out": np.ones((8, 6, 5), np.float32).transpose(1, 0, 2)}, ValueError, "out is not contiguous, expected"),
        ({"out": [1]}, TypeError, "arrays are list; expected"),
    ],
)
def test_bad_arguments_touch_nothing(change, error, words):
    arguments = {"points": np.zeros((1, 4), np.float32), **GRID, "out": np.ones(SHAPE, np.float32), **change}
    with pytest.raises(error, match=words):
        voxelize(**arguments)
    assert np.all(arguments["out"])
