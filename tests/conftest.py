"""Fixtures of all tests."""

from __future__ import annotations

import functools
import os
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

# No deadline: the first example compiles kernels. Continuous integration draws the same examples every time, so that
# a change is judged by itself; a developer's runs draw new ones and find what is left.
settings.register_profile("roadblocks", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("roadblocks")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real LiDAR frames beside the repository; it is no part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"real LiDAR frames are not here: no folder {folder}")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Cases of the simulator run in the process that `test_cuda_sim_table.py` starts, and nowhere else."""
    if item.get_closest_marker("simulator") is not None:
        assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "run these through tests/kernels/test_cuda_sim_table.py"
        sys.setswitchinterval(0.0005)  # the simulator's threads hand over to one another all the time
        give_a_block_one_shared_array()


@functools.cache
def give_a_block_one_shared_array() -> None:
    """The simulator looks for a block's shared array and makes it without a lock: two threads may get one each."""
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    making, dynamic = threading.Lock(), FakeCUDAShared.array

    def array(self: FakeCUDAShared, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        if shape == 0:  # the array whose size the launch gives; it is there from the start
            return dynamic(self, shape, dtype)
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        with making:
            return self._allocations.setdefault(place, np.empty(shape, dtype))

    FakeCUDAShared.array = array
