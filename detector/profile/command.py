"""`roadblocks profile`: how long every stage takes, sparse against dense, and whether that changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress
from rich.text import Text

from detector.cli import SliceType, auto_sensor_option, emit_json, measured_sensor, messages, results
from detector.errors import ExitCode
from detector.files import write_whole
from detector.machine import busy_warning
from detector.profile import compare as comparing
from detector.profile.compare import TOLERANCE

WORST_FRAMES = 4  # whose pictures are in the page
FILE = click.Path(dir_okay=False, allow_dash=True)


@click.command()
@click.argument("source", required=False)
@click.option("--frames", type=SliceType(), help="Slice of the sorted frames, as in Python.")
@click.option("--loop", type=click.IntRange(1), default=1, show_default=True, help="Run the frames this often.")
@click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@click.option("--mask", help="Source of the computation mask of the sparse mode.")
@click.option("--score", type=click.FloatRange(0, 1), help="Least score of a box.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the network. Default: all cores.")
@auto_sensor_option
@click.option("--json", "json_file", type=FILE, help="Write the profile, or the comparison; - is stdout.")
@click.option("--trace", type=click.Path(path_type=Path, dir_okay=False), help="Chrome trace, for ui.perfetto.dev.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="A page with charts (extra 'plots').")
@click.option("--compare", type=click.Path(path_type=Path, dir_okay=False), nargs=2, help="Two files of --json.")
@click.option("--tolerance", type=click.FloatRange(0), default=TOLERANCE, show_default=True, help="Of a ratio.")
@click.option("--force", is_flag=True, help="Compare although machine or frames differ.")
def profile(
    source: str | None,
    frames: slice | None,
    loop: int,
    config: str,
    device: str | None,
    mask: str | None,
    score: float | None,
    threads: int | None,
    auto_sensor: bool,
    json_file: str | None,
    trace: Path | None,
    html: Path | None,
    compare: tuple[Path, Path] | None,
    tolerance: float,
    force: bool,
) -> None:
    """Latency of every stage: sparse, dense through onnxruntime, and sparse with all tiles active.

    Each runs in a process of its own, warm, and they take turns. SOURCE is what `detect` takes.

    \b
    roadblocks profile $KITTI --html profile.html --json new.json
    roadblocks profile $KITTI --frames 0:50 --loop 20 --trace trace.json
    roadblocks profile --compare old.json new.json

    Exit codes: 0 done, 1 some frames skipped, 2 nothing could be done, 3 --compare found a regression, 130 Ctrl-C.
    """
    if compare:
        _compare(*compare, tolerance, force, json_file)
        return
    if source is None:
        raise click.UsageError("expected SOURCE, or --compare OLD NEW")
    settings = {"config": config, "device": device, "mask": mask, "score": score, "threads": threads}
    _profile(source, frames, loop, settings, auto_sensor, json_file, trace, html)


def _profile(
    source: str,
    frames: slice | None,
    loop: int,
    settings: dict[str, Any],
    auto_sensor: bool,
    json_file: str | None,
    trace: Path | None,
    html: Path | None,
) -> None:
    """Measures, prints, writes."""
    from detector.profile.charts import import_matplotlib
    from detector.profile.measure import measure, read_frames
    from detector.profile.meter import MODES
    from detector.profile.page import make_page
    from detector.profile.record import fact_lines, machine_line, make_record, mode_table, stage_table
    from detector.profile.trace import make_trace
    from detector.sources import open_sources

    _prepare_outputs([trace, html, Path(json_file) if json_file and json_file != "-" else None])
    if html:
        import_matplotlib()
    warning = busy_warning()
    if warning:
        messages.print(warning, style="yellow")
    sources = open_sources([source], frames)
    if auto_sensor:
        settings = {**settings, "sensor": measured_sensor(settings["config"], sources)}
    found = read_frames(sources)
    with Progress(console=messages, transient=True) as progress:
        task = progress.add_task("profile", total=len(MODES) * len(found.files) * loop)
        measured = measure(
            found, settings, loop, WORST_FRAMES if html else 0, lambda count: progress.advance(task, count)
        )
    record = make_record(measured, [opened.name for opened in sources])
    if json_file != "-":
        results.print(stage_table(record), mode_table(record))
        for line in (*fact_lines(record), machine_line(record)):
            results.print(Text(line), soft_wrap=True)
    if json_file:
        emit_json(json_file, record)
    if trace:
        write_whole(trace, json.dumps(make_trace(measured)))
    if html:
        write_whole(html, make_page(record, measured.pictures))
    if found.skipped:
        sys.exit(ExitCode.SKIPPED_FRAMES)


def _prepare_outputs(files: list[Path | None]) -> None:
    """Makes the folders of the outputs before the measurement, not after it."""
    for file in files:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)


def _compare(before: Path, after: Path, tolerance: float, force: bool, json_file: str | None) -> None:
    """Judges the second profile by the first, prints, writes."""
    old, new = comparing.read_record(before), comparing.read_record(after)
    if not force:
        comparing.check_comparable(old, new)
    notes = comparing.differences(old, new)
    changes = comparing.compare(old, new, tolerance)
    report = comparing.comparison_json(changes, notes)
    if json_file != "-":
        results.print(comparing.comparison_table(changes))
        for note in notes:
            results.print(Text(f"differs: {note}"), soft_wrap=True)
        results.print(comparing.verdict_line(changes, tolerance), soft_wrap=True)
    if json_file:
        emit_json(json_file, report)
    if report["regression"]:
        sys.exit(ExitCode.REGRESSION)
