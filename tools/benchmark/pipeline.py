"""``python -m tools.benchmark pipeline``: whole frames, sparse against dense, on recorded data.

Measured by what `roadblocks profile` measures with; here every turn runs all frames, and the ratios are medians over
turns, so that the record also tells how far the machine can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import Progress
from rich.table import Table

from detector.cli import messages, results
from detector.config import load_config
from detector.files import write_json
from detector.profile.measure import read_frames
from detector.profile.meter import Facts, Sample
from detector.profile.workers import start_workers, take_turns
from detector.sources import Source, open_sources
from detector.stages import Stage, summarize
from models.network import load_network
from tools.benchmark.labelled import identity
from tools.benchmark.report import origin, warn_if_busy

GEMM_SIZE = 2048
Turns = Mapping[str, Sequence[Sequence[Sample]]]


def gemm_gflops() -> float:
    """The machine's matrix product in float32, all cores: what a network could reach at most."""
    a = np.random.default_rng(0).standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32)
    out = np.empty_like(a)
    best = min(_seconds(lambda: np.matmul(a, a, out=out)) for _ in range(10))
    return 2 * GEMM_SIZE**3 / best / 1e9


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--frames", type=click.IntRange(1), default=209, show_default=True, help="Frames, spread over SOURCE.")
@click.option("--turns", type=click.IntRange(1), default=5, show_default=True, help="How often the ways take turns.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the record as JSON.")
def pipeline(source: Path, config: str, frames: int, turns: int, json_file: Path | None) -> None:
    """Latency per stage of whole frames of SOURCE: dense, sparse, and sparse with all tiles active."""
    warn_if_busy()
    made_on = origin()
    gemm = gemm_gflops()
    files = read_frames(spread(open_sources([source]), frames)).files
    with start_workers(files, {"config": config}) as workers, Progress(console=messages, transient=True) as progress:
        task = progress.add_task("taking turns", total=len(workers) * turns * len(files))
        samples = take_turns(workers, [range(len(files))] * turns, lambda count: progress.advance(task, count))
        facts = {mode: worker.facts for mode, worker in workers.items()}
    network = identity(load_network(load_config(config).model))
    record = {**network, **make_record(samples, facts, gemm, made_on)}
    results.print(record_table(record))
    _print_facts(record)
    if json_file is not None:
        write_json(json_file, record)


def spread(sources: Sequence[Source], count: int) -> list[Source]:
    """The sources with so many frames in all, at even distances."""
    files = [file for source in sources for file in source.frames]
    chosen = {id(files[i]) for i in np.linspace(0, len(files) - 1, min(count, len(files))).astype(int)}
    kept = [replace(source, frames=tuple(file for file in source.frames if id(file) in chosen)) for source in sources]
    return [source for source in kept if source.frames]


def make_record(samples: Turns, facts: Mapping[str, Facts], gemm: float, made_on: Mapping[str, Any]) -> dict[str, Any]:
    """Percentiles per mode, ratios per turn, and where they come from."""

    def per_turn(mode: str, stage: str | None) -> np.ndarray[Any, np.dtype[np.float64]]:
        turns = [[sample.stage_ms[stage] if stage else sample.total_ms for sample in turn] for turn in samples[mode]]
        return np.array([np.mean(turn) for turn in turns])

    backbone = Stage.BACKBONE.value
    ratios = {
        mode: {
            name: float(np.median(per_turn("dense", stage) / per_turn(mode, stage)))
            for name, stage in (("backbone", backbone), ("total", None))
        }
        for mode in ("sparse", "tiles_all")
    }
    gflop = facts["sparse"].gflop or 0.0
    return {
        "modes": {
            mode: summarize([sample.stage_ms for turn in samples[mode] for sample in turn])
            for mode in ("dense", "sparse", "tiles_all")
        },
        "turns": len(samples["dense"]),
        "facts": {mode: _facts(facts[mode], samples[mode][0]) for mode in samples},
        "speedup": ratios,
        "gflop": gflop,
        "dense_gflops": gflop / float(np.median(per_turn("dense", backbone))) * 1e3,
        "gemm_gflops": gemm,
        "device": facts["sparse"].device,
        **made_on,
    }


def _facts(facts: Facts, turn: Sequence[Sample]) -> dict[str, Any]:
    tile_fraction = float(np.mean([sample.tiles / facts.tiles_total for sample in turn]))
    values = {"frames": len(turn), "warmed": facts.warmed, "tile_fraction": tile_fraction}
    if facts.gflop is None:
        return values
    return {**values, "computed_fraction": facts.computed_fraction, "gflop": facts.gflop}


def record_table(record: dict[str, Any]) -> Table:
    """Milliseconds per stage and mode."""
    table = Table("stage", title="Milliseconds per frame, p50 / p95 / p99")
    for mode in record["modes"]:
        table.add_column(mode, justify="right")
    for stage in record["modes"]["dense"]:
        rows = (record["modes"][mode][stage] for mode in record["modes"])
        table.add_row(stage, *(f"{row['p50_ms']:.2f} / {row['p95_ms']:.2f} / {row['p99_ms']:.2f}" for row in rows))
    return table


def _print_facts(record: dict[str, Any]) -> None:
    sparse, facts = record["speedup"]["sparse"], record["facts"]["sparse"]
    lines = [
        f"speed-up, mean of frames, median of {record['turns']} turns: network {sparse['backbone']:.2f}, "
        f"total {sparse['total']:.2f}; all tiles active: network {record['speedup']['tiles_all']['backbone']:.2f}",
        f"{facts['frames']} frames, tile fraction {facts['tile_fraction']:.3f}, "
        f"computed fraction {facts['computed_fraction']:.3f}",
        f"dense: {record['gflop']:.1f} GFLOP at {record['dense_gflops']:.0f} GFLOP/s, "
        f"{record['dense_gflops'] / record['gemm_gflops']:.0%} of a matrix product's {record['gemm_gflops']:.0f}",
    ]
    for line in lines:
        results.print(line, soft_wrap=True)
