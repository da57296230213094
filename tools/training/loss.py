"""Focal loss on the score, smooth L1 on the normalised regression, as PIXOR and its kin."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tools.training.network import REGRESSION_MEAN, REGRESSION_STD

FOCAL_GAMMA = 2.0
POSITIVE_WEIGHT = 0.75
REGRESSION_BETA = 0.2  # normalised units: quadratic below, linear above


class Losses(NamedTuple):
    """Scalars: focal loss and regression loss, both per positive cell."""

    score: Tensor
    regression: Tensor


def detection_loss(logits: Tensor, regression: Tensor, score: Tensor, target: Tensor, ignored: Tensor) -> Losses:
    """Loss of one batch.

    Args:
        logits: (N, 1, h, w) float32.
        regression: (N, 8, h, w) float32, normalised.
        score: (N, h, w) float32, 1 at positive cells.
        target: (N, 8, h, w) float32, in real units.
        ignored: (N, h, w) bool.
    """
    positives = score.sum().clamp(min=1)
    logits = logits[:, 0]
    probability = torch.sigmoid(logits)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, score, reduction="none")
    missed = torch.where(score > 0, 1 - probability, probability) ** FOCAL_GAMMA
    weight = torch.where(score > 0, POSITIVE_WEIGHT, 1 - POSITIVE_WEIGHT) * ~ignored
    focal = (weight * missed * cross_entropy).sum() / positives
    mean = torch.tensor(REGRESSION_MEAN, device=target.device).view(1, -1, 1, 1)
    std = torch.tensor(REGRESSION_STD, device=target.device).view(1, -1, 1, 1)
    normalised = (target - mean) / std
    distance = functional.smooth_l1_loss(regression, normalised, reduction="none", beta=REGRESSION_BETA)
    return Losses(focal, (distance.sum(1) * score).sum() / positives)
