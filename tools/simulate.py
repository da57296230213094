"""`roadblocks sample`: simulated drives on disk, with labels. Same arguments, same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.progress import track

from detector.errors import SourceError
from detector.files import write_json
from tools.simulation.drive import DEFAULT_SENSOR, simulate_drive
from tools.simulation.layouts import LAYOUTS, clear_layout
from tools.simulation.sensor import load_sensor, sensor_names

MARKER = "simulated.json"  # says that a folder is a drive of ours, which --overwrite may replace


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--frames", type=click.IntRange(1), default=20, show_default=True, help="Number of frames.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed is another world.")
@click.option(
    "--sensor",
    default=DEFAULT_SENSOR,
    show_default=True,
    metavar="NAME|FILE",
    help=f"The LiDAR and its mounting: {', '.join(sensor_names())}, or a YAML file like those of configs/sensors.",
)
@click.option(
    "--layout", type=click.Choice(list(LAYOUTS)), default="object", show_default=True, help="KITTI's, of the folder."
)
@click.option("--full", is_flag=True, help="Whole sweeps, not only what the camera sees.")
@click.option(
    "--step", "step_s", type=click.FloatRange(0.01), help="Seconds between frames.  [default: a turn of the sensor]"
)
@click.option("--frames-per-world", type=click.IntRange(1), help="Frames until a new world begins.  [default: 60 s]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Casts the rays.")
@click.option("--overwrite", is_flag=True, help="Replace a drive that OUT already holds.")
def sample(
    out: Path,
    frames: int,
    seed: int,
    sensor: str,
    layout: str,
    full: bool,
    step_s: float | None,
    frames_per_world: int | None,
    device: str,
    overwrite: bool,
) -> None:
    """Write a simulated, labelled drive in a KITTI layout.

    Beside KITTI's files it has the ground of every frame (road/*.png) and poses and tracks (tracks.jsonl).

    \b
    roadblocks sample drive --frames 50 --seed 1
    roadblocks sample training --frames 1000 --frames-per-world 5 --step 2
    """
    drive = simulate_drive(frames, seed, load_sensor(sensor), full, step_s, frames_per_world, device)
    if out.exists() and any(out.iterdir()):
        _clear(out, overwrite)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"frames": frames, "seed": seed, "sensor": sensor, "layout": layout, "full": full}
    settings |= {"step_s": step_s, "frames_per_world": frames_per_world, "device": device}
    write_json(out / MARKER, {"simulated": True, **settings})
    LAYOUTS[layout](out, track(drive, "simulate", frames, transient=True))
    click.echo(f"{frames} frames in {out}")


def _clear(out: Path, overwrite: bool) -> None:
    """Removes a drive of ours, and no file that is not of its kind."""
    if not overwrite:
        raise SourceError(f"{out}: is not empty; expected a new folder, or --overwrite to replace a drive in it")
    if not (out / MARKER).is_file():
        raise SourceError(f"{out}: holds no {MARKER}, so no simulated drive to replace; choose another OUT")
    clear_layout(out, json.loads((out / MARKER).read_text(encoding="utf-8")).get("layout", "object"))
