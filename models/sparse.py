"""The tile executor: a network on its active tiles, with the empty scene everywhere else.

SBNet (CVPR 2018) left zeros or the input outside active tiles, so networks had to be retrained. Here every map starts
as the *empty-scene base*, the layer's response to an empty grid, borders included. Active tiles overwrite it, and what
a frame touched is restored before the next. Where the scene is empty, sparse equals dense, so a network that was
trained densely runs on tiles as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from kernels.residual_unit import residual_unit
from kernels.restore_tiles import restore_tiles
from kernels.tile_conv import tile_conv
from kernels.tile_max_pool import tile_max_pool
from kernels.tile_pointwise import tile_pointwise
from kernels.tiles import ActiveTiles, TileSpec
from kernels.workspace import Workspace
from models.dense_steps import DenseRunner
from models.errors import ModelError
from models.network import INPUT_NAME, REGRESSION_NAME, SCORE_NAME, Network
from models.plan import GRID_TILE, Plan, StageChoice, make_plan
from models.steps import ConvStep, DenseStep, PointwiseStep, PoolStep, TileStep, UnitStep, step_name
from models.tile_lists import receptive_tiles, tile_image, tile_spec, tiles_of_map

Float32 = NDArray[np.float32]


class TileExecutor:
    """Runs a network where tiles of the grid are active. NHWC throughout; one frame at a time.

    Args:
        network: the network.
        choices: how each stage runs, by stride; None for the defaults.
        threads: CPU threads, None for all cores.
        outputs: what `run_maps` returns.

    Raises:
        ModelError: if the network cannot be planned or lacks the pipeline's input or the outputs.
        MissingExtraError: if a step must run densely and onnxruntime is not installed.
    """

    device = "cpu"

    def __init__(
        self,
        network: Network,
        choices: Mapping[int, StageChoice] | None = None,
        threads: int | None = None,
        outputs: tuple[str, ...] = (SCORE_NAME, REGRESSION_NAME),
    ) -> None:
        self.plan: Plan = make_plan(network, choices)
        graph = self.plan.graph
        if graph.input_name != INPUT_NAME or not set(outputs) <= set(graph.outputs):
            raise ModelError(
                f"{network.path}: input {graph.input_name} and outputs {list(graph.outputs)}, "
                f"expected {INPUT_NAME} and {', '.join(outputs)}"
            )
        self._outputs = outputs
        self._threads = min(threads or numba.config.NUMBA_NUM_THREADS, numba.config.NUMBA_NUM_THREADS)
        self._workspace = Workspace()
        self._maps: dict[str, Float32] = {name: np.zeros(made.shape, np.float32) for name, made in graph.maps.items()}
        self._runners = {
            id(line.step): DenseRunner(graph.model, line.step, self._threads)
            for line in self.plan.steps
            if isinstance(line.step, DenseStep)
        }
        self._steps = [line.step for line in self.plan.steps]
        self._tile_cells = {
            line.step.target: line.tile_cells
            for line in self.plan.steps
            if not isinstance(line.step, DenseStep) and line.tile_cells is not None
        }
        self._values: dict[str, Any] = {}
        self._touched: dict[str, NDArray[np.bool_]] = {}
        self._make_base()

    def _make_base(self) -> None:
        """Every map's response to an empty grid, from a run with all tiles active."""
        first = self.plan.maps[INPUT_NAME]
        grid_tiles = ActiveTiles.all(TileSpec.covering((first.rows, first.cols), GRID_TILE))
        self.run_maps(np.zeros(first.shape[1:], np.float32), grid_tiles)
        self._base = {name: self._maps[name].copy() for name in self._tile_cells}
        self._touched = {}

    def run(
        self, grid: Float32, tiles: ActiveTiles, exact: bool = False, step_ms: dict[str, float] | None = None
    ) -> tuple[Float32, Float32]:
        """Score (rows, cols) and regression (rows, cols, 8) maps, float32, of a detector; see `run_maps`."""
        score, regression = self.run_maps(grid, tiles, exact, step_ms)
        return score[:, :, 0], regression

    def run_maps(
        self, grid: Float32, tiles: ActiveTiles, exact: bool = False, step_ms: dict[str, float] | None = None
    ) -> tuple[Float32, ...]:
        """The output maps, (rows, cols, channels) float32 each: views of buffers that the next run overwrites.

        Args:
            grid: (rows, cols, channels) float32 BEV grid.
            tiles: active tiles of the grid, `GRID_TILE` cells of a side.
            exact: also compute what the active output cells depend on, so that there they equal the dense network;
                slow, for tests.
            step_ms: receives the milliseconds of every step, by the map that it makes.

        Raises:
            ValueError: if the grid or the tiles do not fit the network.
        """
        first = self.plan.maps[INPUT_NAME]
        expected = TileSpec.covering((first.rows, first.cols), GRID_TILE)
        if grid.shape != first.shape[1:] or tiles.spec != expected:
            raise ValueError(f"grid {grid.shape}, tiles {tiles.spec}; expected {first.shape[1:]} and {expected}")
        before = numba.get_num_threads()
        numba.set_num_threads(self._threads)
        try:
            lists = self._exact_lists(tiles) if exact else self._lists(tiles)
            self._restore(lists)
            self._maps[INPUT_NAME] = np.ascontiguousarray(grid)[None]
            for step in self._steps:
                start = perf_counter()
                if isinstance(step, DenseStep):
                    self._runners[id(step)].run(self._maps, self._values)
                else:
                    self._run(step, lists[step.target])
                if step_ms is not None:
                    step_ms[step_name(step)] = 1e3 * (perf_counter() - start)
        finally:
            numba.set_num_threads(before)
        return tuple(self._maps[name][0] for name in self._outputs)

    def _lists(self, tiles: ActiveTiles) -> dict[str, ActiveTiles]:
        """The tiles of every map; maps of one stride and tile size share a list."""
        image = tile_image(tiles)
        shared: dict[tuple[int, int], ActiveTiles] = {}
        lists = {}
        for name, cells in self._tile_cells.items():
            made = self.plan.maps[name]
            key = (made.stride, cells)
            if key not in shared:
                shared[key] = tiles_of_map(image, GRID_TILE, made, cells)
            lists[name] = shared[key]
        return lists

    def _exact_lists(self, tiles: ActiveTiles) -> dict[str, ActiveTiles]:
        maps, image = self.plan.maps, tile_image(tiles)[0] > 0
        wanted = {}
        for name in self.plan.graph.outputs:
            made = maps[name]
            cells = np.kron(image, np.ones((GRID_TILE // made.stride,) * 2, np.bool_))
            wanted[name] = cells[: made.rows, : made.cols]
        steps = [step for step in self._steps if not isinstance(step, DenseStep)]
        return receptive_tiles(steps, maps, wanted, self._tile_cells)

    def _restore(self, lists: Mapping[str, ActiveTiles]) -> None:
        """Puts the base back where the last frame wrote and this one will not."""
        stale: dict[int, ActiveTiles] = {}
        for name, active in lists.items():
            image = tile_image(active)[0] > 0
            if name in self._touched:
                key = id(active)
                if key not in stale:
                    left = np.argwhere(self._touched[name] & ~image).astype(np.int32)
                    index = np.column_stack([np.zeros(len(left), np.int32), left])
                    stale[key] = ActiveTiles(index, active.spec)
                restore_tiles(self._base[name], stale[key], self._maps[name])
            self._touched[name] = image

    def _run(self, step: TileStep, tiles: ActiveTiles) -> None:
        source, target = self._maps[step.source], self._maps[step.target]
        if isinstance(step, ConvStep):
            residual = None if step.residual is None else self._maps[step.residual]
            # The grid itself is nearly all zeros, and no other map is.
            skip = step.source == INPUT_NAME and not step.filters.transposed
            method = "nonzero" if skip else "auto"
            tile_conv(source, step.filters, tiles, target, step.relu, residual, method, self._workspace)
        elif isinstance(step, UnitStep):
            residual_unit(source, step.unit, tiles, target, self._workspace)
        elif isinstance(step, PointwiseStep):
            tile_pointwise(
                source,
                tiles,
                target,
                scale=step.scale,
                shift=step.shift,
                residual=None if step.residual is None else self._maps[step.residual],
                activation=step.activation,
                upsample=step.upsample,
                first_channel=step.first_channel,
            )
        else:
            assert isinstance(step, PoolStep)
            tile_max_pool(source, tiles, target, size=step.size, stride=step.stride, padding=step.padding)

    def computed_fraction(self, tiles: ActiveTiles) -> float:
        """Operations on these tiles over those of all cells."""
        lists = self._lists(tiles)
        total = done = 0.0
        for line in self.plan.steps:
            if line.made is None or isinstance(line.step, DenseStep):
                continue
            operations = line.step.operations(line.made)
            total += operations
            done += operations * len(lists[line.step.target]) / tile_spec(line.made, line.tile_cells or 1).total
        return done / total if total else 1.0
