"""SBNet's speed tables on this machine: what a row is, and how it is measured.

A row's speed-up is the duration of its dense layers over that of the sparse ones. The two sides take turns, so that a
change of the machine's mood meets both; the reported pair of durations is the one whose ratio is the median of all
turns and masks. Sparse time begins with the mask at the layer's resolution and pools it by maximum: every active cell
is computed (SBNet's own benchmark pools by mean above 0.05, and does not time the pooling).
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.errors import RoadblocksError
from kernels.filters import Filters
from kernels.tile_conv import active_cells
from kernels.unit import Unit
from tools.benchmark.dense_process import DenseProcess, median_ms
from tools.benchmark.dense_unit import (
    PreActivationUnit,
    conv_model,
    folded_model,
    folded_unit,
    pre_activation_model,
    random_weights,
    same_size,
)
from tools.benchmark.masks import sweep_mask, top_left
from tools.benchmark.sparse_layers import SparseLayers

Float32 = NDArray[np.float32]

TABLES = Path(__file__).with_name("sbnet_tables.csv")
# K of the units, from the paper's text; its tables print C.
WIDTHS = {"conv-2": 24, "conv-3": 48, "conv-4": 64, "conv-5": 96}
TILE_CELLS = (4, 8, 12, 16, 24, 32)
SEARCH_S = 0.04  # how long one tile size is tried for one mask, at least
ROUNDS = 5
PAUSE_S = 0.05  # after which no worker of the other side waits busily any more
RELATIVE = 1e-3  # largest difference from dense, of the spread of its values


@dataclass(frozen=True)
class Row:
    """One row of the paper's tables 1 to 4: columns of `TABLES`.

    Attributes:
        kind: "conv", a 3×3 convolution at the width of the bottleneck, or "unit", bottleneck residual units.
        stage: "conv-2" to "conv-5".
        units: how many units one after the other.
        height: cells of the map, across.
        width: cells of the map, along.
        channels: C.
        mask: "synthetic", "road" or "predicted".
        sparsity: share of cells outside the mask.
        submanifold: speed-up that the paper gives for submanifold sparse convolution.
        sbnet: speed-up that the paper gives for itself.
    """

    kind: str
    stage: str
    units: int
    height: int
    width: int
    channels: int
    mask: str
    sparsity: float
    submanifold: float
    sbnet: float

    @property
    def name(self) -> str:
        """What ``--rows`` is matched with."""
        return f"{self.kind}/{self.stage}/{self.mask}"

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the map."""
        return self.height, self.width

    def masks(self, sweeps: Sequence[Float32]) -> list[Float32]:
        """The masks to measure with: one rectangle, or one for each sweep."""
        if self.mask == "synthetic":
            return [top_left(self.shape, self.sparsity)]
        return [sweep_mask(points, self.shape, self.sparsity, self.mask == "predicted") for points in sweeps]


