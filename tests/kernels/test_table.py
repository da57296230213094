"""Every op of the kernel table on every backend, against its NumPy reference."""

import copy
import inspect

import numpy as np
import pytest

from kernels.table import OPS
from tests.kernels.backends import COMPILED, arrays_of, assert_same, call

SEEDS = (0, 1, 2)
by_name = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)


@by_name
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("backend", COMPILED)
def test_equals_reference(op, seed, backend):
    inputs = op.make_inputs(np.random.default_rng(seed), "small")
    expected = call("reference", op, **inputs)
    assert any(array.size for array in arrays_of(expected)), "the input maker gives something to do"
    assert_same(op, call(backend, op, **inputs), expected)


@by_name
def test_reference_leaves_its_arguments_alone(op):
    inputs = op.make_inputs(np.random.default_rng(0), "small")
    before = copy.deepcopy(inputs)
    op.reference(**inputs)
    for name, value in inputs.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(value, before[name]), name


@by_name
def test_is_complete_and_says_what_it_computes(op):
    module = inspect.getmodule(op.function)
    assert op.cuda and op.summary and "quation" in module.__doc__, op.name
    assert inspect.getdoc(op.function) and "Raises:" in inspect.getdoc(op.function)
    assert {op.name for op in OPS}.__len__() == len(OPS), "names are unique"
    expected, found = (list(inspect.signature(f).parameters) for f in (op.reference, op.function))
    assert found[: len(expected)] == expected, "reference and function take the same arguments"
