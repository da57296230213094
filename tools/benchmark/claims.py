"""What the project says of its kernels, as ratios that this machine has to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import RoadblocksError
from detector.pipeline import Pipeline
from detector.sources import open_sources
from detector.stages import Stage, StageClock
from detector.types import Frame
from kernels.sparse_gather import sparse_gather
from kernels.sparse_scatter import sparse_scatter
from kernels.tiles import TileSpec, random_tiles
from kernels.voxelize import voxelize, voxelize_reference
from kernels.workspace import Workspace
from models.dense import DenseExecutor
from tools.benchmark.numpy_voxelize import CLEARINGS, WAYS, NumpyVoxelizer
from tools.benchmark.timing import durations_ms, in_turns_ms
from tools.simulation.drive import simulate_drive

Float32 = NDArray[np.float32]

FULL_SWEEP = 100_000  # points from which a sweep counts as a whole turn of a 64-beam sensor
GRID = ((0.0, -40.0, -3.0), 0.1, 0.2, (704, 800, 23))  # KITTI's: origin [m], cell [m], height bin [m], shape
MAP = (1, 352, 400, 64)
TILE_CELLS, SHARE = 16, 0.1


@dataclass(frozen=True)
class Claim:
    """One claim, measured.

    Attributes:
        name: of the claim.
        ours: what is timed.
        ours_ms: its median.
        baseline: what it is held against.
        baseline_ms: its median.
        ratio: median over pairs of turns; baseline over ours if ``at_least``, else ours over baseline.
        wanted: the bound.
        at_least: whether the bound is the least ratio, or the largest.
    """

    name: str
    ours: str
    ours_ms: float
    baseline: str
    baseline_ms: float
    ratio: float
    wanted: float
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether this machine shows it."""
        return self.ratio >= self.wanted if self.at_least else self.ratio <= self.wanted

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "met": self.met}


def read_frames(folder: Path | None, count: int) -> tuple[list[Frame], str]:
    """Frames with whole turns of a sensor, and where they come from.

    Without a folder they are simulated.

    Raises:
        RoadblocksError: if no frame of the folder has `FULL_SWEEP` points.
    """
    if folder is None:
        drive = simulate_drive(count, seed=0, full=True, step_s=1.0)
        return [found.frame for found in drive], f"{count} simulated sweeps, one a second"
    files = [file for source in open_sources([folder]) for file in source.frames]
    largest = sorted(files, key=lambda file: file.path.stat().st_size, reverse=True)[:count]
    frames = [frame for frame in (file.load() for file in largest) if len(frame.points) >= FULL_SWEEP]
    if not frames:
        raise RoadblocksError(
            f"{folder}: no frame has {FULL_SWEEP:,} points; expected whole turns of a 64-beam sensor, "
            "such as those of KITTI raw"
        )
    return frames, f"the {len(frames)} largest sweeps of {folder.name}"


def measure_claims(frames: Sequence[Frame], rounds: int) -> list[Claim]:
    """One after the other: onnxruntime, whose threads wait busily, comes last."""
    sweeps = [frame.points for frame in frames]
    return [
        *(voxelize_claim(sweeps, rounds, clearing) for clearing in CLEARINGS),
        gather_scatter_claim(rounds),
        reduce_mask_claim(frames, rounds),
    ]


def voxelize_claim(sweeps: Sequence[Float32], rounds: int, clearing: str) -> Claim:
    """A sweep into KITTI's grid, kernel against NumPy, which makes or clears its grid in one of the `CLEARINGS`.

    Raises:
        RoadblocksError: if NumPy's grids are not the reference's.
    """
    workspace, fastest = Workspace(), _fastest_voxelizer(sweeps, clearing)
    times = []
    for points in sweeps:
        calls = [partial(voxelize, points, *GRID, workspace=workspace), partial(fastest, points)]
        times.append(in_turns_ms(calls, rounds))
    ours, theirs = np.concatenate(times).T
    size = int(np.median([len(points) for points in sweeps]))
    return Claim(
        "voxelize a sweep",
        f"kernel, {size:,} points into {'×'.join(map(str, GRID[3]))}",
        float(np.median(ours)),
        f"NumPy, {fastest.largest.__name__}, {clearing}",
        float(np.median(theirs)),
        float(np.median(theirs / ours)),
        5 if clearing == CLEARINGS[0] else 1,
        True,
    )


def _fastest_voxelizer(sweeps: Sequence[Float32], clearing: str) -> NumpyVoxelizer:
    voxelizers = [NumpyVoxelizer(*GRID, way, clearing) for way in WAYS]
    for points in sweeps:
        expected = voxelize_reference(points, *GRID)
        for voxelizer in voxelizers:
            if not np.array_equal(voxelizer(points), expected):
                raise RoadblocksError(f"{voxelizer.largest.__name__}: NumPy's grid is not the reference's")
    calls = [partial(voxelizer, sweeps[0]) for voxelizer in voxelizers]
    return voxelizers[int(np.median(in_turns_ms(calls, 5), axis=0).argmin())]


def gather_scatter_claim(rounds: int) -> Claim:
    """Tiles out of a map and into another, against copying as many bytes twice."""
    rng = np.random.default_rng(0)
    x, out = rng.standard_normal(MAP, np.float32), np.zeros(MAP, np.float32)
    tiles = random_tiles(rng, TileSpec.covering(MAP[1:3], TILE_CELLS), SHARE)
    stack = sparse_gather(x, tiles)
    source, there, back = stack.copy(), np.empty_like(stack), np.empty_like(stack)

    def move() -> None:
        sparse_scatter(sparse_gather(x, tiles, stack), tiles, out)

    def copy() -> None:
        np.copyto(there, source)
        np.copyto(back, there)

    ours, copies = in_turns_ms([move, copy], 10 * rounds).T
    return Claim(
        "gather and scatter",
        f"{len(tiles)} of {tiles.spec.total} tiles of a map {'×'.join(map(str, MAP[1:]))}, {stack.nbytes / 1e6:.1f} MB",
        float(np.median(ours)),
        "numpy.copyto of as many bytes, twice",
        float(np.median(copies)),
        float(np.median(ours / copies)),
        2,
        False,
    )


def reduce_mask_claim(frames: Sequence[Frame], rounds: int) -> Claim:
    """The stage that turns a mask into tiles, against a dense run of the shipped network, one after the other."""
    pipeline = Pipeline.from_config("kitti", device="cpu")
    network = DenseExecutor(pipeline.network, "cpu")
    reduce = []
    for _ in range(10 * rounds + 1):
        for frame in frames:
            clock = StageClock()
            prepared = pipeline.prepare(frame, clock)
            reduce.append(clock.elapsed_ms[Stage.REDUCE.value])
    dense = durations_ms(partial(network.run, prepared.grid, prepared.tiles), 0, rounds)
    ours, baseline = float(np.median(reduce[len(frames) :])), float(np.median(dense))
    return Claim(
        "reduce_mask in a frame",
        "the stage reduce of the pipeline",
        ours,
        f"network {pipeline.network.info.name}, dense, onnxruntime",
        baseline,
        ours / baseline,
        0.005,
        False,
    )
