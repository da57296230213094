"""Training of the road-mask network: a few thousand small steps."""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from detector.errors import ConfigError
from detector.files import write_json
from detector.machine import revision
from models.grid import BevSpec
from tools.training.mask_network import RoadMaskNetwork
from tools.training.mask_samples import MaskData, MaskDataConfig, MaskSampleMaker

log = logging.getLogger("roadblocks.train")
WEIGHTS = "mask.pt"


@dataclass(frozen=True)
class MaskTrainConfig:
    """A run; `configs/train/mask.yaml` names what differs."""

    seed: int = 0
    steps: int = 12000
    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    average_decay: float = 0.99
    missed_vehicle: float = 8.0  # what a missed vehicle cell weighs against a false alarm
    data: MaskDataConfig = field(default_factory=MaskDataConfig)


def mask_loss(logits: Tensor, target: Tensor, weight: Tensor, missed_vehicle: float) -> Tensor:
    """Scalar: weighted cross entropies of road and vehicles, (N, 2, h, w) each, averaged over cells that count."""
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    vehicle_weight = torch.where(target[:, 1] > 0, missed_vehicle, 1.0)
    weight = weight * torch.stack([torch.ones_like(vehicle_weight), vehicle_weight], 1)
    return ((weight * entropy).sum((0, 2, 3)) / weight.sum((0, 2, 3)).clamp(min=1)).sum()


def load_mask(folder: Path) -> tuple[RoadMaskNetwork, dict[str, int]]:
    """The network of a run, which fits any grid, and the facts of its training.

    Raises:
        ConfigError: if the folder holds no run.
    """
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))["train"]
        network = RoadMaskNetwork()
        network.load_state_dict(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{folder}: {error}; expected a folder of `tools.train mask`") from error
    return network, {"steps": values["steps"], "seed": values["seed"]}


def train_mask(config: MaskTrainConfig, data: MaskData, folder: Path, spec: BevSpec) -> RoadMaskNetwork:
    """Trains and returns the averaged network; leaves `mask.pt`, `config.json` and `curve.jsonl` in ``folder``.

    Args:
        config: the run.
        data: what it learns from.
        folder: where it leaves its files.
        spec: the detector's grid.
    """
    samples = MaskSampleMaker(data, spec, config.data, config.seed, config.steps * config.batch)
    log.info("%d real frames, %d simulated, %d steps", len(data.real), len(data.simulated), config.steps)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"train": asdict(config), "grid": spec.to_dict(), "revision": revision()})
    torch.manual_seed(config.seed)
    network = RoadMaskNetwork().to(memory_format=torch.channels_last)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(config.average_decay), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    started = time.perf_counter()
    recent: list[float] = []
    for step, (grid, target, weight) in enumerate(DataLoader(samples, config.batch, num_workers=1), 1):
        for group in optimizer.param_groups:
            share = step / config.steps
            warm = min(1.0, share / 0.05)
            group["lr"] = config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share)) + 1e-6
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(grid.permute(0, 3, 1, 2))
        loss = mask_loss(logits.float(), target, weight, config.missed_vehicle)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
        average.update_parameters(network)
        recent.append(loss.item())
        if step % 50 == 0 or step == config.steps:
            row = {"step": step, "loss": sum(recent) / len(recent), "step_s": (time.perf_counter() - started) / step}
            with (folder / "curve.jsonl").open("a") as curve:
                curve.write(json.dumps({key: round(value, 5) for key, value in row.items()}) + "\n")
            log.info("step %d  loss %.3f  %.2f s a step", step, row["loss"], row["step_s"])
            torch.save(average.module.state_dict(), folder / WEIGHTS)
            recent = []
    return average.module  # type: ignore[no-any-return]
