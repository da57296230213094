"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

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
        from tests.simulator import install

        install()
