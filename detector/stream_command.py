"""`roadblocks stream`: detections as JSON Lines on stdout, frame by frame."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
from rich.status import Status
from rich.text import Text

from detector.cli import measured_sensor, messages, pipeline_options, start_up_message
from detector.errors import ExitCode, FrameError
from detector.frame_checks import WarningLog
from detector.machine import peak_memory_mb
from detector.pipeline import Pipeline
from detector.sources import open_sources
from detector.types import FrameResult
from detector.view_command import check_recording
from detector.viewers.rerun_log import RerunLog

log = logging.getLogger("roadblocks")


@dataclass
class StreamReport:
    """What happened to the frames of a stream.

    Attributes:
        frames: results that were written.
        dropped: frames that came too late to be processed.
        skipped: bad frames.
        left_out: tiles that the budget left out.
        tiles: active tiles.
        latency_ms: of every result, from the moment when its frame was available until its boxes were [ms].
        warnings: frames by what was wrong or doubtful about them.
    """

    frames: int = 0
    dropped: int = 0
    skipped: int = 0
    left_out: int = 0
    tiles: int = 0
    latency_ms: array[float] = field(default_factory=lambda: array("d"))
    warnings: WarningLog = field(default_factory=lambda: WarningLog(log.warning))

    def skip(self, error: FrameError, dropped_before: int) -> None:
        """Counts and tells a bad frame."""
        self.skipped += 1
        self.dropped += dropped_before
        self.warnings.count([error.fault])
        log.warning("skipped: %s", error)

    def count(self, result: FrameResult) -> None:
        """Counts a result."""
        self.frames += 1
        self.dropped += result.dropped_before
        self.left_out += result.tiles_left_out
        self.tiles += result.tiles_run + result.tiles_left_out
        self.latency_ms.append(result.latency_ms or 0.0)
        self.warnings.add(result.warnings)

    def __str__(self) -> str:
        text = f"{self.frames} frames, {self.dropped} dropped, {self.skipped} skipped"
        if self.frames:
            p50, p95, p99 = np.percentile(self.latency_ms, [50, 95, 99])
            text += f"; latency p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f}, max {max(self.latency_ms):.1f} ms"
        if self.left_out:
            text += f"; {100 * self.left_out / self.tiles:.1f}% of the active tiles left out"
        faults = "".join(f"; {fault}: {count}" for fault, count in self.warnings.counts.items())
        return f"{text}; peak memory {peak_memory_mb():.0f} MB{faults}"


@click.command()
@click.argument("source")
@click.option("--rate", type=float, help="Frames per second; inf: no pacing. Default: as recorded, KITTI raw at 10 Hz.")
@click.option(
    "--policy", type=click.Choice(["every", "latest"]), default="every", show_default=True, help="Late frames."
)
@click.option("--loop", type=click.IntRange(1), default=1, show_default=True, help="How often SOURCE is repeated.")
@click.option("--follow", is_flag=True, help="SOURCE is a folder that grows: wait for frames until Ctrl-C.")
@pipeline_options
@click.option("--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True, help="Bad frames.")
@click.option("--viewer", type=click.Choice(["rerun"]), help="Show frames, boxes, tiles and times in Rerun's window.")
@click.option(
    "--recording",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --viewer rerun: write this .rrd file and open no window.",
)
def stream(
    source: str,
    rate: float | None,
    policy: str,
    loop: int,
    follow: bool,
    frames: slice | None,
    score: float | None,
    on_error: str,
    viewer: str | None,
    recording: Path | None,
    auto_sensor: bool,
    **settings: Any,
) -> None:
    """Find vehicles frame by frame: one line of JSON per frame on stdout, all else on stderr.

    SOURCE is a path as for `detect`. With --policy latest frames that the network comes too late for are dropped and
    counted, with every the source waits. Boxes are those from the network's display score on, or from --score.

    \b
    roadblocks stream 2011_09_26/2011_09_26_drive_0005_sync --policy latest
    roadblocks stream $KITTI --rate inf | jq .latency_ms
    roadblocks stream recording --follow --policy latest
    roadblocks stream $KITTI --viewer rerun --recording stream.rrd

    Exit codes, also when the reader of the pipe leaves: 0 all frames good, 1 some skipped, 2 nothing could be done, or
    stopped by --on-error stop, 130 Ctrl-C.
    """
    check_recording(viewer, recording)
    out, report = sys.stdout, StreamReport()  # kept, because rich puts something else there while it shows a status
    sensor = measured_sensor(settings["config"], open_sources([source], frames)) if auto_sensor else None
    with messages.status(start_up_message()):
        pipeline = Pipeline.from_config(score=score, sensor=sensor, **settings)
        on_bad_frame = report.skip if on_error == "skip" else None
        results = pipeline.stream(source, policy, rate, loop, follow, frames=frames, on_bad_frame=on_bad_frame)
        log_to = RerunLog(pipeline.spec, recording) if viewer else None
        pipeline.warm_up()
    least_score = pipeline.network.info.display_score if score is None else score
    pace = "as recorded" if rate is None else f"{rate:g} Hz"
    messages.print(Text(f"streaming {source}: policy {policy}, {pace}"), soft_wrap=True)
    try:
        with log_to or nullcontext(), closing(results), _status(out) as status:
            show = log_to.log if log_to else None
            _write_lines(results, out, least_score, report, status, show)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # what is still buffered has nobody to go to
    finally:
        messages.print(str(report), soft_wrap=True)
    if report.skipped:
        sys.exit(ExitCode.SKIPPED_FRAMES if report.frames else ExitCode.FAILED)


def _status(out: TextIO) -> Any:
    """A line that shows how the stream goes, where it disturbs nothing: on a terminal that shows no results."""
    return messages.status("", refresh_per_second=2) if messages.is_terminal and not out.isatty() else nullcontext()


def _write_lines(
    results: Iterator[FrameResult],
    out: TextIO,
    least_score: float,
    report: StreamReport,
    status: Status | None,
    show: Callable[[FrameResult, float], None] | None,
) -> None:
    """A line per result; it is shown when its line is out."""
    for result in results:
        line = json.dumps(record(result, least_score))
        with _interrupt_held():
            out.write(f"{line}\n")
            out.flush()
            report.count(result)
        if show is not None:
            show(result, least_score)
        if status is not None:
            status.update(f"{report.frames} frames, {report.dropped} dropped, {result.latency_ms:.0f} ms")


def record(result: FrameResult, least_score: float) -> dict[str, Any]:
    """One line of output: the boxes from a score on, as in detections.jsonl, and what the frame cost.

    Args:
        result: from a stream.
        least_score: of the boxes, 0..1.
    """
    shown = FrameResult(result.frame, result.detections.above(least_score)).to_json()
    return {
        **shown,
        "stage_ms": {name: round(ms, 3) for name, ms in result.stage_ms.items()},
        "tiles_run": result.tiles_run,
        "tiles_left_out": result.tiles_left_out,
        "dropped_before": result.dropped_before,
        "latency_ms": round(result.latency_ms or 0.0, 3),
    }


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Ctrl-C waits until the ``with`` body is done, so that a line comes out whole; pressed twice it does not wait."""
    pressed: list[int] = []

    def hold(number: int, _: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # ignored, as under nohup
        yield
        return
    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
