"""A running pipeline allocates nothing: not through its workspace, not inside kernels, not as NumPy arrays."""

import tracemalloc

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher
from numba.core.runtime import _nrt_python, rtsys

from kernels import (
    box_voting,
    decode,
    nms,
    ordering,
    reduce_mask,
    restore_tiles,
    sparse_gather,
    sparse_scatter,
    voxelize,
)
from kernels.launch import new_array, to_device, to_host
from kernels.tiles import TileSpec
from kernels.workspace import Workspace
from tests.kernels.backends import BACKENDS

MODULES = (
    voxelize,
    reduce_mask,
    sparse_gather,
    sparse_scatter,
    restore_tiles,
    decode,
    nms,
    ordering,
    box_voting,
)
# Python's own small objects and the checks of `ActiveTiles` on its list; a third of the smallest map below.
MOST_BYTES = 4096


class Frames:
    """The ops of a frame in their order, on maps of one size; every frame has other points, mask and scores."""

    def __init__(self, rows, cols, device):
        self.shape, self.device = (rows, cols, 8), device
        self.place = to_device if device else lambda array: array
        self.workspace = Workspace(device)
        self.tiles = TileSpec.covering((rows, cols), 4)
        self.base = self.place(np.full((1, rows, cols, 8), 0.5, np.float32))
        self.map = self.place(np.full((1, rows, cols, 8), 0.5, np.float32))
        self.stack = new_array((self.tiles.total, 4, 4, 8), np.float32, device)

    def inputs(self, seed, count):
        rng = np.random.default_rng(seed)
        low, high = (-1, -1, -1, 0), (self.shape[0] + 1, self.shape[1] + 1, 3, 1)
        points = rng.uniform(low, high, (count, 4)).astype(np.float32)
        mask = (rng.random((1, *self.shape[:2])) < 0.02).astype(np.float32)
        score = rng.integers(0, 20, self.shape[:2]).astype(np.float32) / 20
        regression = rng.normal(0, 0.5, (*self.shape[:2], 8)).astype(np.float32)
        return [self.place(array) for array in (points, mask, score, regression)]

    def run(self, points, mask, score, regression):
        workspace = self.workspace
        grid = voxelize.voxelize(points, (0.0, 0.0, 0.0), 1.0, 0.5, self.shape, workspace=workspace)
        tiles = reduce_mask.reduce_mask(mask, self.tiles, workspace=workspace)
        sparse_scatter.sparse_scatter(
            sparse_gather.sparse_gather(grid.reshape(1, *self.shape), tiles, out=self.stack[: len(tiles.index)]),
            tiles,
            self.map,
        )
        restore_tiles.restore_tiles(self.base, tiles, self.map)
        found = decode.decode(score, regression, (0.0, 0.0), 1.0, 0.8, 60, workspace=workspace)
        if self.device:
            keep = nms.nms(found.boxes, found.scores, 0.1, 50, found.count, workspace)
            counts = {"count": found.count, "kept_count": keep.count}
            box_voting.box_voting(found.boxes, found.scores, keep.index, 0.5, **counts, workspace=workspace)
            return tiles, found, keep
        keep = nms.nms(*found, 0.1, 50, workspace=workspace)
        box_voting.box_voting(*found, keep, 0.5, workspace=workspace)
        return tiles, found, keep


def count_arrays(monkeypatch):
    """Counts the array arguments of every kernel that Python calls: Numba's runtime allocates one handle for each."""
    handles = []
    for module in MODULES:
        for name, kernel in vars(module).items():
            if isinstance(kernel, CPUDispatcher):

                def call(*arguments, kernel=kernel):
                    handles.extend(argument for argument in arguments if isinstance(argument, np.ndarray))
                    return kernel(*arguments)

                monkeypatch.setattr(module, name, call)
    return handles


def test_a_frame_after_the_largest_allocates_nothing():
    frames = Frames(48, 64, device=False)
    for seed, count in ((0, 900), (1, 1000)):  # the second is as large as any that follows
        frames.run(*frames.inputs(seed, count))
    third, fourth = frames.inputs(2, 1000), frames.inputs(3, 500)
    allocations = frames.workspace.allocations
    tracemalloc.start()
    frames.run(*third)  # once more: Python's caches fill under the eyes of tracemalloc
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    tiles, (boxes, _), kept = frames.run(*fourth)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(tiles) > 10 and len(boxes) == 60 and 0 < len(kept) < 60, "there was work to do"
    assert frames.workspace.allocations == allocations
    assert peak - before < MOST_BYTES < fourth[1].nbytes, peak - before
    assert (frames.map == 0.5).all(), "restored"


def test_kernels_allocate_nothing(monkeypatch):
    frames = Frames(48, 64, device=False)
    for seed in (0, 1):
        frames.run(*frames.inputs(seed, 1000))
    inputs = frames.inputs(2, 1000)
    statistics = _nrt_python.memsys_stats_enabled()
    _nrt_python.memsys_enable_stats()
    try:
        handles = count_arrays(monkeypatch)
        before = rtsys.get_allocation_stats()
        frames.run(*inputs)
        after = rtsys.get_allocation_stats()
    finally:
        if not statistics:
            _nrt_python.memsys_disable_stats()
    assert len(handles) > 20
    assert after.alloc - before.alloc == len(handles) == after.free - before.free


@pytest.mark.parametrize("backend", BACKENDS[2:])
def test_on_the_device_only_the_first_frame_allocates(backend):
    frames = Frames(12, 16, device=True)
    frames.run(*frames.inputs(0, 100))
    allocations = frames.workspace.allocations
    results = frames.run(*frames.inputs(1, 100))
    assert frames.workspace.allocations == allocations
    host = Frames(12, 16, device=False)
    for found, expected in zip(map(to_host, results), host.run(*host.inputs(1, 100)), strict=True):
        for one, other in zip(parts(found), parts(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def parts(result):
    """The arrays of a list of tiles, of boxes with scores, or of indices."""
    return result if isinstance(result, tuple) else (getattr(result, "index", result),)
