"""Trains the detector on KITTI-layout folders, validates it with the project's own evaluation, exports ONNX.

    python -m tools.train run \\
        --data $KITTI@configs/splits/kitti_train.txt --val $KITTI@configs/splits/kitti_val.txt --out runs/first
    python -m tools.train export runs/first models/kitti.onnx --val $KITTI@configs/splits/kitti_val.txt

A run can be stopped at any time; the same command goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from detector.cli import FriendlyGroup
from detector.config import from_mapping, load_config
from detector.errors import ConfigError
from detector.files import write_json
from detector.labels import CAR
from detector.machine import machine, revision
from models.grid import BevSpec
from models.network import NetworkInfo

try:
    import torch
    from torch.utils.data import DataLoader
except ImportError:
    sys.exit("error: PyTorch is not installed; expected for training: pip install 'roadblocks[train]'")

from tools.training.augment import AugmentConfig
from tools.training.dataset import LabelledFrame, cut_objects, load_frames, parse_data
from tools.training.export import export_onnx
from tools.training.loss import detection_loss
from tools.training.network import BevDetector
from tools.training.samples import SampleMaker, WindowConfig
from tools.training.targets import OUTPUT_STRIDE
from tools.training.validate import Validation, validate

log = logging.getLogger("roadblocks.train")
CHECKPOINT = "checkpoint.pt"
DATA_LICENCE = "CC BY-NC-SA 3.0 (trained on KITTI: non-commercial)"


@dataclass(frozen=True)
class NetworkConfig:
    """Channels and residual units of the stages at 1/2, 1/4, 1/8 and 1/16."""

    widths: tuple[int, ...] = (32, 64, 128, 192)
    units: tuple[int, ...] = (1, 2, 2, 1)


@dataclass(frozen=True)
class TrainConfig:
    """A training run; `configs/train/*.yaml` names what differs."""

    seed: int = 0
    steps: int = 5000
    batch: int = 6
    learning_rate: float = 3e-3
    validate_every: int = 2000
    checkpoint_every: int = 250
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 1e-2
    gradient_limit: float = 10.0
    average_decay: float = 0.998  # exponential moving average of the weights
    network: NetworkConfig = field(default_factory=NetworkConfig)
    window: WindowConfig = field(default_factory=WindowConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def build_network(config: TrainConfig, spec: BevSpec) -> BevDetector:
    """The untrained network for a grid, channels last in memory."""
    network = BevDetector(spec.channels, config.network.widths, config.network.units)
    return network.to(memory_format=torch.channels_last)


class Trainer:
    """One run: network, its moving average, optimiser, step; saved to and resumed from a folder."""

    def __init__(self, config: TrainConfig, spec: BevSpec, folder: Path) -> None:
        torch.manual_seed(config.seed)
        self.config, self.folder, self.step = config, folder, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = build_network(config, spec).to(self.device)
        decay = config.average_decay
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        if (folder / CHECKPOINT).exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise ConfigError(
                f"{self.folder / CHECKPOINT}: holds another network than the configuration's {self.config.network}; "
                "expected the same, choose another --out"
            ) from error
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        log.info("resumed at step %d", self.step)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        partial = self.folder / (CHECKPOINT + ".part")
        torch.save(state, partial)
        os.replace(partial, self.folder / CHECKPOINT)

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to nearly nothing."""
        share = self.step / self.config.steps
        warmup = self.config.warmup
        if share < warmup:
            return self.config.learning_rate * share / warmup + 1e-6
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) + 1e-6

    def train_step(self, batch: list[torch.Tensor]) -> tuple[float, float]:
        """One optimiser step; returns the score loss and the regression loss."""
        grid, score, target, ignored = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        # NHWC seen as NCHW is PyTorch's channels-last: no copy.
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits, regression = self.network(grid.permute(0, 3, 1, 2))
        losses = detection_loss(logits.float(), regression.float(), score, target, ignored)
        self.optimizer.zero_grad()
        (losses.score + losses.regression).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_limit)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return losses.score.item(), losses.regression.item()


