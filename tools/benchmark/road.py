"""``python -m tools.benchmark road``: the mask network where everything is known, and where nothing is as usual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table
from scipy import ndimage

from detector.cli import messages
from detector.config import Config, load_config
from detector.pipeline import Pipeline
from detector.types import Frame
from kernels.workspace import Workspace
from models.mask_network import CLASSES, MaskNetwork, mask_input, mask_network_of, mask_spec
from tools.benchmark.mask_sources import car_shares
from tools.benchmark.report import emit, origin
from tools.simulation.drive import simulate_drive
from tools.training.augment import Motion, turn
from tools.training.mask_samples import MaskFrame, from_simulation, mask_targets

SEED = 900  # training uses 0 and 1
SEEN_CELLS = 1  # how near a cell of 0.8 m the next point is where the sensor sees the ground
POINTS_TO_FIND = 10  # on a car that should not be missed

Points = NDArray[np.float32]
STILL = Motion(mirrored=False, angle_rad=0.0, scale=1.0, lift_m=0.0)


def _lifted(by_m: float) -> Callable[[Points, Points], None]:
    """The world seen from a sensor that is mounted higher: everything is lower."""

    def change(points: Points, boxes: Points) -> None:
        points[:, 2] -= by_m
        boxes[:, 2] -= by_m

    return change


def _turned(points: Points, boxes: Points) -> None:
    turn(points, boxes, np.pi / 2)


def _dull(points: Points, boxes: Points) -> None:
    points[:, 3] = 0


CONDITIONS: dict[str, Callable[[Points, Points], None]] = {
    "as trained": lambda points, boxes: None,
    "sensor 1 m higher": _lifted(1.0),
    "sensor 1 m lower": _lifted(-1.0),
    "turned by 90°": _turned,
    "no intensity": _dull,
}


def road_iou(frames: Sequence[MaskFrame], config: Config) -> dict[str, float]:
    """IoU of road, in the view of the camera: where the sensor sees the ground, and everywhere.

    Args:
        frames: simulated ones, as the camera sees them.
        config: of a model with a mask network.
    """
    pipeline = Pipeline(config)
    network = mask_network_of(pipeline.network)
    assert network is not None, "asked for by the command"
    spec, run = mask_spec(pipeline.spec), MaskNetwork(network)
    workspace = Workspace()
    counts = {"seen": np.zeros(2), "everywhere": np.zeros(2)}
    for frame in frames:
        grid = mask_input(frame.frame.points, spec, workspace)
        found = run(grid)[:, :, CLASSES.index("road")] > 0.5
        target, _ = mask_targets(frame, frame.frame.boxes, frame.frame.counted, STILL, spec, 0.0)
        road = target[0] > 0.5
        occupied = grid.any(2).reshape(found.shape[0], 2, found.shape[1], 2).any((1, 3))
        seen = ndimage.maximum_filter(occupied, 2 * SEEN_CELLS + 1)
        for name, where in (("seen", seen), ("everywhere", np.ones_like(seen))):
            counts[name] += (found & road & where).sum(), ((found | road) & where).sum()
    return {name: float(shared / union) for name, (shared, union) in counts.items()}


def cars_inside(
    frames: Sequence[MaskFrame], pipeline: Pipeline, change: Callable[[Points, Points], None]
) -> dict[str, float]:
    """Tiles and cars of whole sweeps under a condition, with the pipeline's own mask."""
    fractions, shares = [], []
    for frame in frames:
        points, boxes = frame.frame.points.copy(), frame.frame.boxes.copy()
        change(points, boxes)
        tiles = pipeline.active_tiles(Frame(points))
        fractions.append(len(tiles) / tiles.spec.total)
        shares += car_shares(tiles, pipeline.spec, boxes[frame.frame.counted])
    return {
        "tile_fraction": float(np.median(fractions)),
        "cars": len(shares),
        "car_cells_inside": float(np.mean(shares)),
        "cars_wholly_inside": float(np.mean(np.array(shares) == 1)),
    }


@click.command()
@click.option("--frames", type=click.IntRange(1), default=60, show_default=True, help="Simulated ones of each kind.")
@click.option("--config", "name", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def road(frames: int, name: str, json_file: str | None) -> None:
    """Road IoU of the mask network on simulated drives, and cars inside the mask with the sensor mounted otherwise."""
    config = load_config(name)
    pipeline = Pipeline.from_config(config)
    kinds: dict[bool, list[MaskFrame]] = {}
    for full in (False, True):
        drive = simulate_drive(frames, SEED + full, full=full, step_s=3.0, frames_per_world=3)
        shown = track(drive, "simulate", frames, console=messages, transient=True)
        kinds[full] = [_with_points(from_simulation(each, full)) for each in shown]
    iou = road_iou(kinds[False], config)
    conditions = {each: cars_inside(kinds[True], pipeline, change) for each, change in CONDITIONS.items()}
    table = Table("condition", "tiles p50", "cars", "car cells inside", "cars wholly inside")
    for each, facts in conditions.items():
        numbers = (f"{facts[key]:.1%}" for key in ("car_cells_inside", "cars_wholly_inside"))
        table.add_row(each, f"{facts['tile_fraction']:.3f}", str(facts["cars"]), *numbers)
    table.title = f"road IoU {iou['seen']:.3f} where the ground is seen, {iou['everywhere']:.3f} everywhere"
    record = {"frames": frames, "seed": SEED, "network": config.model, "road_iou": iou, "conditions": conditions}
    emit(json_file, record | origin(), table)


def _with_points(frame: MaskFrame) -> MaskFrame:
    """Only cars that have points enough to be found count."""
    hits = frame.hits >= POINTS_TO_FIND
    return replace(frame, frame=replace(frame.frame, counted=frame.frame.counted & hits))
