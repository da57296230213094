"""``python -m tools.benchmark failures``: which cars are missed, what is taken for one, and pictures of the worst."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.boxes import boxes_from_labels
from detector.cli import messages
from detector.config import load_config
from detector.labels import CAR
from detector.pipeline import Pipeline
from detector.view import render_bev
from tools.benchmark.failure_cases import Scene, false_alarm_counts, missed_counts, recall_rows, worst
from tools.benchmark.labelled import frames_for, identity
from tools.benchmark.report import emit, origin
from tools.simulation.drive import simulate_drive
from tools.simulation.labels import label_all_round
from tools.training.dataset import LabelledFrame

SEED = 900  # of worlds that no network was trained on
STEP_S, FRAMES_PER_WORLD = 6.0, 2


def simulated_frames(count: int, seed: int, all_round: bool) -> Iterator[LabelledFrame]:
    """Simulated frames as labelled ones: what the camera sees, or whole turns."""
    for made in simulate_drive(count, seed, full=all_round, step_s=STEP_S, frames_per_world=FRAMES_PER_WORLD):
        calibration = made.frame.calibration
        assert calibration is not None, "simulated frames have a camera"
        labels = label_all_round(made.objects, calibration) if all_round else made.labels
        kept = labels.select(np.array([name != "DontCare" for name in labels.types], bool))
        boxes = boxes_from_labels(kept, calibration).astype(np.float32)
        counted = np.array([name == CAR for name in kept.types], bool)
        yield LabelledFrame(made.frame.id, made.frame.points, boxes, counted, labels, calibration, surround=all_round)


def draw(scene: Scene, pipeline: Pipeline, what: str, file: Path) -> dict[str, Any]:
    """Writes the picture of a scene; returns what the record says of it."""
    counted = np.array([thing.counted for thing in scene.things], bool)
    picture = render_bev(
        scene.result.frame,
        scene.result.detections,
        pipeline.spec,
        labels=scene.truth[counted],
        ignored_labels=scene.truth[~counted],
        tiles=scene.result.tiles,
        mask=scene.result.mask,
        display_score=pipeline.network.info.display_score,
        title=f"{what} frame {scene.frame.id}",
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)
    return {"file": file.name, **frame_facts(scene)}


def frame_facts(scene: Scene) -> dict[str, Any]:
    """A frame in numbers."""
    return {
        "id": scene.frame.id,
        "cars": scene.cars,
        "missed": scene.missed,
        "false_alarms": len(scene.false_alarms),
    }


def failures_table(record: dict[str, Any]) -> Table:
    """Recall by one property at a time."""
    title = f"{record['network']}, {record['frames']} frames, scores from {record['display_score']:.2f}"
    table = Table("", "cars", "found", "placed well", title=title)
    group = ""
    for row in record["recall"]:
        if row["group"] != group:
            table.add_section()
        group = row["group"]
        shares = (f"{row[key]} ({row[key] / row['cars']:.0%})" for key in ("found", "well_placed"))
        table.add_row(row["name"], str(row["cars"]), *shares)
    return table


@click.command()
@click.argument("source", required=False, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="File that lists the frame ids to count.")
@click.option("--config", "name", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--frames", "count", type=click.IntRange(1), default=60, show_default=True, help="Simulated frames.")
@click.option("--seed", type=click.IntRange(0), default=SEED, show_default=True, help="Of simulated frames.")
@click.option(
    "--worst", "number", type=click.IntRange(1), default=3, show_default=True, help="Frames to name and draw."
)
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False), help="Folder for pictures of the worst.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def failures(
    source: Path | None,
    split: Path | None,
    name: str,
    count: int,
    seed: int,
    number: int,
    pictures: Path | None,
    json_file: str | None,
) -> None:
    """Cars missed by points on them, range, occlusion, view and tiles; what false alarms stand on; the worst frames.

    SOURCE is a KITTI object folder. Without it frames are simulated, all round where the configuration does not crop
    to the camera. Pictures of KITTI's frames may be made and looked at, but not be published under another licence.

    \b
    python -m tools.benchmark failures $KITTI --split configs/splits/kitti_val.txt --pictures out
    python -m tools.benchmark failures --pictures docs
    """
    pipeline = Pipeline.from_config(load_config(name))
    network = pipeline.network
    all_round = not pipeline.crops_to_camera
    frames = frames_for(pipeline.config, source, split) if source else simulated_frames(count, seed, all_round)
    scenes = [Scene.of(frame, pipeline) for frame in track(frames, "frames", console=messages, transient=True)]
    chosen = worst(scenes, number)
    things = [thing for scene in scenes for thing in scene.things]
    record: dict[str, Any] = {
        **identity(network),
        "simulated": None if source else {"seed": seed, "all_round": all_round},
        "frames": len(scenes),
        "display_score": network.info.display_score,
        "recall": recall_rows(things),
        "missed": missed_counts(things),
        "false_alarms": false_alarm_counts(scenes),
        "worst": [frame_facts(scene) for scene in chosen],
        **origin(),
    }
    if pictures:
        what = "recorded" if source else "simulated"
        record["pictures"] = [
            draw(scene, pipeline, what, pictures / f"failures_{network.info.name}_{place}.png")
            for place, scene in enumerate(chosen, start=1)
        ]
    emit(json_file, record, failures_table(record))
