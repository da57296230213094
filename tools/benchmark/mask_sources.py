"""``python -m tools.benchmark masks``: what every source of the computation mask saves, and what it loses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from detector.boxes import labels_from_detections
from detector.canvas import active_cells
from detector.cli import messages
from detector.config import Config, MaskConfig, load_config
from detector.errors import ExitCode
from detector.evaluate import evaluate
from detector.labels import CAR, KittiLabels
from detector.matching import DIFFICULTIES, METRICS, FramePair
from detector.paired import paired_difference
from detector.pipeline import Pipeline
from detector.stages import Stage
from detector.types import Frame
from kernels.tiles import ActiveTiles
from models.grid import BevSpec
from models.masks import MAP, PREFERRED, SOURCES
from tools.benchmark.labelled import frames_for
from tools.benchmark.mask_plot import draw_tradeoff
from tools.benchmark.report import emit, origin, warn_if_busy
from tools.training.dataset import LabelledFrame
from tools.training.targets import vehicle_cells

MARGINS_M = (0.0, 0.4, 0.8, 1.2, 1.6, 2.4, 3.0)
THRESHOLDS = {
    "occupancy": (-0.5, 0.1, 0.3, 0.5),
    "road": (0.1, 0.3, 0.5, 0.7),
    "foreground": (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7),
}
FOUND = METRICS["bev_50"]  # what it takes for a car to be found


@dataclass(frozen=True)
class MaskRun:
    """All frames with one mask.

    Attributes:
        mask: source, threshold and margin.
        found: detections of each frame.
        tile_fractions: of each frame.
        cells_inside: of each counted car, the share of its cells inside active tiles.
        mask_ms: median of mask and reduce.
        frame_ms: median from voxelize to nms.
        display_score: of the network.
    """

    mask: MaskConfig
    found: list[KittiLabels]
    tile_fractions: NDArray[np.float64]
    cells_inside: NDArray[np.float64]
    mask_ms: float
    frame_ms: float
    display_score: float

    @classmethod
    def of(cls, config: Config, frames: Sequence[LabelledFrame]) -> MaskRun:
        """Detects on every frame."""
        pipeline = Pipeline.from_config(config)
        pipeline.warm_up()
        found, fractions, inside, mask_ms, frame_ms = [], [], [], [], []
        for frame in frames:
            result = pipeline.detect(Frame(frame.points, frame.id, calibration=frame.calibration))
            found.append(labels_from_detections(result.detections, frame.calibration))
            fractions.append(result.tiles_run / result.tiles_total)
            mask_ms.append(result.stage_ms[Stage.MASK.value] + result.stage_ms[Stage.REDUCE.value])
            frame_ms.append(sum(result.stage_ms.values()))
            assert result.tiles is not None
            inside += car_shares(result.tiles, pipeline.spec, frame.boxes[frame.counted])
        return cls(
            pipeline.config.mask,
            found,
            np.array(fractions),
            np.array(inside),
            float(np.median(mask_ms)),
            float(np.median(frame_ms)),
            pipeline.network.info.display_score,
        )

    def facts(self) -> dict[str, Any]:
        """What the record says of the run, without accuracy."""
        return {
            **asdict(self.mask),
            "tile_fraction": {"p50": float(np.median(self.tile_fractions)), "p95": _p95(self.tile_fractions)},
            "car_cells_inside": float(self.cells_inside.mean()),
            "cars_wholly_inside": float((self.cells_inside == 1).mean()),
            "mask_ms": self.mask_ms,
            "frame_ms": self.frame_ms,
        }


def car_shares(tiles: ActiveTiles, spec: BevSpec, boxes: NDArray[np.float32]) -> list[float]:
    """Of every box (M, 7) that touches the grid, the share of its cells inside active tiles."""
    cells, shares = active_cells(tiles, spec), []
    for box in boxes:
        own = vehicle_cells(box[None], (spec.x_min_m, spec.y_min_m), spec.cell_m, cells.shape, 0.0)
        if own.any():
            shares.append(float(cells[own].mean()))
    return shares


def _p95(values: NDArray[np.float64]) -> float:
    return float(np.percentile(values, 95))


@dataclass(frozen=True)
class Comparison:
    """Runs with masks beside a run without.

    Args:
        dense: every tile active.
        frames: labelled.
    """

    dense: MaskRun
    frames: Sequence[LabelledFrame]

    @cached_property
    def _found_dense(self) -> list[set[int]]:
        return self._found(self.dense)

    def _found(self, run: MaskRun) -> list[set[int]]:
        """Of each frame the moderate cars that are found at the score that pictures show."""
        return [
            set(FramePair(found, frame.labels).found_objects(FOUND, DIFFICULTIES["moderate"], run.display_score))
            for found, frame in zip(run.found, self.frames, strict=True)
        ]

    def lost(self, run: MaskRun) -> list[str]:
        """Moderate cars that are found without a mask and not with it: ``FRAME:place in the label file's vehicles``."""
        both = zip(self.frames, self._found_dense, self._found(run), strict=True)
        return [f"{frame.id}:{car}" for frame, dense, masked in both for car in sorted(dense - masked)]

    def facts(self, run: MaskRun, interval: bool) -> dict[str, Any]:
        """Everything that the record says of a run; ``interval`` asks for the bootstrap, which takes seconds."""
        labels = [frame.labels for frame in self.frames]
        ap, dense = (evaluate(each.found, labels)[CAR] for each in (run, self.dense))
        facts = {**run.facts(), "ap": {name: ap[name]["R40"]["moderate"] for name in ("bev", "3d", "bev_50", "3d_50")}}
        facts["ap_minus_dense"] = facts["ap"]["bev"] - dense["bev"]["R40"]["moderate"]
        facts["cars_found_dense"], facts["lost"] = sum(map(len, self._found_dense)), self.lost(run)
        if interval:
            facts["difference"] = asdict(paired_difference(run.found, self.dense.found, labels, "bev"))
        return facts


