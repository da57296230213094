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

from kernels.restore_tiles import restore_tiles
from kernels.tiles import ActiveTiles
from kernels.workspace import Workspace
from models.dense_steps import dense_runners
from models.network import INPUT_NAME, Network
from models.plan import GRID_TILE, StageChoice
from models.steps import DenseStep, step_name
from models.tile_lists import receptive_tiles, tile_image
from models.tile_network import DETECTOR_OUTPUTS, TileNetwork, run_step

Float32 = NDArray[np.float32]


class TileExecutor(TileNetwork):
    """Runs a network on the CPU where tiles of the grid are active. NHWC throughout; one frame at a time.

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
        outputs: tuple[str, ...] = DETECTOR_OUTPUTS,
    ) -> None:
        super().__init__(network, choices, outputs)
        self._threads = min(threads or numba.config.NUMBA_NUM_THREADS, numba.config.NUMBA_NUM_THREADS)
        self._workspace = Workspace()
        self._maps: dict[str, Float32] = {
            name: np.zeros(made.shape, np.float32) for name, made in self.plan.maps.items()
        }
        self._runners = dense_runners(self.plan, self._threads)
        self._values: dict[str, Any] = {}
        self._touched: dict[str, NDArray[np.bool_]] = {}
        self._make_base()

    def _make_base(self) -> None:
        """Every map's response to an empty grid, from a run with all tiles active."""
        self.run_maps(np.zeros(self.plan.maps[INPUT_NAME].shape[1:], np.float32), ActiveTiles.all(self.grid_tiles))
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
        self.check_frame(grid, tiles)
        before = numba.get_num_threads()
        numba.set_num_threads(self._threads)
        try:
            lists = self._exact_lists(tiles) if exact else self.lists(tile_image(tiles))
            self._restore(lists)
            self._maps[INPUT_NAME] = np.ascontiguousarray(grid)[None]
            for step in self._steps:
                start = perf_counter()
                if isinstance(step, DenseStep):
                    self._runners[id(step)].run(self._maps, self._values)
                else:
                    run_step(step, self._maps, lists[step.target], self._workspace)
                if step_ms is not None:
                    step_ms[step_name(step)] = 1e3 * (perf_counter() - start)
        finally:
            numba.set_num_threads(before)
        return tuple(self._maps[name][0] for name in self._outputs)

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
