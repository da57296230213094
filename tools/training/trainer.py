"""A training run: configuration, optimiser step, checkpoints, curve."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from detector.errors import ConfigError
from detector.files import write_json, write_whole
from detector.machine import revision
from models.grid import BevSpec
from tools.training.dataset import TrainingData
from tools.training.initial import EXPORTED, SAMPLES, exported_weights
from tools.training.loss import detection_loss
from tools.training.network import BevDetector
from tools.training.samples import SampleConfig, SampleMaker

log = logging.getLogger("roadblocks.train")
CHECKPOINT, CURVE = "checkpoint.pt", "curve.jsonl"
REPORT_EVERY = 50  # steps


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
    cycles: int = 1  # of the learning rate; `steps` are shared out among them
    workers: int = 1  # processes that make samples; the samples are the same for any number
    warmup: float = 0.05  # share of a cycle
    weight_decay: float = 1e-2
    gradient_limit: float = 10.0
    average_decay: float = 0.998  # exponential moving average of the weights
    frozen_norms: float = 0.0  # share of the steps, at the end, whose batch norms are those of the exported network
    iou_score: bool = True  # scores learn how well boxes fit
    grid: BevSpec = field(default_factory=BevSpec)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)


def build_network(config: TrainConfig) -> BevDetector:
    """The untrained network, channels last in memory."""
    network = BevDetector(config.grid.channels, config.network.widths, config.network.units)
    return network.to(memory_format=torch.channels_last)


def read_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `Trainer.save` wrote.

    Raises:
        ConfigError: if there is none.
    """
    try:
        state: dict[str, Any] = torch.load(folder / CHECKPOINT, map_location=device, weights_only=True)
    except OSError as error:
        raise ConfigError(f"{folder / CHECKPOINT}: {error.strerror}; expected a folder of `tools.train run`") from error
    return state


