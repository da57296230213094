"""``python -m tools.benchmark sweeps``: how fast the simulator casts whole sweeps and makes whole frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from tools.benchmark.report import emit, origin, warn_if_busy
from tools.simulation.drive import simulate_frame
from tools.simulation.sensor import load_sensor
from tools.simulation.sweep import sweep
from tools.simulation.world import World, build_world

PERIOD_S = 0.1


def median_ms(make: Callable[[World, float, np.random.Generator], object], world: World, frames: int) -> float:
    """Milliseconds per frame at successive moments of a world, median; the first, which may compile, not counted."""
    taken_ms = []
    for number in range(frames + 1):
        start_s = time.perf_counter()
        make(world, number * PERIOD_S, np.random.default_rng(number))
        taken_ms.append(1e3 * (time.perf_counter() - start_s))
    return float(np.median(taken_ms[1:]))


@click.command()
@click.option("--sensor", "name", default="hdl64e", show_default=True, help="Shipped sensor or a YAML file.")
@click.option("--rays", type=click.IntRange(1), default=2000, show_default=True, help="Columns of a turn.")
@click.option("--worlds", type=click.IntRange(1), default=6, show_default=True, help="Worlds, seeds 1 and up.")
@click.option("--frames", type=click.IntRange(1), default=30, show_default=True, help="Frames of each world.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def sweeps(name: str, rays: int, worlds: int, frames: int, json_file: str | None) -> None:
    """Whole turns of a simulated LiDAR: the sweep alone, and a frame with its labels, tracks and road."""
    warn_if_busy()
    sensor = replace(load_sensor(name), rays_per_turn=rays)
    rows: list[dict[str, Any]] = []
    for seed in track(range(1, worlds + 1), "worlds", console=messages, transient=True):
        start_s = time.perf_counter()
        world = build_world(frames * PERIOD_S, np.random.default_rng(seed))
        build_s = time.perf_counter() - start_s
        rows.append(
            {
                "seed": seed,
                "setting": world.setting,
                "build_s": round(build_s, 3),
                "sweep_ms": round(median_ms(lambda *at: sweep(sensor, *at), world, frames), 3),
                "frame_ms": round(median_ms(lambda *at: simulate_frame(*at, sensor, full=True), world, frames), 3),
            }
        )
    record = {
        "sensor": {"name": name, "beams": len(sensor.elevation_deg), "rays_per_turn": sensor.rays_per_turn},
        "frames": frames,
        "worlds": rows,
        "sweeps_per_s": round(1e3 / float(np.median([row["sweep_ms"] for row in rows])), 2),
        "frames_per_s": round(1e3 / float(np.median([row["frame_ms"] for row in rows])), 2),
        **origin(),
    }
    emit(json_file, record, record_table(record))


def record_table(record: dict[str, Any]) -> Table:
    """A row per world."""
    sensor = record["sensor"]
    title = (
        f"{sensor['name']}, {sensor['beams']} × {sensor['rays_per_turn']} beams: {record['sweeps_per_s']:.1f} sweeps/s"
    )
    table = Table("world", title=f"{title}, {record['frames_per_s']:.1f} frames/s with labels, tracks and road")
    for name in ("build s", "sweep ms", "frame ms"):
        table.add_column(name, justify="right")
    for row in record["worlds"]:
        times = (row["build_s"], row["sweep_ms"], row["frame_ms"])
        table.add_row(f"{row['seed']} {row['setting']}", *(f"{value:.1f}" for value in times))
    return table
