"""What a planned network is made of: maps, and the steps from map to map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.unit import Unit

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Map:
    """A feature map of one image, NHWC.

    Attributes:
        rows: along x.
        cols: along y.
        channels: numbers per cell.
        stride: cells of the grid per cell of this map.
    """

    rows: int
    cols: int
    channels: int
    stride: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(1, rows, cols, channels)."""
        return 1, self.rows, self.cols, self.channels


@dataclass(frozen=True, eq=False)
class ConvStep:
    """`kernels.tile_conv`: convolution or transposed convolution, then residual and ReLU where given."""

    source: str
    target: str
    filters: Filters
    relu: bool = False
    residual: str | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that it reads."""
        return (self.source,) if self.residual is None else (self.source, self.residual)

    @property
    def operator(self) -> str:
        """Short description for the plan."""
        rows, cols, channels, columns = self.filters.weights.shape
        kind = "transposed " if self.filters.transposed else ""
        stride = f" /{self.filters.stride}" if self.filters.stride > 1 else ""
        after = " + add" * (self.residual is not None) + " + relu" * self.relu
        return f"{kind}conv {rows}×{cols}{stride} {channels}→{columns}{after}"

    def operations(self, target: Map) -> int:
        """Multiplications and additions of a dense run."""
        rows, cols, channels, columns = self.filters.weights.shape
        taps = 1 if self.filters.transposed else rows * cols
        total: int = 2 * target.rows * target.cols * taps * channels * columns
        return total


@dataclass(frozen=True, eq=False)
class UnitStep:
    """`kernels.residual_unit`: a whole residual unit inside the cache."""

    source: str
    target: str
    unit: Unit

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that it reads."""
        return (self.source,)

    @property
    def operator(self) -> str:
        """Short description for the plan."""
        sizes = ", ".join("{}×{} {}→{}".format(*layer.weights.shape) for layer in self.unit.layers)
        return f"residual unit ({sizes})"

    def operations(self, target: Map) -> int:
        """Multiplications and additions of a dense run."""
        weights: int = sum(layer.weights.size for layer in self.unit.layers)
        return 2 * target.rows * target.cols * weights


@dataclass(frozen=True, eq=False)
class PointwiseStep:
    """`kernels.tile_pointwise`: everything that looks at one cell: BN, ReLU, sigmoid, add, concatenate, repeat."""

    source: str
    target: str
    scale: Float32 | None = None
    shift: Float32 | None = None
    residual: str | None = None
    activation: str = "none"
    upsample: int = 1
    first_channel: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that it reads."""
        return (self.source,) if self.residual is None else (self.source, self.residual)

    @property
    def operator(self) -> str:
        """Short description for the plan."""
        parts = ["scale"] * (self.scale is not None) + ["add"] * (self.residual is not None)
        parts += [self.activation] * (self.activation != "none") + [f"repeat ×{self.upsample}"] * (self.upsample > 1)
        return " + ".join(parts) or "copy"

    def operations(self, target: Map) -> int:
        """Multiplications and additions of a dense run."""
        return 2 * target.rows * target.cols * target.channels


@dataclass(frozen=True, eq=False)
class PoolStep:
    """`kernels.tile_max_pool`."""

    source: str
    target: str
    size: int
    stride: int
    padding: tuple[int, int]

    @property
    def sources(self) -> tuple[str, ...]:
        """Maps that it reads."""
        return (self.source,)

    @property
    def operator(self) -> str:
        """Short description for the plan."""
        return f"max pool {self.size}×{self.size} /{self.stride}"

    def operations(self, target: Map) -> int:
        """Comparisons of a dense run."""
        return target.rows * target.cols * target.channels * self.size**2


@dataclass(frozen=True, eq=False)
class DenseStep:
    """Nodes that run on whole maps through onnxruntime.

    Attributes:
        nodes: ONNX nodes, in order.
        sources: values that they read.
        targets: values that others read.
        why: what kept them from running on tiles.
    """

    nodes: tuple[Any, ...]
    sources: tuple[str, ...]
    targets: tuple[str, ...]
    why: str

    @property
    def operator(self) -> str:
        """Short description for the plan."""
        return " + ".join(node.op_type for node in self.nodes)

    def operations(self, target: Map) -> int:
        """Unknown: not counted."""
        return 0


TileStep = ConvStep | UnitStep | PointwiseStep | PoolStep
Step = TileStep | DenseStep


def step_name(step: Step) -> str:
    """A name that no other step of a plan has: what it makes."""
    if isinstance(step, DenseStep):
        return step.targets[0]
    channel = getattr(step, "first_channel", 0)
    return f"{step.target}[{channel}:]" if channel else step.target
