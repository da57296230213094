"""The simulator's scheduler: what it must show, and that nothing hangs."""

import numpy as np
import pytest

from kernels.launch import SIMULATED, cuda
from kernels.ptx import PIECE, load_matrices

pytestmark = [pytest.mark.simulator, pytest.mark.skipif(not SIMULATED, reason="about the simulator")]
NEIGHBOURS = pytest.mark.parametrize("distance", [1, 31], ids=["next", "last"])


@cuda.jit
def add_neighbour(out, distance, barrier, turns):
    """Every turn, all numbers grow by those that were a neighbour's."""
    shared, lane = cuda.shared.array(32, np.float32), cuda.threadIdx.x
    shared[lane] = lane
    cuda.syncthreads()
    for _ in range(turns):
        value = shared[(lane + distance) % 32]
        if barrier:
            cuda.syncthreads()
        shared[lane] += value
        cuda.syncthreads()
    out[lane] = shared[lane]


def neighbours_added(distance, barrier):
    out, expected = np.zeros(32, np.float32), np.arange(32, dtype=np.float32)
    add_neighbour[2, 32](out, distance, barrier, 2)
    for _ in range(2):
        expected += np.roll(expected, -distance)
    return np.array_equal(out, expected)


@NEIGHBOURS
def test_a_missing_barrier_shows(distance):
    assert neighbours_added(distance, True) and not neighbours_added(distance, False)


@cuda.jit
def end_one_by_one(out):
    for turn in range(32):
        if cuda.threadIdx.x == 32 - turn:
            return
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            out[cuda.blockIdx.x] += 1


def test_lanes_that_ended_are_not_waited_for():
    out = np.zeros(3, np.int32)
    end_one_by_one[3, 32](out)
    assert out.tolist() == [32, 32, 32]


@cuda.jit
def fail(out):
    cuda.syncthreads()
    if cuda.threadIdx.x == 3:
        out[99] = 1
    cuda.syncthreads()


def test_an_error_says_where_and_leaves_nothing_behind():
    with pytest.raises(IndexError) as caught:
        fail[1, 32](np.zeros(3, np.float32))
    assert caught.value.__notes__ == ["in lane (3, 0, 0) of block (0, 0, 0)"]
    assert neighbours_added(1, True)


@cuda.jit
def miss(out):
    shared = cuda.shared.array(64, PIECE)
    if cuda.threadIdx.x < 16:
        out[0] = load_matrices(shared, 0)[0]
    else:
        cuda.syncthreads()


def test_lanes_that_wait_in_two_places_are_an_error():
    with pytest.raises(RuntimeError, match="16 of 32 lanes are at the barrier"):
        miss[1, 32](np.zeros(1, np.float32))
    assert neighbours_added(31, True)
