"""The command `roadblocks`. Commands are thin: they read options, call one function, print what it says."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from detector.errors import ExitCode, RoadblocksError

if TYPE_CHECKING:
    from detector.config import SensorConfig
    from detector.sources import Source

MASKS = "auto, all, occupancy, road, foreground, road+occupancy, foreground+occupancy or map:FILE"

# Messages and progress go to stderr, results to stdout: pipes stay clean.
messages = Console(stderr=True, highlight=False)
results = Console(highlight=False)


class LineHandler(logging.Handler):
    """Warnings as one line each, above a running progress bar, never wrapped: they can be searched for."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        messages.print(Text(self.format(record), style="yellow"), soft_wrap=True)


class FriendlyGroup(click.Group):
    """A command group whose errors that a user can cause become one line and exit code 2."""

    def invoke(self, context: click.Context) -> Any:
        """Runs the command; an error a user can cause is told without a traceback."""
        try:
            return super().invoke(context)
        except RoadblocksError as error:
            messages.print(Text(f"error: {error}", style="red"), soft_wrap=True)
            sys.exit(ExitCode.FAILED)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            messages.print(Text(f"error: {place}{error.strerror or error}", style="red"), soft_wrap=True)
            sys.exit(ExitCode.FAILED)
        except (KeyboardInterrupt, click.exceptions.Abort):
            messages.print("interrupted")
            sys.exit(ExitCode.INTERRUPTED)


class Commands(FriendlyGroup):
    """The commands of `roadblocks`; plug-in commands join by entry point."""

    PLUGINS = "roadblocks.commands"
    # Command → module of this package that holds a command of that name; imported when asked for.
    MODULES: ClassVar[dict[str, str]] = {
        "doctor": "detector.doctor_command",
        "stream": "detector.stream_command",
        "view": "detector.view_command",
    }

    def list_commands(self, context: click.Context) -> list[str]:
        """Names of all commands."""
        plugins = metadata.entry_points(group=self.PLUGINS).names
        return sorted({*super().list_commands(context), *self.MODULES, *plugins})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of a name; plug-ins are imported only when asked for."""
        own = super().get_command(context, name)
        if name in self.MODULES:
            own = getattr(import_module(self.MODULES[name]), name)
        plugins = metadata.entry_points(group=self.PLUGINS, name=name)
        return own or next((plugin.load() for plugin in plugins), None)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="roadblocks")
def main() -> None:
    """LiDAR vehicle detection that computes only where vehicles can be.

    \b
    Nothing at hand?  roadblocks sample drive
    Detect:           roadblocks detect drive -o out --render
    Look at it:       roadblocks view out --viewer rerun
    Stream:           roadblocks stream drive --rate 10
    Evaluate:         roadblocks evaluate out drive
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[LineHandler()], force=True)