def train(
    config: TrainConfig,
    frames: list[LabelledFrame],
    folder: Path,
    spec: BevSpec,
    on_validate: Callable[[Trainer], None] = lambda trainer: None,
) -> Trainer:
    """Runs, or goes on with, a training; leaves `checkpoint.pt`, `config.json` and `curve.jsonl` in ``folder``.

    ``on_validate`` is called every ``config.validate_every`` steps and at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, spec, folder)
    write_json(folder / "config.json", {"train": asdict(config), "grid": spec.to_dict(), "revision": revision()})
    objects = cut_objects(frames)
    log.info("%d frames, %d cars to paste, %d steps to go", len(frames), len(objects), config.steps - trainer.step)
    samples = SampleMaker(
        frames,
        objects,
        spec,
        config.window,
        config.augment,
        config.seed,
        count=config.steps * config.batch,
        first=trainer.step * config.batch,
    )
    loader = DataLoader(samples, config.batch, num_workers=1, prefetch_factor=3)
    started, first_step = time.perf_counter(), trainer.step
    recent: list[tuple[float, float]] = []
    trainer.network.train()
    for batch in loader:
        recent.append(trainer.train_step(batch))
        if trainer.step % 50 == 0:
            _report(folder, trainer, recent, (time.perf_counter() - started) / (trainer.step - first_step))
            recent = []
        if trainer.step % config.checkpoint_every == 0:
            trainer.save()
        if trainer.step % config.validate_every == 0 and trainer.step < config.steps:
            on_validate(trainer)
    trainer.save()
    on_validate(trainer)
    return trainer


def _report(folder: Path, trainer: Trainer, recent: list[tuple[float, float]], step_s: float) -> None:
    score, regression = (sum(values) / len(recent) for values in zip(*recent, strict=True))
    row: dict[str, Any] = {
        "step": trainer.step,
        "score_loss": score,
        "regression_loss": regression,
        "step_s": step_s,
    }
    with (folder / "curve.jsonl").open("a") as curve:
        curve.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")
    log.info("step %d  score %.3f  regression %.3f  %.2f s a step", trainer.step, score, regression, step_s)


def _frames(data: tuple[str, ...]) -> list[LabelledFrame]:
    return [frame for text in data for frame in load_frames(*parse_data(text))]


def _info(trainer: Trainer, name: str, spec: BevSpec, validation: Validation | None = None) -> NetworkInfo:
    return NetworkInfo(
        name=name,
        grid=spec,
        output_stride=OUTPUT_STRIDE,
        classes=(CAR,),
        display_score=round(validation.best_score, 3) if validation else 0.5,
        licence=DATA_LICENCE,
        training={
            "steps": trainer.step,
            "seed": trainer.config.seed,
            "revision": revision(),
            "machine": machine()["cpu"],
            "date": datetime.now(UTC).date().isoformat(),
        },
        ap=validation.ap if validation else {},
    )


@click.group(cls=FriendlyGroup)
def main() -> None:
    """Train and export detection networks."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")


@main.command()
@click.option("--config", default="train/kitti", show_default=True, help="Shipped name or YAML file.")
@click.option("--data", multiple=True, required=True, help="KITTI folder to train on, FOLDER or FOLDER@SPLIT.")
@click.option("--val", multiple=True, help="KITTI folder to validate on, FOLDER or FOLDER@SPLIT.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the run.")
@click.option("--steps", type=click.IntRange(1), help="Another number of steps than the configuration's.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads for PyTorch.")
def run(
    config: str,
    data: tuple[str, ...],
    val: tuple[str, ...],
    out: Path,
    steps: int | None,
    threads: int | None,
) -> None:
    """Train, or go on with, a run."""
    settings = load_config(config, TrainConfig)
    if steps:
        settings = replace(settings, steps=steps)
    if threads:
        torch.set_num_threads(threads)
    spec, val_frames = BevSpec(), _frames(val)

    def on_validate(trainer: Trainer) -> None:
        if not val_frames:
            return
        found = validate(trainer.average.module, _info(trainer, out.name, spec), val_frames)
        row = {"step": trainer.step, "ap": found.ap, "best_score": found.best_score, "best_f1": found.best_f1}
        with (out / "curve.jsonl").open("a") as curve:
            curve.write(json.dumps(row) + "\n")
        log.info("step %d  Car BEV AP, IoU 0.7, R40, moderate: %.1f", trainer.step, found.bev_moderate)

    train(settings, _frames(data), out, spec, on_validate)


@main.command()
@click.argument("run_folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("onnx_file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--val",
    multiple=True,
    required=True,
    help="KITTI folder for AP and display score, FOLDER or FOLDER@SPLIT.",
)
def export(run_folder: Path, onnx_file: Path, val: tuple[str, ...]) -> None:
    """Write a run's averaged network as ONNX, its AP and best score inside."""
    values = json.loads((run_folder / "config.json").read_text())
    spec = BevSpec.from_dict(values["grid"])
    # JSON turned the tuples into lists, as YAML has them.
    trainer = Trainer(from_mapping(TrainConfig, values["train"], str(run_folder)), spec, run_folder)
    if not trainer.step:
        raise ConfigError(f"{run_folder}: holds no {CHECKPOINT}; expected a folder of `tools.train run`")
    network = trainer.average.module
    found = validate(network, _info(trainer, onnx_file.stem, spec), _frames(val))
    export_onnx(network, _info(trainer, onnx_file.stem, spec, found), onnx_file)
    log.info(
        "%s: BEV AP moderate %.1f, best F1 %.3f at %.2f",
        onnx_file,
        found.bev_moderate,
        found.best_f1,
        found.best_score,
    )


if __name__ == "__main__":
    main()
