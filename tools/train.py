"""Trains the detector on KITTI-layout folders, validates it with the project's own evaluation, exports ONNX.

    roadblocks sample runs/frames --frames 1002 --seed 100 --step 3 --frames-per-world 3
    python -m tools.train run --config train/simulated --simulated runs/frames --out runs/simulated
    python -m tools.train run --init runs/simulated --simulated runs/frames \\
        --data $KITTI@configs/splits/kitti_train.txt --val $KITTI@configs/splits/kitti_val.txt --out runs/recorded
    python -m tools.train run --config train/fine_tune --init runs/recorded --out runs/kitti …
    python -m tools.train export runs/kitti models/kitti.onnx --val $KITTI@configs/splits/kitti_val.txt
    python -m tools.train run --config train/surround --init runs/kitti --simulated runs/sweeps …
    python -m tools.train pack frames.npz --data $KITTI@configs/splits/kitti_train.txt
    python -m tools.train mask --data $KITTI@configs/splits/kitti_train.txt --out runs/mask
    python -m tools.train export-mask runs/mask models/kitti.onnx

A run can be stopped at any time; the same command goes on from its last checkpoint. The whole recipe: docs/training.md.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.progress import track

from detector.cli import FriendlyGroup
from detector.config import from_mapping, load_config
from detector.errors import ConfigError
from detector.labels import CAR
from detector.machine import machine, revision
from models import mask_network
from models.grid import BevSpec
from models.mask_network import CLASSES, SUFFIX, mask_spec
from models.network import NetworkInfo, load_network

try:
    import torch
except ImportError:
    sys.exit("error: PyTorch is not installed; expected for training: pip install 'roadblocks[train]'")

from tools.training.dataset import LabelledFrame, TrainingData, load_frames, load_simulated, parse_data
from tools.training.export import export_detector, export_mask_network
from tools.training.mask_samples import MaskData, simulated_frames
from tools.training.mask_trainer import MaskTrainConfig, load_mask, train_mask
from tools.training.pack import SUFFIX as PACK_SUFFIX
from tools.training.pack import read_pack, write_pack
from tools.training.targets import OUTPUT_STRIDE
from tools.training.trainer import CHECKPOINT, CURVE, TrainConfig, Trainer, train
from tools.training.validate import Validation, validate

log = logging.getLogger("roadblocks.train")
DATA_LICENCE = "CC BY-NC-SA 3.0 (trained on KITTI: non-commercial)"


def _frames(data: tuple[str, ...], cropped: bool = True) -> list[LabelledFrame]:
    """Frames of KITTI folders, cropped to the camera's view or not, and packed ones, which are."""
    found = []
    for text in data:
        path, split = parse_data(text)
        if path.suffix == PACK_SUFFIX and split:
            raise ConfigError(f"{text}: a packed file has no splits; expected it without @SPLIT: pack what you need")
        found += read_pack(path) if path.suffix == PACK_SUFFIX else load_frames(path, split, cropped)
    return found


def _info(
    trainer: Trainer, name: str, validation: Validation | None = None, data: Mapping[str, int] | None = None
) -> NetworkInfo:
    return NetworkInfo(
        name=name,
        grid=trainer.config.grid,
        output_stride=OUTPUT_STRIDE,
        classes=(CAR,),
        display_score=round(validation.best_score, 3) if validation else 0.5,
        licence=DATA_LICENCE,
        training={
            "steps": trainer.step,
            "seed": trainer.config.seed,
            **(data or {}),
            **_made(),
        },
        ap=validation.ap if validation else {},
    )


def _made() -> dict[str, str]:
    """Where and when weights were written."""
    return {
        "revision": revision(),
        "machine": machine()["cpu"],
        "date": datetime.now(UTC).date().isoformat(),
    }


