"""How fast the GPU is with our kernels, and with PyTorch's dense layers in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.config import Config
from detector.pipeline import Pipeline
from detector.types import Frame
from kernels.cuda_graph import CudaGraph, GraphError
from kernels.filters import Filters
from kernels.gpu import free_bytes
from kernels.launch import cuda, elapsed_ms, mark, to_device
from kernels.reduce_mask import reduce_mask
from kernels.residual_unit import residual_unit
from kernels.tile_conv import active_cells, tile_conv
from kernels.tiles import TileSpec
from kernels.unit import Unit
from kernels.workspace import Workspace
from models.half_precision import padded_filters, padded_unit
from models.plan import Plan
from tools.benchmark.dense_unit import PreActivationUnit, random_weights, same_size
from tools.benchmark.sbnet_rows import WIDTHS, Row
from tools.gpu_check.half import padded_map

Float32 = NDArray[np.float32]
TILE_CELLS = (8, 16, 24, 32)
ROUNDS = 30
RELATIVE = 0.05  # largest difference from dense, of the spread of its values: float16 on both sides


def median_ms(call: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Median milliseconds that the device takes for what a call queues, after one that does not count."""
    call()
    cuda.synchronize()
    marks = []
    for _ in range(rounds):
        start = mark()
        call()
        marks.append((start, mark()))
    cuda.synchronize()
    return float(np.median([elapsed_ms(*pair) for pair in marks]))


