"""`roadblocks tune`: measures how each stage of a network runs fastest on this machine, and keeps it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.cli import messages, results
from detector.errors import SourceError
from detector.pipeline import Pipeline
from detector.sources import open_sources
from kernels.launch import to_device, to_host
from models.errors import MissingExtraError
from models.network import Network
from models.plan import StageChoice, default_choice, make_plan, tile_sizes
from models.sparse import TileExecutor
from models.sparse_cuda import CudaTileExecutor
from models.steps import DenseStep, UnitStep, step_name
from models.tuning import save_choices, unit_name

Frames = Sequence[tuple[Any, Any]]  # grid and active tiles, where they run
ROUNDS = 5
# A way must beat the default by this share: less is within the noise of a shared machine.
LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Measurement:
    """Milliseconds of one stage in one way: the mean over frames of each frame's best of some rounds."""

    stride: int
    choice: StageChoice
    stage_ms: float


@dataclass(frozen=True)
class Unit:
    """What is tuned: a network on this CPU, or on this GPU.

    Attributes:
        network: the network.
        cuda: whether it runs on CUDA.
        precision: there, see `CudaTileExecutor`.
        threads: on the CPU, None for all cores.
    """

    network: Network
    cuda: bool = False
    precision: str = "auto"
    threads: int | None = None

    @property
    def name(self) -> str:
        """What `models.tuning` keeps choices for."""
        return unit_name("cuda" if self.cuda else "cpu", self.precision, self.threads)

    def executor(self, choices: Mapping[int, StageChoice] | None) -> TileExecutor | CudaTileExecutor:
        """Runs the network with these choices; raises as the executors do."""
        if self.cuda:
            return CudaTileExecutor(self.network, choices, self.precision)
        return TileExecutor(self.network, choices, self.threads)


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--frames", type=click.IntRange(1), default=8, show_default=True, help="Frames to measure on.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads. Default: all cores.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="What to tune.")
@click.option("--show", is_flag=True, help="Print the whole sweep.")
def tune(source: Path, config: str, frames: int, threads: int | None, device: str | None, show: bool) -> None:
    """Find the fastest tile sizes for this machine.

    Measures every stage of the network on frames of SOURCE with several tile sizes, with residual units fused and not,
    and on the CPU densely through onnxruntime where it is installed. `detect` uses the result from then on. It is kept
    for this processor and number of threads, or for this GPU.

    \b
    roadblocks tune $KITTI
    """
    pipeline = Pipeline.from_config(config, device=device, execution="sparse", threads=threads)
    unit = Unit(pipeline.network, pipeline.device == "cuda", pipeline.config.precision, threads)
    data = sample_frames(pipeline, source, frames)
    ways = [way for way in all_ways(pipeline.network) if not (unit.cuda and way[1].dense)]
    measured = [measure(unit, stride, choice, data) for stride, choice in track(ways, "measuring", console=messages)]
    sweep = [line for line in measured if line is not None]
    best = best_choices(sweep)
    if show:
        results.print(sweep_table(sweep, best))
    default_ms, tuned_ms = compare(unit, best, data)
    if tuned_ms > default_ms:
        best = {}
    path = save_choices(pipeline.network, best, unit.name)
    results.print(
        f"network: {default_ms:.1f} ms with the defaults, {tuned_ms:.1f} ms tuned; mean of {len(data)} frames"
    )
    what = "tuned" if best else "not faster: the defaults stay"
    results.print(f"{what}; kept in {path}", soft_wrap=True)


def sample_frames(pipeline: Pipeline, source: Path, count: int) -> Frames:
    """Grids and active tiles of frames spread over a source, where the pipeline runs.

    Raises:
        SourceError: if the source has no frames.
    """
    files = [file for opened in open_sources([source]) for file in opened.frames]
    if not files:
        raise SourceError(f"{source}: holds no frames, expected some to measure on")
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)]
    data = []
    for file in chosen:
        prepared = pipeline.prepare(file.load())
        kept = np.array(to_host(prepared.grid)), to_host(prepared.tiles).copy()
        data.append(tuple(map(to_device, kept)) if pipeline.device == "cuda" else kept)
    return data


def all_ways(network: Network) -> Iterator[tuple[int, StageChoice]]:
    """Every stage in every way that is worth a try."""
    plain = make_plan(network)
    strides = {line.made.stride for line in plain.steps if line.made is not None}
    for stride in sorted(strides):
        fused = make_plan(network, {stride: StageChoice(default_choice(stride).tile_cells, fuse_units=True)})
        units = any(isinstance(line.step, UnitStep) for line in fused.steps)
        for size in tile_sizes(stride):
            yield from ((stride, StageChoice(size, fuse_units=fuse)) for fuse in ((False, True) if units else (False,)))
        yield stride, StageChoice(default_choice(stride).tile_cells, dense=True)


def measure(unit: Unit, stride: int, choice: StageChoice, frames: Frames) -> Measurement | None:
    """One stage in one way, the others by default; None if it would need onnxruntime and that is not installed."""
    try:
        executor = unit.executor({stride: choice})
    except MissingExtraError:
        return None
    mine = {
        step_name(line.step)
        for line in executor.plan.steps
        if (line.made.stride == stride if line.made is not None else isinstance(line.step, DenseStep))
    }
    best = np.full(len(frames), np.inf)
    for _ in range(ROUNDS):
        for number, (grid, tiles) in enumerate(frames):
            times: dict[str, float] = {}
            executor.run(grid, tiles, step_ms=times)
            best[number] = min(best[number], sum(ms for name, ms in times.items() if name in mine))
    return Measurement(stride, choice, float(best.mean()))


def best_choices(sweep: Sequence[Measurement]) -> dict[int, StageChoice]:
    """The fastest way of every stage, where it clearly beats the default."""
    best: dict[int, StageChoice] = {}
    for stride in {line.stride for line in sweep}:
        stage = [line for line in sweep if line.stride == stride]
        default = next((line for line in stage if line.choice == default_choice(stride)), stage[0])
        fastest = min(stage, key=lambda line: line.stage_ms)
        best[stride] = (fastest if fastest.stage_ms < (1 - LEAST_GAIN) * default.stage_ms else default).choice
    return best


def compare(unit: Unit, choices: Mapping[int, StageChoice], frames: Frames) -> tuple[float, float]:
    """Milliseconds of the whole network with the defaults and tuned, measured in turn."""
    executors = [unit.executor(None), unit.executor(choices)]
    best = np.full((2, len(frames)), np.inf)
    for _ in range(ROUNDS):
        for which, executor in enumerate(executors):
            for number, (grid, tiles) in enumerate(frames):
                times: dict[str, float] = {}
                executor.run(grid, tiles, step_ms=times)
                best[which, number] = min(best[which, number], sum(times.values()))
    default_ms, tuned_ms = best.mean(axis=1)
    return float(default_ms), float(tuned_ms)


def sweep_table(sweep: Sequence[Measurement], best: Mapping[int, StageChoice]) -> Table:
    """All measurements; the chosen ones are marked."""
    table = Table("stage", "tile", "residual units", "runs", "ms", "", title="Milliseconds per stage")
    for line in sweep:
        choice = line.choice
        size = "" if choice.dense else f"{choice.tile_cells}×{choice.tile_cells}"
        units = "" if choice.dense else "fused" if choice.fuse_units else "step by step"
        chosen = "chosen" if best[line.stride] == choice else "default" if choice == default_choice(line.stride) else ""
        runs = "densely" if choice.dense else "on tiles"
        table.add_row(f"/{line.stride}", size, units, runs, f"{line.stage_ms:.2f}", chosen)
    return table
