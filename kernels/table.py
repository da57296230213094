"""The kernel table: every op of the package, walked by the tests, the micro-benchmark and the docs."""

from __future__ import annotations

from kernels import residual_unit, sparse_gather, sparse_scatter, tile_conv
from kernels.op import Op

OPS: tuple[Op, ...] = (*sparse_gather.OPS, *sparse_scatter.OPS, *tile_conv.OPS, *residual_unit.OPS)
