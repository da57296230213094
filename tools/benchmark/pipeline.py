"""``python -m tools.benchmark pipeline``: whole frames, sparse against dense, on recorded data.

Every way of running has a process of its own, so that onnxruntime's waiting threads take no core from Numba's; the
processes take turns (A B C, A B C, …) and the ratios are medians over those turns.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.cli import messages, results
from detector.files import write_json
from detector.pipeline import Pipeline
from detector.sources import open_sources
from detector.stages import summarize
from models.sparse import TileExecutor
from tools.benchmark.report import origin, warn_if_busy

MODES: dict[str, dict[str, str]] = {
    "dense": {"execution": "dense"},
    "sparse": {"execution": "sparse"},
    "tiles_all": {"execution": "sparse", "mask": "all"},
}
PAUSE_S = 0.3  # between turns, until waiting threads have gone to sleep
GEMM_SIZE = 2048


class Worker:
    """One way of running, in a process of its own.

    Args:
        mode: key of `MODES`.
        config: name or path.
        source: folder of frames.
        frames: how many, spread over the source.
    """

    def __init__(self, mode: str, config: str, source: Path, frames: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, MODES[mode], config, source, frames)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self.facts: dict[str, Any] = self._connection.recv()

    def turn(self) -> list[dict[str, float]]:
        """Milliseconds per stage of every frame, once."""
        self._connection.send("turn")
        return list(self._connection.recv())

    def close(self) -> None:
        """Ends the process."""
        self._connection.send("end")
        self._process.join(10)


def _serve(connection: Connection, settings: dict[str, str], config: str, source: Path, frames: int) -> None:
    pipeline = Pipeline.from_config(config, **settings)  # type: ignore[arg-type]
    pipeline.warm_up()
    files = [file for opened in open_sources([source]) for file in opened.frames]
    chosen = [files[i].load() for i in np.linspace(0, len(files) - 1, min(frames, len(files))).astype(int)]
    first = [pipeline.detect(frame) for frame in chosen[:5]]
    connection.send(_facts(pipeline, chosen, len(first)))
    while connection.recv() == "turn":
        connection.send([pipeline.detect(frame).stage_ms for frame in chosen])


def _facts(pipeline: Pipeline, frames: Sequence[Any], warmed: int) -> dict[str, Any]:
    prepared = [pipeline.prepare(frame)[1] for frame in frames]
    facts: dict[str, Any] = {
        "frames": len(frames),
        "warmed": warmed,
        "tile_fraction": float(np.mean([len(tiles) / tiles.spec.total for tiles in prepared])),
    }
    executor = pipeline._executor
    if isinstance(executor, TileExecutor):
        facts["computed_fraction"] = float(np.mean([executor.computed_fraction(tiles) for tiles in prepared]))
        facts["gflop"] = executor.plan.operations / 1e9
    return facts


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
    gemm = gemm_gflops()
    workers = {mode: Worker(mode, config, source, frames) for mode in MODES}
    times: dict[str, list[list[dict[str, float]]]] = {mode: [] for mode in MODES}
    for _ in track(range(turns), "taking turns", console=messages):
        for mode, worker in workers.items():
            time.sleep(PAUSE_S)
            times[mode].append(worker.turn())
    facts = {mode: worker.facts for mode, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    record = make_record(times, facts, gemm)
    results.print(record_table(record))
    _print_facts(record)
    if json_file is not None:
        write_json(json_file, record)


def make_record(times: dict[str, list[list[dict[str, float]]]], facts: dict[str, Any], gemm: float) -> dict[str, Any]:
    """Percentiles per mode, ratios per turn, and where they come from."""

    def per_turn(mode: str, stage: str | None) -> np.ndarray[Any, np.dtype[np.float64]]:
        totals = [[frame[stage] if stage else sum(frame.values()) for frame in turn] for turn in times[mode]]
        return np.array([np.mean(turn) for turn in totals])

    ratios = {
        mode: {
            name: float(np.median(per_turn("dense", stage) / per_turn(mode, stage)))
            for name, stage in (("backbone", "backbone"), ("total", None))
        }
        for mode in ("sparse", "tiles_all")
    }
    gflop = facts["sparse"]["gflop"]
    dense_gflops = gflop / float(np.median(per_turn("dense", "backbone"))) * 1e3
    return {
        "modes": {mode: summarize([frame for turn in turns for frame in turn]) for mode, turns in times.items()},
        "turns": len(times["dense"]),
        "facts": facts,
        "speedup": ratios,
        "gflop": gflop,
        "dense_gflops": dense_gflops,
        "gemm_gflops": gemm,
        "device": "cpu",
        **origin(),
    }


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