def sweep(sources: Iterable[str]) -> Iterator[MaskConfig]:
    """Every margin at the default threshold, then every threshold at the default margin."""
    for source in sources:
        yield from (MaskConfig(source, margin_m=margin_m) for margin_m in MARGINS_M)
        thresholds = THRESHOLDS.get(source.partition("+")[0], ())
        yield from (MaskConfig(source, threshold=threshold) for threshold in thresholds)


def sources_table(runs: Sequence[dict[str, Any]], frames: int) -> Table:
    """One line for every source at its defaults."""
    columns = ("tiles p50", "p95", "car cells", "cars whole", "mask ms", "frame ms", "BEV AP", "− dense", "lost")
    table = Table("mask", *columns, title=f"masks on {frames} frames")
    for run in runs:
        interval = run["difference"]
        table.add_row(
            f"{run['source']} > {run['threshold']:g}, {run['margin_m']:g} m",
            f"{run['tile_fraction']['p50']:.3f}",
            f"{run['tile_fraction']['p95']:.3f}",
            f"{run['car_cells_inside']:.1%}",
            f"{run['cars_wholly_inside']:.1%}",
            f"{run['mask_ms']:.1f}",
            f"{run['frame_ms']:.1f}",
            f"{run['ap']['bev']:.2f}",
            f"{run['ap_minus_dense']:+.2f}"
            + (f" [{interval['low']:+.2f}, {interval['high']:+.2f}]" if interval else ""),
            f"{len(run['lost'])} of {run['cars_found_dense']}",
        )
    return table


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="File that lists the frame ids to count.")
@click.option("--config", "name", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--mask", "sources", multiple=True, help="Only these sources.  [default: all that the model has]")
@click.option("--sweep/--no-sweep", "swept", default=True, show_default=True, help="Margins and thresholds as well.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw the trade-off.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def masks(
    source: Path,
    split: Path | None,
    name: str,
    sources: tuple[str, ...],
    swept: bool,
    plot: Path | None,
    json_file: str | None,
) -> ExitCode:
    """Every source of the computation mask on labelled frames: share of tiles, cars inside, time, AP against dense.

    \b
    python -m tools.benchmark masks $KITTI --split configs/splits/kitti_val.txt
    """
    warn_if_busy()
    config = load_config(name)
    frames = frames_for(config, source, split)
    chosen = sources or [each for each in SOURCES if each != MAP]
    comparison = Comparison(MaskRun.of(replace(config, mask=MaskConfig("all")), frames), frames)
    plain = [MaskConfig(each) for each in chosen]
    runs = []
    for mask in track([*plain, *(sweep(chosen) if swept else ())], "masks", console=messages, transient=True):
        run = MaskRun.of(replace(config, mask=mask), frames)
        runs.append(comparison.facts(run, interval=mask in plain))
    defaults, rest = runs[: len(plain)], runs[len(plain) :]
    record = {"frames": len(frames), "network": config.model, "preferred": PREFERRED, "sources": defaults}
    record |= {"sweep": rest, **origin()}
    emit(json_file, record, sources_table(defaults, len(frames)))
    if plot:
        draw_tradeoff(record, plot)
    return ExitCode.OK