def as_graph(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call as one CUDA graph, as the dense side is; as it is where the driver refuses. It has run before."""
    try:
        return CudaGraph(call).launch
    except GraphError:
        return call


class SparseLayers:
    """A convolution, or residual units one after the other, in float16 on the device.

    Args:
        x: (1, H, W, C) float32 input.
        layers: one `Filters`, or any number of `Unit`.
    """

    def __init__(self, x: Float32, layers: Sequence[Unit | Filters]) -> None:
        padded = padded_map(x).astype(np.float16)
        self._layers = [padded_unit(one) if isinstance(one, Unit) else padded_filters(one) for one in layers]
        self._x = to_device(padded)
        self._maps = [to_device(np.zeros_like(padded)) for _ in range(2)]
        self._workspace = Workspace(device=True)

    def run(self, mask: Any, tile_cells: int) -> tuple[Any, Any]:
        """Mask (1, H, W) float32 on the device to the last map and its tiles: all of it is queued."""
        spec = TileSpec.covering((self._x.shape[1], self._x.shape[2]), tile_cells)
        tiles = reduce_mask(mask, spec, workspace=self._workspace)
        source = self._x
        for number, layer in enumerate(self._layers):
            target = self._maps[number % 2]
            if isinstance(layer, Unit):
                residual_unit(source, layer, tiles, target)
            else:
                tile_conv(source, layer, tiles, target)
            source = target
        return source, tiles


def layers_of(row: Row, rng: np.random.Generator) -> tuple[Unit | Filters, ...]:
    """Random layers of a row of SBNet's tables."""
    if row.kind == "conv":
        return (same_size(random_weights(rng, 3, row.channels, row.channels)),)
    width = WIDTHS[row.stage]
    return tuple(PreActivationUnit.random(rng, row.channels, width).folded() for _ in range(row.units))


def measure_row(row: Row, mask: Float32, dense: Any, rounds: int = ROUNDS) -> dict[str, Any]:
    """One row, dense and sparse: its columns, ``ours``, ``dense_ms``, ``sparse_ms`` and what belongs to them.

    Args:
        row: what to measure.
        mask: (1, H, W) float32.
        dense: a `tools.gpu_check.torch_dense.Dense`, or what has its methods.
        rounds: how often each side runs.

    Raises:
        ValueError: if the first layer is not the dense one's at active cells, or cannot run.
    """
    rng = np.random.default_rng(0)
    layers, x = layers_of(row, rng), rng.standard_normal((1, *row.shape, row.channels), np.float32)
    there, there_mask = dense.put(x), to_device(mask)
    found, tiles = SparseLayers(x, layers[:1]).run(there_mask, TILE_CELLS[0])
    wanted = dense.get(dense.layers(layers[:1])(there))
    active = active_cells(tiles.to_host(), wanted.shape)
    difference = np.abs(found.copy_to_host()[..., : row.channels].astype(np.float32) - wanted)[active].max(initial=0)
    if not difference <= RELATIVE * wanted.std():
        raise ValueError(f"differs from dense by {difference:.3g} where values spread by {wanted.std():.3g}")
    sparse, whole = SparseLayers(x, layers), dense.layers(layers)
    sides = [cells for cells in TILE_CELLS if cells <= min(row.shape)]
    durations = {}
    for cells in sides:
        call = partial(sparse.run, there_mask, cells)
        call()
        durations[cells] = median_ms(as_graph(call), rounds)
    cells = min(sides, key=lambda side: durations[side])
    dense_ms = median_ms(dense.captured(lambda: whole(there)), rounds)
    tiles = sparse.run(there_mask, cells)[1].to_host()
    return {
        **asdict(row),
        "ours": dense_ms / durations[cells],
        "dense_ms": dense_ms,
        "sparse_ms": durations[cells],
        "tile_cells": cells,
        "tile_fraction": float(active_cells(tiles, x.shape).mean()),
        "max_error": float(difference),
    }


def measure_detector(config: Config, frames: Sequence[Float32], loops: int) -> dict[str, Any]:
    """Latency of frames one by one, stages, and frames per second of a stream.

    Returns:
        ``latency_ms`` (wall clock, points on the host to boxes on the host), ``stage_ms`` (medians), ``fps``,
        ``peak_mb`` that the pipeline took of the GPU, and whether its kernels were launched as a ``graph``.
    """
    before = free_mb()
    pipeline = Pipeline(config)
    for points in (*frames, *frames):
        pipeline.detect(points)
    walls, stages = [], []
    for _ in range(loops):
        for points in frames:
            start = time.perf_counter()
            result = pipeline.detect(points)
            walls.append(1e3 * (time.perf_counter() - start))
            stages.append(result.stage_ms)
    start = time.perf_counter()
    count = sum(1 for _ in pipeline.stream([points for points in frames] * loops))
    fps = count / (time.perf_counter() - start)
    p50, p99 = np.percentile(walls, [50, 99])
    return {
        "latency_ms": {"p50": float(p50), "p99": float(p99)},
        "stage_ms": {name: float(np.median([stage[name] for stage in stages])) for name in stages[0]},
        "fps": fps,
        "peak_mb": before - free_mb(),
        "frames": count,
        "graph": getattr(pipeline._executor, "uses_graphs", False),
    }


def measure_batches(config: Config, frames: Sequence[Float32], loops: int, batches: Sequence[int]) -> dict[str, float]:
    """Frames per second where so many are started before the first is waited for, each on a pipeline of its own."""
    pipelines = [Pipeline(config) for _ in range(max(batches))]
    for pipeline in pipelines:
        for points in (*frames, *frames):
            pipeline.detect(points)
    found = {}
    for batch in batches:
        start = time.perf_counter()
        for points in [*frames] * loops:
            for finish in [pipeline.start(Frame(points)) for pipeline in pipelines[:batch]]:
                finish()
        found[str(batch)] = batch * loops * len(frames) / (time.perf_counter() - start)
    return found


def measure_dense_network(plan: Plan, dense: Any, batches: Sequence[int], rounds: int = ROUNDS) -> dict[str, float]:
    """Milliseconds of the whole network dense in PyTorch, by batch."""
    first = plan.maps[plan.graph.input_name]
    run, found = dense.network(plan), {}
    for batch in batches:
        grid = dense.put(np.zeros((batch, *first.shape[1:]), np.float32))
        found[str(batch)] = median_ms(dense.captured(lambda grid=grid: run(grid)), rounds)  # type: ignore[misc]
    return found


def free_mb() -> float:
    """Memory of the GPU that nobody uses [MB, 1e6 bytes]."""
    return free_bytes() / 1e6
