"""The kernel table: every op of the package, walked by the tests, the micro-benchmark and the docs."""

from __future__ import annotations

from kernels import sparse_gather, sparse_scatter
from kernels.op import Op

OPS: tuple[Op, ...] = (*sparse_gather.OPS, *sparse_scatter.OPS)
