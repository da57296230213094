"""Focal loss on the score, smooth L1 on the normalised regression, as PIXOR and its kin.

With a quality, the score learns how well a cell's box fits, not only that a car is there, so that the best box
of a car is the one that non-maximum suppression keeps: the quality focal loss (Li et al., Generalized Focal
Loss, NeurIPS 2020, section 3.1) with the BEV IoU of the box as its soft label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kernels.decode import LOG_SIZE_RANGE
from kernels.rotated_iou import rotated_intersection
from tools.training.network import REGRESSION_MEAN, REGRESSION_STD

FOCAL_GAMMA = 2.0
POSITIVE_WEIGHT = 0.75
REGRESSION_BETA = 0.2  # normalised units: quadratic below, linear above


class Losses(NamedTuple):
    """Scalars: focal loss and regression loss, both per positive cell."""

    score: Tensor
    regression: Tensor


def detection_loss(
    logits: Tensor, regression: Tensor, score: Tensor, target: Tensor, ignored: Tensor, iou_score: bool = False
) -> Losses:
    """Loss of one batch.

    Args:
        logits: (N, 1, h, w) float32.
        regression: (N, 8, h, w) float32, normalised.
        score: (N, h, w) float32, 1 at positive cells.
        target: (N, 8, h, w) float32, in real units.
        ignored: (N, h, w) bool.
        iou_score: whether the score of a positive cell learns the IoU of its box instead of 1.
    """
    positives = score.sum().clamp(min=1)
    logits = logits[:, 0]
    mean = torch.tensor(REGRESSION_MEAN, device=target.device).view(1, -1, 1, 1)
    std = torch.tensor(REGRESSION_STD, device=target.device).view(1, -1, 1, 1)
    label = score
    if iou_score:
        label = torch.zeros_like(score)
        cells = score > 0
        found, wanted = (values.detach().movedim(1, -1)[cells] for values in (regression * std + mean, target))
        label[cells] = torch.from_numpy(box_iou(found.cpu().numpy(), wanted.cpu().numpy())).to(label)
    probability = torch.sigmoid(logits)
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    missed = (label - probability).abs() ** FOCAL_GAMMA
    weight = torch.where(score > 0, POSITIVE_WEIGHT, 1 - POSITIVE_WEIGHT) * ~ignored
    focal = (weight * missed * cross_entropy).sum() / positives
    distance = functional.smooth_l1_loss(regression, (target - mean) / std, reduction="none", beta=REGRESSION_BETA)
    return Losses(focal, (distance.sum(1) * score).sum() / positives)


def box_iou(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) float32 BEV IoU of the boxes that two (N, 8) float32 regressions of the same cells stand for."""
    boxes = np.empty((2, len(found), 5))
    for box, values in zip(boxes, (found, wanted), strict=True):
        box[:, :2] = values[:, :2]
        box[:, 2:4] = np.exp(np.clip(values[:, 3:5], *LOG_SIZE_RANGE))
        box[:, 4] = np.arctan2(values[:, 7], values[:, 6])
    shared = np.array([rotated_intersection(a, b) for a, b in zip(*boxes, strict=True)], np.float32)
    area = boxes[:, :, 2] * boxes[:, :, 3]
    iou: NDArray[np.float32] = (shared / (area[0] + area[1] - shared)).astype(np.float32)
    return iou
