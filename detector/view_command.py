"""`roadblocks view`: what `detect` wrote, as pictures, in Open3D's window, or in Rerun."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from detector.cli import SliceType, frame_progress, messages, results
from detector.pipeline import Pipeline
from detector.run import frame_picture
from detector.sinks import save_picture
from detector.types import FrameResult
from detector.viewers.open3d_window import FrameWindow
from detector.viewers.recorded import RecordedRun, open_run
from detector.viewers.rerun_log import RerunLog
from detector.viewers.scene import has_display


@click.command()
@click.argument("out", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--viewer",
    type=click.Choice(["picture", "open3d", "rerun"]),
    default="picture",
    show_default=True,
    help="Pictures in OUT, or a window. Without a display: pictures.",
)
@click.option(
    "--recording",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --viewer rerun: write this .rrd file and open no window.",
)
@click.option("--source", help="Where the frames are now. Default: where detect found them.")
@click.option("--frames", type=SliceType(), help="Slice of the frames of every source, as in Python.")
@click.option(
    "--score", type=click.FloatRange(0, 1), help="Least score of a box. Default: the network's display score."
)
def view(
    out: Path, viewer: str, recording: Path | None, source: str | None, frames: slice | None, score: float | None
) -> None:
    """Look at what detect wrote: points, boxes, active tiles.

    OUT is an output folder of `detect`. Points are read from the source again, and the tiles made from them.

    \b
    roadblocks view out                                  pictures, OUT/pictures/ID.png
    roadblocks view out --viewer rerun --frames 0:100    Rerun's window
    roadblocks view out --viewer rerun --recording out.rrd
    roadblocks view out --viewer open3d                  left and right turn, Q ends
    """
    check_recording(viewer, recording)
    run = open_run(out, source, frames)
    pipeline = run.pipeline()
    least_score = pipeline.network.info.display_score if score is None else score
    if viewer != "picture" and recording is None and not has_display():
        messages.print(Text(f"no display for {viewer} here, writing pictures"), soft_wrap=True)
        viewer = "picture"
    if viewer == "open3d":
        _open_window(run, pipeline, least_score)
    elif viewer == "rerun":
        _log_run(run, pipeline, least_score, recording)
    else:
        _draw_pictures(run, pipeline, least_score)


def check_recording(viewer: str | None, recording: Path | None) -> None:
    """Refuses a recording that no viewer would write.

    Raises:
        click.UsageError: if there is one.
    """
    if recording is not None and viewer != "rerun":
        raise click.UsageError("--recording is written by Rerun: add --viewer rerun")


def _draw_pictures(run: RecordedRun, pipeline: Pipeline, least_score: float) -> None:
    with frame_progress() as progress:
        for recorded in progress.track(run.frames, description="pictures"):
            result = recorded.load(pipeline)
            picture = frame_picture(pipeline, recorded.file, result, least_score=least_score)
            path = recorded.folder / "pictures" / f"{recorded.file.id}.png"
            path.parent.mkdir(exist_ok=True)
            save_picture(path, picture)
    folders = dict.fromkeys(str(recorded.folder / "pictures") for recorded in run.frames)
    results.print(Text(f"{len(run.frames)} pictures. Output: {', '.join(folders)}"), soft_wrap=True)


def _log_run(run: RecordedRun, pipeline: Pipeline, least_score: float, recording: Path | None) -> None:
    with RerunLog(pipeline.spec, recording) as log, frame_progress() as progress:
        for recorded in progress.track(run.frames, description="rerun"):
            log.log(recorded.load(pipeline), least_score)
    place = "Rerun's window" if recording is None else str(recording)
    results.print(Text(f"{len(run.frames)} frames. Output: {place}"), soft_wrap=True)


def _open_window(run: RecordedRun, pipeline: Pipeline, least_score: float) -> None:
    def load(number: int) -> FrameResult:
        recorded = run.frames[number]
        messages.print(Text(f"frame {recorded.file.id} ({number + 1} of {len(run.frames)})"))
        return recorded.load(pipeline)

    with FrameWindow(len(run.frames), load, pipeline.spec, least_score) as window:
        window.run()