@click.group(cls=FriendlyGroup)
def main() -> None:
    """Train and export detection networks."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@main.command()
@click.option("--config", default="train/recorded", show_default=True, help="Shipped name or YAML file.")
@click.option("--data", multiple=True, help="KITTI folder, FOLDER or FOLDER@SPLIT, or FILE.npz of `pack`, to train on.")
@click.option("--simulated", multiple=True, help="Folder of `roadblocks sample` to train on, FOLDER or FOLDER@SPLIT.")
@click.option(
    "--init",
    type=click.Path(path_type=Path, exists=True),
    help="Weights to start from: a run's folder, or a network, such as models/kitti.onnx.",
)
@click.option("--val", multiple=True, help="What to validate on, likewise.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--steps", type=click.IntRange(1), help="Another number of steps than the configuration's.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads for PyTorch.")
def run(
    config: str,
    data: tuple[str, ...],
    simulated: tuple[str, ...],
    init: Path | None,
    val: tuple[str, ...],
    out: Path,
    steps: int | None,
    threads: int | None,
) -> None:
    """Train, or go on with, a run."""
    if not data and not simulated:
        raise click.UsageError("nothing to train on; expected --data, --simulated or both")
    settings = load_config(config, TrainConfig)
    if steps:
        settings = replace(settings, steps=steps)
    if threads:
        torch.set_num_threads(threads)
    val_frames = _frames(val, cropped=not settings.grid.all_round)
    sweeps = [frame for text in simulated for frame in load_simulated(*parse_data(text))]

    def on_validate(trainer: Trainer) -> None:
        if not val_frames:
            return
        found = validate(trainer.average.module, _info(trainer, out.name), val_frames)
        row = {"step": trainer.step, "ap": found.ap, "best_score": found.best_score, "best_f1": found.best_f1}
        with (out / CURVE).open("a") as curve:
            curve.write(json.dumps(row) + "\n")
        log.info("step %d  Car BEV AP, IoU 0.7, R40, moderate: %.1f", trainer.step, found.bev_moderate)

    train(settings, TrainingData.of(_frames(data), sweeps), out, on_validate, init)


@main.command()
@click.argument("run_folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("onnx_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--val",
    multiple=True,
    required=True,
    help="KITTI folder or packed file for AP and display score.",
)
def export(run_folder: Path, onnx_file: Path, val: tuple[str, ...]) -> None:
    """Write a run's averaged network as ONNX, its AP and best score inside."""
    values = json.loads((run_folder / "config.json").read_text())
    # JSON turned the tuples into lists, as YAML has them.
    trainer = Trainer(from_mapping(TrainConfig, values["train"], str(run_folder)), run_folder)
    if not trainer.step:
        raise ConfigError(f"{run_folder}: holds no {CHECKPOINT}; expected a folder of `tools.train run`")
    network = trainer.average.module
    val_frames = _frames(val, cropped=not trainer.config.grid.all_round)
    found = validate(network, _info(trainer, onnx_file.stem), val_frames)
    export_detector(network, _info(trainer, onnx_file.stem, found, values.get("data")), onnx_file)
    log.info(
        "%s: BEV AP moderate %.1f, best F1 %.3f at %.2f",
        onnx_file,
        found.bev_moderate,
        found.best_f1,
        found.best_score,
    )


@main.command()
@click.argument("pack_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--data", multiple=True, required=True, help="KITTI folder to pack, FOLDER or FOLDER@SPLIT.")
def pack(pack_file: Path, data: tuple[str, ...]) -> None:
    """Write labelled frames into one small file, which --data and --val take for a folder."""
    if pack_file.suffix != PACK_SUFFIX:
        raise click.UsageError(f"{pack_file}: expected a name that ends with {PACK_SUFFIX}")
    frames = _frames(data)
    write_pack(pack_file, frames)
    num_points = sum(len(frame.points) for frame in frames)
    log.info("%s: %d frames, %d points, %.1f MB", pack_file, len(frames), num_points, pack_file.stat().st_size / 1e6)


@main.command()
@click.option("--config", default="train/mask", show_default=True, help="Shipped name or YAML file.")
@click.option("--data", multiple=True, help="KITTI folder, or packed file, to train on besides simulation.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--steps", type=click.IntRange(1), help="Another number of steps than the configuration's.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads for PyTorch.")
def mask(config: str, data: tuple[str, ...], out: Path, steps: int | None, threads: int | None) -> None:
    """Train the road-mask network, on drives that are simulated first."""
    settings = load_config(config, MaskTrainConfig)
    if steps:
        settings = replace(settings, steps=steps)
    if threads:
        torch.set_num_threads(threads)
    simulated = track(simulated_frames(settings.data, settings.seed), "simulate", transient=True)
    train_mask(settings, MaskData.of(_frames(data), simulated), out, BevSpec())


@main.command()
@click.argument("run_folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("detector", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def export_mask(run_folder: Path, detector: Path) -> None:
    """Write a mask network beside a detector, NAME.mask.onnx, for the detector's grid."""
    grid = mask_spec(load_network(detector).info.grid)
    network, facts = load_mask(run_folder)
    path = detector.with_name(detector.name.removesuffix(".onnx") + SUFFIX)
    info = NetworkInfo(path.stem, grid, mask_network.OUTPUT_STRIDE, CLASSES, 0.5, DATA_LICENCE, {**facts, **_made()})
    export_mask_network(network, info, path)
    log.info("%s: %d bytes", path, path.stat().st_size)


if __name__ == "__main__":
    main()
