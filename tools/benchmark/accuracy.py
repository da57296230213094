"""``python -m tools.benchmark accuracy``: average precision of sparse execution beside dense."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from detector.config import Config, load_config
from detector.errors import SourceError
from detector.evaluate import evaluate, read_folders
from detector.labels import CAR, KittiLabels
from detector.paired import paired_difference
from detector.pipeline import Pipeline
from detector.ranges import evaluate_ranges
from detector.run import detect_sources
from detector.sources import Source, open_sources
from models.network import load_network
from tools.benchmark.labelled import identity
from tools.benchmark.pages import ap_cell
from tools.benchmark.report import emit, origin

METRICS = ("bev", "3d", "bev_50", "3d_50")


def labelled_source(source: Path, split: Path | None) -> tuple[Source, Path]:
    """The frames of a KITTI object set that count, and the folder of their labels.

    Raises:
        SourceError: if SOURCE is not one set with labels.
    """
    opened = open_sources([source])
    label = opened[0].frames[0].label_path
    if len(opened) != 1 or label is None:
        raise SourceError(f"{source}: found no labels beside its points; expected one KITTI object set with label_2")
    ids = None if split is None else set(split.read_text(encoding="utf-8").split())
    frames = tuple(frame for frame in opened[0].frames if ids is None or frame.id in ids)
    return replace(opened[0], frames=frames), label.parent


@dataclass(frozen=True)
class Run:
    """One way of running, over all frames.

    Attributes:
        found: detections of each frame.
        truth: labels of each frame.
        facts: AP, AP by range, and of sparse execution the share of active tiles.
    """

    found: list[KittiLabels]
    truth: list[KittiLabels]
    facts: dict[str, Any]

    @classmethod
    def of(cls, config: Config, source: Source, labels: Path, split: Path | None) -> Run:
        """Detects on every frame."""
        pipeline = Pipeline.from_config(config)
        with tempfile.TemporaryDirectory() as folder:
            detect_sources(pipeline, [source], Path(folder))
            _, _, found, truth = read_folders(Path(folder), labels, split)
        facts: dict[str, Any] = {"execution": config.execution, "ap": evaluate(found, truth)[CAR]}
        facts["ranges"] = evaluate_ranges(found, truth)
        if config.execution == "sparse":
            tiles = [pipeline.active_tiles(frame.load()) for frame in source.frames]
            facts["mask"] = asdict(pipeline.config.mask)
            facts["tile_fraction"] = float(np.mean([len(active) / active.spec.total for active in tiles]))
        return cls(found, truth, facts)

    def against(self, other: Run) -> dict[str, Any]:
        """The facts, with the difference to another run."""
        differences = {name: paired_difference(self.found, other.found, self.truth, name) for name in METRICS}
        return {**self.facts, "difference": {name: asdict(found) for name, found in differences.items()}}


def accuracy_table(record: dict[str, Any]) -> Table:
    """AP R40 moderate of every run, and its difference to dense."""
    table = Table("run", "tiles", *METRICS, title=f"Car AP R40 moderate, {record['frames']} frames")
    for run in record["runs"]:
        name = f"{run['mask']['source']}, {run['mask']['margin_m']:g} m" if "mask" in run else run["execution"]
        tiles = f"{run['tile_fraction']:.3f}" if "tile_fraction" in run else ""
        apart = run.get("difference", {})
        cells = (ap_cell(run["ap"][metric]["R40"]["moderate"], apart.get(metric)) for metric in METRICS)
        table.add_row(name, tiles, *cells)
    return table


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="File that lists the frame ids to count.")
@click.option("--config", "name", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--margin", "margins", type=float, multiple=True, help="Metres besides the default, which is run first.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def accuracy(source: Path, split: Path | None, name: str, margins: tuple[float, ...], json_file: str | None) -> None:
    """Average precision on a KITTI object set: sparse as configured, and with other margins, against dense.

    \b
    python -m tools.benchmark accuracy $KITTI --split configs/splits/kitti_val.txt
    """
    config = load_config(name)
    chosen, labels = labelled_source(source, split)
    dense = Run.of(replace(config, execution="dense"), chosen, labels, split)
    runs = [dense.facts]
    masks = [config.mask, *(replace(config.mask, margin_m=margin_m) for margin_m in margins)]
    for mask in track(masks, "masks", console=messages, transient=True):
        sparse = replace(config, execution="sparse", mask=mask)
        runs.append(Run.of(sparse, chosen, labels, split).against(dense))
    record = {"frames": len(chosen.frames), **identity(load_network(config.model)), "runs": runs, **origin()}
    emit(json_file, record, accuracy_table(record))
