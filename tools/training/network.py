"""The BEV detector of the PIXOR/SBNet family, in PyTorch, for training and export only.

Residual units of two 3x3 stride-1 convolutions do nearly all of the work, so that a block-sparse executor
can run a whole unit per tile. Source of the family: Yang et al., PIXOR (CVPR 2018); Ren et al., SBNet
(CVPR 2018, section 4.2).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from models.plan import GRID_TILE, default_choice

# Mean and spread of the regression channels over KITTI cars: dx, dy [m], z [m], log l, log w, log h, cos, sin.
# The network learns normalised values; the export folds these into the last convolution.
REGRESSION_MEAN = (0.0, 0.0, -0.95, 1.36, 0.49, 0.43, 0.0, 0.0)
REGRESSION_STD = (0.6, 0.6, 0.4, 0.12, 0.08, 0.1, 0.7, 0.7)
PRIOR_SCORE = 0.01  # initial score everywhere (focal-loss prior, Lin et al. 2017)


class ConvBnRelu(nn.Sequential):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class ResidualUnit(nn.Module):
    """relu(x + bn(conv(relu(bn(conv(x)))))) with 3x3 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBnRelu(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor, computed: Tensor | None = None) -> Tensor:
        """(N, C, H, W) to the same shape."""
        inner = where_computed(self.first(x), computed)
        return where_computed(functional.relu(x + self.second(inner)), computed)


class Stage(nn.Sequential):
    """Half the resolution, then residual units."""

    def __init__(self, inputs: int, width: int, units: int) -> None:
        super().__init__(ConvBnRelu(inputs, width, 2), *(ResidualUnit(width) for _ in range(units)))

    def forward(self, x: Tensor, computed: Tensor | None = None) -> Tensor:
        """(N, inputs, H, W) to (N, width, H/2, W/2)."""
        down, *units = self
        out = where_computed(down(x), computed)
        for unit in units:
            out = unit(out, computed)
        return out


class Up(nn.Sequential):
    """Twice the resolution: transposed convolution with kernel = stride = 2, and batch norm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.ConvTranspose2d(inputs, outputs, 2, 2, bias=False), nn.BatchNorm2d(outputs))


def where_computed(x: Tensor, computed: Tensor | None) -> Tensor:
    """A map as the tile executor leaves it: what an empty grid makes, the batch's last sample, outside active tiles.

    Args:
        x: (N, C, H, W).
        computed: (N, 1, tile rows, tile columns) bool, tiles of `GRID_TILE` grid cells; None computes everything.
    """
    if computed is None:
        return x
    stride_of_tile = computed.shape[-1] * GRID_TILE // x.shape[-1]
    tile_cells = default_choice(stride_of_tile).tile_cells
    # A deep stage's tiles cover several of the grid's: one active among them computes all.
    grid_tiles = tile_cells * stride_of_tile // GRID_TILE
    pooled = functional.max_pool2d(computed.to(x.dtype), grid_tiles, ceil_mode=True)
    keep = pooled.repeat_interleave(tile_cells, 2).repeat_interleave(tile_cells, 3)[:, :, : x.shape[2], : x.shape[3]]
    return _Filled.apply(x, keep)  # type: ignore[no-any-return]


class _Filled(torch.autograd.Function):
    """A batch where ``keep`` is 1, its last sample where it is 0, of finite numbers.

    `torch.where` takes nine times as long backward.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor) -> Tensor:
        """(N, C, H, W) and (N, 1, H, W) of the same type to (N, C, H, W)."""
        ctx.save_for_backward(keep)
        return torch.lerp(x[-1:], x, keep)  # exact at both ends

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """The last sample gets the gradients of all that it fills."""
        (keep,) = ctx.saved_tensors
        inner = gradient * keep
        last = inner[-1].copy_(gradient[-1])
        for sample, kept in zip(gradient[:-1], keep[:-1], strict=True):
            last.addcmul_(sample, 1 - kept)
        return inner, None


class BevDetector(nn.Module):
    """Grid (N, C, H, W) to logits (N, 1, H/4, W/4) and normalised regression (N, 8, H/4, W/4)."""

    def __init__(self, channels_in: int, widths: tuple[int, ...], units: tuple[int, ...]) -> None:
        super().__init__()
        inputs = (channels_in, *widths)
        self.stages = nn.ModuleList(Stage(*sizes) for sizes in zip(inputs, widths, units, strict=False))
        _, w4, w8, w16 = widths
        self.up8, self.fuse8 = Up(w16, w8), ConvBnRelu(w8, w8)
        self.up4, self.fuse4 = Up(w8, w4), ResidualUnit(w4)
        self.head = nn.Conv2d(w4, 1 + len(REGRESSION_MEAN), 1)
        with torch.no_grad():
            self.head.bias.zero_()
            self.head.bias[0] = -math.log((1 - PRIOR_SCORE) / PRIOR_SCORE)

    def features(self, grid: Tensor, computed: Tensor | None = None) -> Tensor:
        """Grid (N, C, H, W) to what the heads see: (N, widths[1], H/4, W/4); ``computed`` as in `where_computed`."""
        out2 = self.stages[0](grid, computed)
        out4 = self.stages[1](out2, computed)
        out8 = self.stages[2](out4, computed)
        out16 = self.stages[3](out8, computed)
        out8 = where_computed(functional.relu(self.up8(out16) + out8), computed)
        out8 = where_computed(self.fuse8(out8), computed)
        out4 = where_computed(functional.relu(self.up4(out8) + out4), computed)
        return self.fuse4(out4, computed)

    def forward(self, grid: Tensor, computed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One pass; see the class for shapes."""
        out = self.head(self.features(grid, computed))
        return out[:, :1], out[:, 1:]


class ExportedDetector(nn.Module):
    """The shipped form: two heads, score in 0..1, regression in metres, log metres, cos and sin."""

    def __init__(self, network: BevDetector) -> None:
        super().__init__()
        self.network = network
        head, channels = network.head, len(REGRESSION_MEAN)
        self.score_head = nn.Conv2d(head.in_channels, 1, 1)
        self.regression_head = nn.Conv2d(head.in_channels, channels, 1)
        std = torch.tensor(REGRESSION_STD)
        with torch.no_grad():
            self.score_head.weight.copy_(head.weight[:1])
            self.score_head.bias.copy_(head.bias[:1])
            self.regression_head.weight.copy_(head.weight[1:] * std.view(-1, 1, 1, 1))
            self.regression_head.bias.copy_(head.bias[1:] * std + torch.tensor(REGRESSION_MEAN))

    def forward(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) to score (N, 1, H/4, W/4) and regression (N, 8, H/4, W/4)."""
        features = self.network.features(grid)
        return torch.sigmoid(self.score_head(features)), self.regression_head(features)
