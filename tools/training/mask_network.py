"""The road-mask network in PyTorch, for training and export only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.cell_features import FEATURES
from models.mask_network import CLASSES
from tools.training.network import ConvBnRelu, Stage, Up

WIDTHS = (24, 32, 48)  # at 1/2, 1/4 and 1/8 of the coarse grid: cells of 0.8, 1.6 and 3.2 m on KITTI's
UNITS = (1, 2, 2)


class RoadMaskNetwork(nn.Module):
    """Features (N, C, H, W), H and W multiples of 8, to logits (N, 2, H/2, W/2) of road and foreground.

    The deepest stage sees some 60 m around each cell: what is road is told by what surrounds it.
    """

    def __init__(self) -> None:
        super().__init__()
        sizes = zip((FEATURES, *WIDTHS), WIDTHS, UNITS, strict=False)
        self.stages = nn.ModuleList(Stage(*size) for size in sizes)
        w2, w4, w8 = WIDTHS
        self.up4, self.fuse4 = Up(w8, w4), ConvBnRelu(w4, w4)
        self.up2, self.fuse2 = Up(w4, w2), ConvBnRelu(w2, w2)
        self.head = nn.Conv2d(w2, len(CLASSES), 1)

    def forward(self, grid: Tensor) -> Tensor:
        """One pass; see the class for shapes."""
        out2 = self.stages[0](grid)
        out4 = self.stages[1](out2)
        out8 = self.stages[2](out4)
        out4 = self.fuse4(functional.relu(self.up4(out8) + out4))
        return self.head(self.fuse2(functional.relu(self.up2(out4) + out2)))  # type: ignore[no-any-return]


class ExportedMaskNetwork(nn.Module):
    """The shipped form: probabilities."""

    def __init__(self, network: RoadMaskNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, grid: Tensor) -> Tensor:
        """(N, C, H, W) to (N, 2, H/2, W/2) in 0..1."""
        return torch.sigmoid(self.network(grid))