class SliceType(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.2
    """A:B, A: or :B, a slice of the sorted list of frames."""

    name = "A:B"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> slice:
        """Text to slice."""
        if isinstance(value, slice):
            return value
        try:
            start, stop = (int(part) if part else None for part in value.split(":"))
        except ValueError:
            self.fail(f"'{value}' is no slice; expected A:B, for example 0:100 or 50:", param, context)
        return slice(start, stop)


auto_sensor_option = click.option(
    "--auto-sensor", is_flag=True, help="Measure height and intensities on the first frames, and adjust to them."
)


def pipeline_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which frames are run, and how."""
    options = (
        auto_sensor_option,
        click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute."),
        click.option("--mask", help=f"Source of the computation mask: {MASKS}."),
        click.option(
            "--execution", type=click.Choice(["sparse", "dense"]), help="Active tiles, or all by onnxruntime."
        ),
        click.option("--score", type=click.FloatRange(0, 1), help="Least score of a box that is written."),
        click.option("--budget-ms", type=float, help="Time per frame; far tiles that do not fit are left out."),
        click.option("--frames", type=SliceType(), help="Slice of the sorted frames, as in Python."),
        click.option("--threads", type=click.IntRange(1), help="CPU threads of the network. Default: all cores."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@main.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("-o", "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Output folder.")
@pipeline_options
@click.option("--render", is_flag=True, help="Draw a bird's-eye-view picture per frame.")
@click.option("--on-error", type=click.Choice(["skip", "stop"]), default="skip", show_default=True, help="Bad frames.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run in OUT.")
@click.option("--json", "json_file", help="Write the run's summary as JSON; - is stdout.")
def detect(
    sources: tuple[str, ...],
    out: Path,
    frames: slice | None,
    render: bool,
    on_error: str,
    resume: bool,
    json_file: str | None,
    auto_sensor: bool,
    **settings: Any,
) -> None:
    """Find vehicles in recorded frames.

    SOURCE is a KITTI object folder (with or without training/), a KITTI raw drive, date folder or root, a folder
    of .bin, .pcd or .ply files, a quoted glob pattern, or one such file.

    \b
    roadblocks detect $KITTI -o out --render
    roadblocks detect 2011_09_26/2011_09_26_drive_0005_sync -o out --frames 0:50
    roadblocks detect 'sweeps/*.pcd' -o out

    Exit codes: 0 all frames good, 1 some skipped, 2 nothing could be done, 130 Ctrl-C.
    """
    from detector.pipeline import Pipeline
    from detector.run import RunOptions, detect_sources
    from detector.sources import open_sources

    opened = open_sources(sources, frames)
    for source in opened:
        if source.why_no_calibration:
            reason = f"{source.why_no_calibration}; boxes go to detections.jsonl, LiDAR frame"
            messages.print(Text(reason), soft_wrap=True)
    sensor = measured_sensor(settings["config"], opened) if auto_sensor else None
    with messages.status(start_up_message()):
        pipeline = Pipeline.from_config(**settings, sensor=sensor)
        pipeline.warm_up()
    total = sum(len(source.frames) for source in opened)
    with frame_progress() as progress:
        task = progress.add_task("detect", total=total)
        summary = detect_sources(
            pipeline,
            opened,
            out,
            RunOptions(render, on_error == "stop", resume),
            lambda: progress.advance(task),
        )
    _print_summary(summary.to_json(), out, json_file)
    if summary.interrupted:
        raise KeyboardInterrupt
    if summary.skipped:
        sys.exit(ExitCode.SKIPPED_FRAMES if summary.good or summary.resumed else ExitCode.FAILED)


@main.command()
@click.argument("predictions", type=click.Path(path_type=Path))
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), help="File that lists the frame ids to count.")
@click.option("--against", type=click.Path(path_type=Path), help="Other predictions of the same frames, to compare.")
@click.option("--json", "json_file", help="Write the result as JSON; - is stdout.")
def evaluate(predictions: Path, labels: Path, split: Path | None, against: Path | None, json_file: str | None) -> None:
    """Average precision by the official KITTI protocol: 2D, BEV and 3D, 11 and 40 recall points.

    PREDICTIONS is an output folder of `detect` or its label_2, LABELS a folder of KITTI label files.

    \b
    roadblocks evaluate out $KITTI/training/label_2 --split $KITTI/ImageSets/val.txt
    roadblocks evaluate sparse drive --against dense
    """
    from detector.evaluate import evaluate_folders, read_folders, result_table
    from detector.paired import difference_table, paired_difference

    report = evaluate_folders(predictions, labels, split)
    values: dict[str, Any] = dict(report.average_precision)
    tables = [result_table(report)]
    if against is not None:
        found, other = (read_folders(folder, labels, split) for folder in (predictions, against))
        metrics = ("bev", "3d", "bev_50", "3d_50")
        differences = {name: paired_difference(found[2], other[2], found[3], name) for name in metrics}
        values["difference"] = {name: asdict(difference) for name, difference in differences.items()}
        tables.append(difference_table(differences))
    if json_file != "-":
        results.print(*tables)
    if json_file:
        emit_json(json_file, values)


def measured_sensor(config: str, sources: Sequence[Source]) -> SensorConfig:
    """The sensor settings that `--auto-sensor` applies; says what they are.

    Args:
        config: name or file of the configuration.
        sources: whose first frames are measured.
    """
    from detector.auto_sensor import applied_line, auto_sensor, trained_height_m
    from detector.config import Config, load_config

    values: Config = load_config(config)
    sensor, estimate = auto_sensor(values, sources)
    messages.print(Text(applied_line(sensor, estimate, trained_height_m(values))), soft_wrap=True)
    return sensor


def start_up_message() -> str:
    """What to say while a pipeline gets ready."""
    from kernels.jit import is_compiled

    return (
        "loading the network …" if is_compiled() else "compiling kernels for this machine, once: about half a minute …"
    )


class RateColumn(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        """The rate of the last seconds."""
        return Text(f"{task.speed:.1f} frames/s" if task.speed else "")


def frame_progress() -> Progress:
    """A bar that counts frames, on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=messages)


def _print_summary(summary: dict[str, Any], out: Path, json_file: str | None) -> None:
    if json_file:
        emit_json(json_file, summary)
    if json_file == "-":
        return
    if summary["stages"]:
        results.print(stage_table(summary["stages"]))
    resumed = f" ({summary['resumed']} done before)" if summary["resumed"] else ""
    skipped = f", {len(summary['skipped'])} skipped" if summary["skipped"] else ""
    results.print(
        Text(f"{summary['frames']} frames{resumed}, {summary['boxes']} boxes{skipped}. Output: {out}"),
        soft_wrap=True,
    )
    if summary["faults"]:
        counts = ", ".join(f"{fault}: {count}" for fault, count in summary["faults"].items())
        results.print(Text(f"Frames by what was wrong or doubtful: {counts}"), soft_wrap=True)


def stage_table(stages: dict[str, dict[str, float]]) -> Table:
    """Milliseconds per stage as a table."""
    table = Table(title="Milliseconds per frame")
    table.add_column("stage")
    for name in ("p50", "p95", "max"):
        table.add_column(name, justify="right")
    for stage, row in stages.items():
        if stage == "total":
            table.add_section()
        values = (f"{row[f'{name}_ms']:.2f}" for name in ("p50", "p95", "max"))
        table.add_row("total, load to nms" if stage == "total" else stage, *values)
    return table


def emit_json(file: str, value: Any) -> None:
    """Writes a result as JSON to a file, whole, or to stdout for "-"."""
    from detector.files import write_json

    if file == "-":
        click.echo(json.dumps(value, indent=1))
    else:
        write_json(Path(file), value)


if __name__ == "__main__":
    main()