def read_rows(path: Path = TABLES) -> list[Row]:
    """The rows of a table file; lines that begin with # are comments."""
    kinds = {name: {"int": int, "float": float, "str": str}[kind] for name, kind in Row.__annotations__.items()}
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return [Row(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(lines)]


@dataclass(frozen=True)
class Workload:
    """A row's layers on both sides.

    Attributes:
        model: ONNX of all layers.
        first: ONNX of the first alone.
        layers: the same for our kernels.
        gflop: 1e9 multiplications and additions of the convolutions, on the whole map.
    """

    model: bytes
    first: bytes
    layers: tuple[Unit, ...] | tuple[Filters, ...]
    gflop: float


def make_workload(row: Row, folded: bool, rng: np.random.Generator) -> Workload:
    """Random weights for a row; ``folded`` tells the form of its units (`tools.benchmark.dense_unit`)."""
    layers: tuple[Unit, ...] | tuple[Filters, ...]
    if row.kind == "conv":
        layers = (same_size(random_weights(rng, 3, row.channels, row.channels)),)
        model = first = conv_model(layers[0], row.shape)
    elif folded:
        layers = tuple(folded_unit(rng, row.channels, WIDTHS[row.stage]) for _ in range(row.units))
        model, first = (folded_model(units, row.shape) for units in (layers, layers[:1]))
    else:
        units = [PreActivationUnit.random(rng, row.channels, WIDTHS[row.stage]) for _ in range(row.units)]
        layers = tuple(unit.folded() for unit in units)
        model, first = (pre_activation_model(some, row.shape) for some in (units, units[:1]))
    convolutions = [part for layer in layers for part in (layer.layers if isinstance(layer, Unit) else (layer,))]
    flop = 2 * row.height * row.width * sum(filters.weights.size for filters in convolutions)
    return Workload(model, first, layers, flop / 1e9)


@dataclass(frozen=True)
class Measurement:
    """One form of a row, measured.

    Attributes:
        dense_ms: duration of the dense layers.
        sparse_ms: duration of the sparse layers, mask reduction included.
        tile_fraction: cells under active tiles over all cells, for the mask of ``sparse_ms``.
        tile_cells: side of a tile, the fastest of those tried.
        method: the fastest way to run the layers.
        dense_level: the faster of onnxruntime's levels.
        gflop: of the dense layers.
    """

    dense_ms: float
    sparse_ms: float
    tile_fraction: float
    tile_cells: int
    method: str
    dense_level: str
    gflop: float

    @property
    def speedup(self) -> float:
        """Dense over sparse."""
        return self.dense_ms / self.sparse_ms

    def to_json(self) -> dict[str, float | int | str]:
        """All of it, with the dense side's GFLOP/s."""
        return {**asdict(self), "dense_gflop_per_s": 1e3 * self.gflop / self.dense_ms}


def measure(row: Row, masks: Sequence[Float32], folded: bool = False, rounds: int = ROUNDS) -> Measurement:
    """Checks a row against its dense layers, finds its tile size, and times both sides in turns.

    Args:
        row: what to measure.
        masks: (1, H, W) float32 each.
        folded: the form of its units.
        rounds: how often the two sides take turns.

    Raises:
        RoadblocksError: if sparse and dense differ at a cell where they must not.
    """
    rng = np.random.default_rng(0)
    workload = make_workload(row, folded, rng)
    x = rng.standard_normal((1, *row.shape, row.channels), np.float32)
    sparse = SparseLayers(x, workload.layers)
    tile_cells, method = _fastest(sparse, masks)
    first = SparseLayers(x, workload.layers[:1])
    with DenseProcess(workload.first, x) as dense:
        _check(row, dense.run(), first, masks, tile_cells, method)
    pairs = []
    with DenseProcess(workload.model, x) as dense:
        if row.units > 1:
            _check(row, dense.run(), sparse, masks, tile_cells, method)
        for _ in range(rounds):
            dense_ms = dense.median_ms()
            time.sleep(PAUSE_S)
            for mask in masks:
                sparse.clear()
                _, tiles = sparse.run(mask, tile_cells, method)
                fraction = float(active_cells(tiles, x.shape).mean())
                pairs.append((dense_ms, median_ms(lambda: sparse.run(mask, tile_cells, method)), fraction))  # noqa: B023
            time.sleep(PAUSE_S)
        level = dense.level
    median = sorted(pairs, key=lambda pair: pair[0] / pair[1])[len(pairs) // 2]
    return Measurement(*median, tile_cells, method, level, workload.gflop)


def _fastest(sparse: SparseLayers, masks: Sequence[Float32]) -> tuple[int, str]:
    """Side of a tile and method that take the least time over all masks."""
    sides = [cells for cells in TILE_CELLS if cells <= min(sparse.x.shape[1:3])]
    durations = dict.fromkeys(((cells, method) for cells in sides for method in sparse.methods), 0.0)
    for choice in durations:
        for mask in masks:
            sparse.clear()
            durations[choice] += median_ms(lambda: sparse.run(mask, *choice), SEARCH_S)  # noqa: B023
    return min(durations, key=lambda choice: durations[choice])


def _check(
    row: Row, wanted: Float32, sparse: SparseLayers, masks: Sequence[Float32], tile_cells: int, method: str
) -> None:
    """Refuses sparse results that are not the dense ones.

    After n units, only cells at least n from an inactive one can be equal; of the first unit that is every active one.
    """
    from scipy.ndimage import binary_erosion  # imported here: tools.gpu_check runs without SciPy

    tolerance = RELATIVE * float(wanted.std())
    for number, mask in enumerate(masks):
        sparse.clear()
        found, tiles = sparse.run(mask, tile_cells, method)
        active = active_cells(tiles, wanted.shape)[0]
        if len(sparse.layers) > 1:
            active = binary_erosion(active, np.ones((3, 3)), len(sparse.layers) - 1, border_value=1)
        difference = np.abs(found[0][active] - wanted[0][active]).max(initial=0)
        if not difference <= tolerance:  # NaN too
            raise RoadblocksError(
                f"{row.name}, mask {number}: sparse differs from dense by {difference:.3g} at a cell where they must "
                f"agree, expected at most {tolerance:.3g}: tiles of {tile_cells}, method {method}"
            )
