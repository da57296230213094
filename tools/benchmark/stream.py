"""``python -m tools.benchmark stream``: what the overlap of a stream brings, and its latency at a rate.

Throughput: `Pipeline.stream` against a plain loop of load and `detect` over the same frames in one process, in turns
(A B, A B, …), from the first result of a turn to its last; once with all cores for the network and, where there is more
than one, once with a core to spare. Latency: policy "latest" at a rate that the network keeps up with and at one that
it does not, from the moment when a frame is available until its boxes are.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from detector.machine import machine, peak_memory_mb
from detector.pipeline import Pipeline
from detector.sources import FrameFile, open_sources
from detector.stages import Stage, StageClock, summarize
from detector.types import FrameResult
from tools.benchmark.report import emit, origin, warn_if_busy


def one_by_one(pipeline: Pipeline, files: Iterable[FrameFile]) -> Iterator[FrameResult]:
    """The frames without overlap."""
    for file in files:
        clock = StageClock()
        with clock(Stage.LOAD):
            frame = file.load()
        yield pipeline.detect(frame, clock)


def ms_per_frame(results: Iterable[FrameResult]) -> float:
    """Milliseconds from one result to the next, mean over a turn of at least two."""
    moments = [time.perf_counter() for _ in results]
    return 1e3 * (moments[-1] - moments[0]) / (len(moments) - 1)


def throughput(config: str, threads: int, files: Sequence[FrameFile], turns: int) -> dict[str, Any]:
    """Milliseconds per frame of every turn, with overlap and without, and the median of their ratios."""
    pipeline = ready(config, threads, files)
    overlapped, plain = [], []
    for _ in track(range(turns), "taking turns", console=messages):
        plain.append(ms_per_frame(one_by_one(pipeline, files)))
        overlapped.append(ms_per_frame(pipeline.stream(files)))
    ratios = np.array(plain) / np.array(overlapped)
    return {
        "threads": threads,
        "frames": len(files),
        "turns": turns,
        "plain_ms": [round(ms, 3) for ms in plain],
        "overlapped_ms": [round(ms, 3) for ms in overlapped],
        "speedup": round(float(np.median(ratios)), 4),
        "speedup_range": [round(float(ratio), 4) for ratio in (ratios.min(), ratios.max())],
    }


def latency(pipeline: Pipeline, source: Path, rate_hz: float, arrivals: int) -> dict[str, Any]:
    """Percentiles of latency with policy "latest", drops, and peak memory at the first result and at the end."""
    loop = math.ceil(arrivals / sum(len(opened.frames) for opened in open_sources([source])))
    latency_ms, stage_ms, dropped, peaks_mb = [], [], 0, [0.0, 0.0]
    with closing(pipeline.stream(source, "latest", rate_hz, loop)) as results:
        for result in track(results, "streaming", total=arrivals, console=messages):
            peaks_mb = [peaks_mb[0] or peak_memory_mb(), peak_memory_mb()]
            latency_ms.append(result.latency_ms or 0.0)
            stage_ms.append(result.stage_ms)
            dropped += result.dropped_before
    percentiles = np.percentile(latency_ms, [50, 95, 99, 100])
    names = ("p50_ms", "p95_ms", "p99_ms", "max_ms")
    return {
        "rate_hz": rate_hz,
        "frames": len(latency_ms),
        "dropped": dropped,
        "latency": {name: round(float(ms), 3) for name, ms in zip(names, percentiles, strict=True)},
        "stages": summarize(stage_ms),
        "peak_mb": {"start": round(peaks_mb[0], 1), "end": round(peaks_mb[1], 1)},
    }


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--frames", type=click.IntRange(2), default=50, show_default=True, help="Frames of a turn, the first.")
@click.option("--turns", type=click.IntRange(1), default=9, show_default=True, help="How often the ways take turns.")
@click.option(
    "--rate", "rates", type=click.FloatRange(0, min_open=True), multiple=True, default=(10, 100), show_default=True
)
@click.option(
    "--arrivals", type=click.IntRange(1), default=1000, show_default=True, help="Frames at each rate, at least."
)
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def stream(
    source: Path,
    config: str,
    frames: int,
    turns: int,
    rates: tuple[float, ...],
    arrivals: int,
    json_file: str | None,
) -> None:
    """Throughput of a stream of SOURCE with and without overlap, and its latency at rates [Hz]."""
    warn_if_busy()
    files = [file for opened in open_sources([source]) for file in opened.frames][:frames]
    cores = int(machine()["cores"])
    pipeline = ready(config, cores, files)
    record = {
        "latest": [latency(pipeline, source, rate, arrivals) for rate in rates],
        "throughput": [throughput(config, threads, files, turns) for threads in (cores, cores - 1) if threads],
        "device": pipeline.device,
        **origin(),
    }
    emit(json_file, record, record_table(record))


def ready(config: str, threads: int, files: Sequence[FrameFile]) -> Pipeline:
    """A pipeline whose kernels are compiled, and which has seen some of the frames."""
    pipeline = Pipeline.from_config(config, threads=threads)
    pipeline.warm_up()
    list(pipeline.stream(files[:5]))
    return pipeline


def record_table(record: dict[str, Any]) -> Table:
    """The record in a few lines."""
    table = Table("what", "measured")
    for through in record["throughput"]:
        plain, overlapped = (float(np.median(through[name])) for name in ("plain_ms", "overlapped_ms"))
        low, high = through["speedup_range"]
        table.add_row(
            f"overlap, network on {through['threads']} threads",
            f"{plain:.2f} ms per frame without, {overlapped:.2f} with: {through['speedup']:.3f}× "
            f"({low:.3f} to {high:.3f} in {through['turns']} turns)",
        )
    for latest in record["latest"]:
        times = ", ".join(f"{name[:-3]} {ms:.1f}" for name, ms in latest["latency"].items())
        peaks = latest["peak_mb"]
        table.add_row(f"latest at {latest['rate_hz']:g} Hz", f"{latest['frames']} frames, {latest['dropped']} dropped")
        table.add_row("  latency", f"{times} ms")
        table.add_row("  peak memory", f"{peaks['start']:.0f} MB at the first result, {peaks['end']:.0f} MB at the end")
    return table
