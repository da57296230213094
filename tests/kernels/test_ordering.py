"""The order of scores: on the CPU against NumPy's stable sort, on the device against the CPU."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.launch import cuda, to_device
from kernels.ordering import rank_of, sort_scores

FEW = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, np.inf, -np.inf, np.nan])
scores = arrays(np.float32, st.integers(0, 40), elements=FEW | st.floats(-1, 1, width=32))


def sorted_by_numpy(values):
    return np.argsort(-values, kind="stable")


@given(scores)
def test_equals_the_stable_sort(values):
    order = np.full((2, len(values)), -1)
    assert np.array_equal(sort_scores(values, order), sorted_by_numpy(values))


@cuda.jit
def rank_all(values, ranks):
    index = cuda.grid(1)
    if index < values.shape[0]:
        ranks[index] = rank_of(index, values, values.shape[0])


@pytest.mark.simulator
@pytest.mark.parametrize("seed", range(3))
def test_ranks_on_the_device_are_the_same_order(seed):
    values = np.random.default_rng(seed).choice(np.array([np.nan, 0, 0.5, -1, np.inf], np.float32), 20)
    ranks = to_device(np.full(20, -1))
    rank_all[1, 32](to_device(values), ranks)
    assert np.array_equal(np.argsort(ranks.copy_to_host()), sorted_by_numpy(values))
