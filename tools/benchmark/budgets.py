"""``python -m tools.benchmark budgets``: frames within a budget, the crowded ones above all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.boxes import labels_from_detections
from detector.cli import messages
from detector.config import BudgetConfig, Config, MaskConfig, load_config
from detector.matching import DIFFICULTIES, FramePair
from detector.pipeline import Pipeline
from detector.types import Frame
from tools.benchmark.labelled import frames_for
from tools.benchmark.mask_sources import FOUND
from tools.benchmark.report import emit, origin, warn_if_busy
from tools.training.dataset import LabelledFrame

SOURCES = ("foreground", "occupancy")  # one that says how likely tiles are, and one that goes by nearness alone
TILES = (50, 100, 200, 400)
BUDGETS_MS = (15.0, 20.0, 30.0, 50.0)
CROWDED = 0.25  # of the frames, those with the most active tiles
LAPS = 3


def run_frames(config: Config, frames: Sequence[LabelledFrame], laps: int = 1) -> dict[str, Any]:
    """What a budget does to a list of frames.

    Args:
        config: with a budget.
        frames: labelled.
        laps: how often they are run; the first one, in which machine and budget get to know one another, is not timed.
    """
    pipeline = Pipeline.from_config(config)
    score, moderate = pipeline.network.info.display_score, DIFFICULTIES["moderate"]
    total_ms, left_out, active, cars = [], [], [], 0
    for lap in range(laps):
        for frame in frames:
            result = pipeline.detect(Frame(frame.points, frame.id, calibration=frame.calibration))
            if lap or laps == 1:
                total_ms.append(sum(result.stage_ms.values()))
                left_out.append(result.tiles_left_out)
                active.append(result.tiles_run + result.tiles_left_out)
            if lap == laps - 1:
                found = labels_from_detections(result.detections, frame.calibration)
                cars += len(FramePair(found, frame.labels).found_objects(FOUND, moderate, score))
    crowded = np.array(active) >= np.quantile(active, 1 - CROWDED)
    late = np.array(total_ms) > (config.budget.ms or np.inf)
    return {
        "source": config.mask.source,
        "tiles": config.budget.tiles,
        "budget_ms": config.budget.ms,
        "p50_ms": float(np.median(total_ms)),
        "p99_ms": float(np.percentile(total_ms, 99)),
        "late": float(late.mean()),
        "late_crowded": float(late[crowded].mean()),
        "left_out": float(np.sum(left_out) / max(np.sum(active), 1)),
        "cars_found": cars,
    }


def budget_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line per budget."""
    table = Table("mask", "budget", "p50 ms", "p99 ms", "late", "crowded late", "tiles left out", "cars found")
    for row in rows:
        limit = f"{row['tiles']} tiles" if row["tiles"] else f"{row['budget_ms']:g} ms" if row["budget_ms"] else "none"
        times = (f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}")
        shares = (f"{row[key]:.1%}" for key in ("late", "late_crowded", "left_out"))
        table.add_row(row["source"], limit, *times, *shares, str(row["cars_found"]))
    return table


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="File that lists the frame ids to count.")
@click.option("--config", "name", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def budgets(source: Path, split: Path | None, name: str, json_file: str | None) -> None:
    """Time and tile budgets on labelled frames: how many end late, what is left out, which cars are still found.

    \b
    python -m tools.benchmark budgets $KITTI
    """
    warn_if_busy()
    config = load_config(name)
    frames = frames_for(config, source, split)
    limits = [BudgetConfig(), *(BudgetConfig(tiles=tiles) for tiles in TILES)]
    runs = [(MaskConfig(each), limit, 1) for each in SOURCES for limit in limits]
    runs += [(MaskConfig(SOURCES[0]), BudgetConfig(ms=ms), LAPS) for ms in BUDGETS_MS]
    rows = [
        run_frames(replace(config, mask=mask, budget=limit), frames, laps)
        for mask, limit, laps in track(runs, "budgets", console=messages, transient=True)
    ]
    emit(json_file, {"frames": len(frames), "network": config.model, "rows": rows, **origin()}, budget_table(rows))
