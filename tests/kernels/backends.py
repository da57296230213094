"""Runs an op on one backend; tests take `BACKENDS` as a parameter. Arguments and results are NumPy on every one."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from kernels.launch import to_device, to_host
from kernels.op import Exact
from kernels.tiles import ActiveTiles

BACKENDS = [
    "reference",
    "cpu",
    pytest.param("simulator", marks=pytest.mark.simulator),
    pytest.param("device", marks=pytest.mark.gpu),
]
COMPILED = BACKENDS[1:]  # what is held against the reference


def call(backend, op, **inputs):
    """The op's result on this backend."""
    inputs = copy.deepcopy(inputs)
    if backend == "reference":
        return op.reference(**inputs)
    if backend == "cpu":
        return op.function(**inputs)
    return to_host(op.function(**{name: to_device(value) for name, value in inputs.items()}))


def arrays_of(result):
    """The arrays inside a result."""
    if isinstance(result, ActiveTiles):
        return (result.index,)
    return result if isinstance(result, tuple) else (result,)


def assert_same(op, found, expected):
    """The equality that the table promises."""
    found, expected = arrays_of(found), arrays_of(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype, (one.shape, other.shape, one.dtype, other.dtype)
        if isinstance(op.equality, Exact):
            assert np.array_equal(one, other)
        else:
            error = np.abs(one.astype(np.float64) - other) / np.maximum(1, np.abs(other.astype(np.float64)))
            assert not error.size or error.max() <= op.equality.tolerance, error.max()