def load_weights(network: BevDetector, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Sets a network's weights to those of the run in ``folder``.

    Raises:
        ConfigError: if they are of another network.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(
            f"{folder / CHECKPOINT}: holds another network than the configuration's; expected the same widths and "
            "units, choose another folder"
        ) from error


class Trainer:
    """One run: network, its moving average, optimiser, step; saved to and resumed from a folder.

    A new run starts from what ``init`` gives: weights as `BevDetector.state_dict` has them.
    """

    def __init__(
        self, config: TrainConfig, folder: Path, init: Callable[[], Mapping[str, torch.Tensor]] | None = None
    ) -> None:
        torch.manual_seed(config.seed)
        self.config, self.folder, self.step = config, folder, 0
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = build_network(config).to(self.device)
        resumes = (folder / CHECKPOINT).exists()
        if init and not resumes:
            self.network.load_state_dict(init())
        decay = config.average_decay
        self.average = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay
        )
        if resumes:
            self._resume()

    def _resume(self) -> None:
        state = read_checkpoint(self.folder, self.device)
        load_weights(self.network, state["network"], self.folder)
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
        """Linear warm-up, then a cosine down to nearly nothing; once per cycle.

        Warm restarts: Loshchilov and Hutter, SGDR, ICLR 2017.
        """
        share = self.step / self.config.steps * self.config.cycles % 1
        warmup = self.config.warmup
        if share < warmup:
            return self.config.learning_rate * share / warmup + 1e-6
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) + 1e-6

    def _set_modes(self) -> None:
        """Batch norms use the statistics of the batch, in the last steps those that ship.

        The weights fit themselves to the statistics of small batches, with which the exported network never meets
        its input: boxes came out too high. FrozenBN: Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021,
        section 4.2.
        """
        self.network.train()
        first_frozen = round(self.config.steps * (1 - self.config.frozen_norms))
        if self.step < first_frozen:
            return
        for norm, averaged in zip(_batch_norms(self.network), _batch_norms(self.average.module), strict=True):
            norm.eval()
            if self.step == first_frozen:
                norm.load_state_dict({**norm.state_dict(), **dict(averaged.named_buffers())})

    def train_step(self, batch: list[torch.Tensor]) -> tuple[float, float]:
        """One optimiser step; returns the score loss and the regression loss."""
        self._set_modes()
        grid, score, target, ignored, computed = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        # NHWC seen as NCHW is PyTorch's channels-last: no copy.
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            logits, regression = self._forward(grid.permute(0, 3, 1, 2), computed)
        losses = detection_loss(
            logits.float(), regression.float(), score, target, ignored, iou_score=self.config.iou_score
        )
        self.optimizer.zero_grad()
        (losses.score + losses.regression).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_limit)
        self.optimizer.step()
        self.average.update_parameters(self.network)
        self.step += 1
        return losses.score.item(), losses.regression.item()

    def _forward(self, grid: torch.Tensor, computed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The maps of a batch as the tile executor makes them; an empty sample at its end gives the base."""
        if computed.all():
            return self.network(grid)  # type: ignore[no-any-return]
        grid, computed = torch.cat([grid, torch.zeros_like(grid[:1])]), torch.cat([computed, computed[:1]])
        logits, regression = self.network(grid, computed)
        return logits[:-1], regression[:-1]


def _batch_norms(network: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]


def initial_weights(init: Path, config: TrainConfig, data: TrainingData) -> dict[str, torch.Tensor]:
    """The averaged weights of a run's folder, or those of an exported network; batch norms of the latter see ``data``.

    Raises:
        ConfigError: if there is no such run or file, or it is of another network.
    """
    network = build_network(config)
    if init.suffix == EXPORTED:
        samples = SampleMaker(data, config.grid, config.samples, config.seed, SAMPLES)
        grids = (torch.from_numpy(grid).permute(2, 0, 1)[None] for grid, *_ in samples)
        return exported_weights(init, network, grids)
    average = read_checkpoint(init)["average"]
    values = {key.removeprefix("module."): value for key, value in average.items() if key.startswith("module.")}
    load_weights(network, values, init)
    return network.state_dict()


def train(
    config: TrainConfig,
    data: TrainingData,
    folder: Path,
    on_validate: Callable[[Trainer], None] = lambda trainer: None,
    init: Path | None = None,
) -> Trainer:
    """Runs, or goes on with, a training; leaves `checkpoint.pt`, `config.json` and `curve.jsonl` in ``folder``.

    ``on_validate`` is called every ``config.validate_every`` steps and at the end. A new run starts from the averaged
    weights of the run ``init``, or from the exported network of that name, if given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config, folder, partial(initial_weights, init, config, data) if init else None)
    _cut_curve(folder / CURVE, trainer.step)
    frames = {"recorded_frames": len(data.real), "simulated_frames": len(data.simulated)}
    facts = {"data": frames, "init": init and init.name, "revision": revision()}
    write_json(folder / "config.json", {"train": asdict(config), **facts})
    log.info(
        "%d real frames, %d simulated, %d cars to paste, %d steps to go",
        len(data.real),
        len(data.simulated),
        len(data.objects),
        config.steps - trainer.step,
    )
    counts = {"count": config.steps * config.batch, "first": trainer.step * config.batch}
    samples = SampleMaker(data, config.grid, config.samples, config.seed, **counts)
    loader = DataLoader(samples, config.batch, num_workers=config.workers, prefetch_factor=3)
    started, first_step = time.perf_counter(), trainer.step
    recent: list[tuple[float, float]] = []
    for batch in loader:
        recent.append(trainer.train_step(batch))
        if trainer.step % REPORT_EVERY == 0:
            _report(folder, trainer, recent, (time.perf_counter() - started) / (trainer.step - first_step))
            recent = []
        if trainer.step % config.checkpoint_every == 0:
            trainer.save()
        if trainer.step % config.validate_every == 0 and trainer.step < config.steps:
            on_validate(trainer)
    trainer.save()
    on_validate(trainer)
    return trainer


def _cut_curve(path: Path, step: int) -> None:
    """Takes back what a stopped run wrote after its last checkpoint: it comes again."""
    if path.exists():
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_whole(path, "".join(row for row in rows if row.endswith("}\n") and json.loads(row)["step"] <= step))


def _report(folder: Path, trainer: Trainer, recent: list[tuple[float, float]], step_s: float) -> None:
    score, regression = (sum(values) / len(recent) for values in zip(*recent, strict=True))
    row: dict[str, Any] = {
        "step": trainer.step,
        "score_loss": score,
        "regression_loss": regression,
        "step_s": step_s,
    }
    with (folder / CURVE).open("a") as curve:
        curve.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")
    log.info("step %d  score %.3f  regression %.3f  %.2f s a step", trainer.step, score, regression, step_s)
