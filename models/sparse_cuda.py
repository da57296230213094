"""The tile executor on CUDA: the plan of `models.sparse`, its maps and its lists of tiles on the device.

Nothing in a frame waits for the host: which tiles run is found out on the device, their numbers stay there, and
kernels loop to them. What the last frame touched and this one will not is put back from the empty-scene base.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from kernels.cuda_graph import GraphCache
from kernels.gpu import TENSOR_CAPABILITY, capability, free_bytes, gpu_name, gpu_problem
from kernels.launch import elapsed_ms, mark, stream, to_device, to_host
from kernels.restore_tiles import restore_tiles
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec
from kernels.workspace import Workspace
from models.dense_steps import dense_runners
from models.errors import GpuMemoryError, ModelError, NoGpuError
from models.half_precision import half_maps, map_bytes, padded_channels, step_on_device
from models.network import INPUT_NAME, Network
from models.plan import StageChoice
from models.steps import DenseStep, step_name
from models.tile_lists import tile_spec
from models.tile_network import DETECTOR_OUTPUTS, TileNetwork, run_step

log = logging.getLogger("roadblocks")

PRECISIONS = ("auto", "float32", "float16")
_OTHER_BYTES = 200e6  # the grid, points, lists, weights and what the driver keeps for itself, at most


class CudaTileExecutor(TileNetwork):
    """Runs a network on a GPU where tiles of the grid are active. NHWC throughout; one frame at a time.

    Args:
        network: the network.
        choices: how each stage runs, by stride; None for the defaults.
        precision: "float16": tensor cores multiply, sums are float32; "float32"; "auto": the first where the GPU has
            tensor cores that the kernels know. Operators that tiles cannot run go through onnxruntime on the host, in
            float32.
        outputs: what `run_maps` returns.
        graph: whether a frame's kernels are launched as one CUDA graph, where the driver can.

    Raises:
        NoGpuError: if no GPU can be used, or it lacks memory for the network.
        ModelError: if the network cannot be planned, lacks the pipeline's input or the outputs, or float16 is asked for
            and the GPU is too old for it.
        MissingExtraError: if a step must run densely and onnxruntime is not installed.
    """

    device = "cuda"

    def __init__(
        self,
        network: Network,
        choices: Mapping[int, StageChoice] | None = None,
        precision: str = "auto",
        outputs: tuple[str, ...] = DETECTOR_OUTPUTS,
        graph: bool = True,
    ) -> None:
        check_gpu()
        super().__init__(network, choices, outputs)
        self.half = half_maps(self.plan) if wants_half(precision) else frozenset()
        sizes = map_bytes(self.plan, self.half)
        needed, free = 2 * sum(sizes.values()) + _OTHER_BYTES, free_bytes()  # maps, and their base
        if free < needed:
            raise GpuMemoryError(
                f"device cuda: {gpu_name()} has {free / 1e6:.0f} MB free, expected {needed / 1e6:.0f} MB for "
                f"{network.info.name}; close other programs on it, or use --device cpu"
            )
        self._maps = {name: self._zeros(name) for name in self.plan.maps if name != INPUT_NAME}
        self._base = {name: self._zeros(name) for name in self._tile_cells}
        self._runners = dense_runners(self.plan, 1)
        self._values: dict[str, Any] = {}
        self._steps = [step if isinstance(step, DenseStep) else step_on_device(step, self.half) for step in self._steps]
        for line in self.plan.steps:
            if isinstance(line.step, DenseStep):
                log.warning("%s runs on the host, so every frame waits for it: %s", line.step.operator, line.why)
        self._touched = _TouchedTiles(self)
        self._graphs = GraphCache(graph and not self._runners)
        self._make_base()

    @property
    def uses_graphs(self) -> bool:
        """Whether frames are, or will be, launched as graphs: not where the driver has refused."""
        return self._graphs.wanted

    def _zeros(self, name: str) -> Any:
        made = self.plan.maps[name]
        channels = padded_channels(made.channels) if name in self.half else made.channels
        dtype = np.float16 if name in self.half else np.float32
        return to_device(np.zeros((*made.shape[:3], channels), dtype))

    def _make_base(self) -> None:
        """Every map's response to an empty grid, from a run with all tiles active."""
        grid = to_device(np.zeros(self.plan.maps[INPUT_NAME].shape[1:], np.float32))
        self.run_maps(grid, ActiveTiles.all(self.grid_tiles).to_device())
        for name, cells in self._tile_cells.items():
            every = ActiveTiles.all(tile_spec(self.plan.maps[name], cells)).to_device()
            restore_tiles(self._maps[name], every, self._base[name])

    def run(self, grid: Any, tiles: DeviceTiles, step_ms: dict[str, float] | None = None) -> tuple[Any, Any]:
        """Score (rows, cols) and regression (rows, cols, 8) maps, float32, of a detector; see `run_maps`."""
        score, regression = self.run_maps(grid, tiles, step_ms)
        return score.reshape(tuple(score.shape[:2])), regression

    def run_maps(self, grid: Any, tiles: DeviceTiles, step_ms: dict[str, float] | None = None) -> tuple[Any, ...]:
        """The output maps, (rows, cols, channels) float32 each, on the device at the output stride.

        They are views of buffers that the next run overwrites. Everything is queued on this thread's stream.

        Args:
            grid: (rows, cols, channels) float32 BEV grid on the device.
            tiles: active tiles of the grid, `GRID_TILE` cells of a side.
            step_ms: receives the milliseconds of every step, by the map that it makes; waits for the device.

        Raises:
            ValueError: if the grid or the tiles do not fit the network.
        """
        self.check_frame(grid, tiles)
        if step_ms is None:
            self._graphs.run(lambda: self._queue(grid, tiles), grid, tiles.index, tiles.count)
        else:
            marks: list[Any] = []
            self._queue(grid, tiles, lambda: marks.append(mark()))
            names = (step_name(step) for step in self._steps)
            step_ms |= {name: elapsed_ms(*pair) for name, *pair in zip(names, marks, marks[1:], strict=False)}
        return tuple(self._maps[name].reshape(tuple(self._maps[name].shape[1:])) for name in self._outputs)

    def _queue(self, grid: Any, tiles: DeviceTiles, after_each: Callable[[], object] = lambda: None) -> None:
        """All kernels of a frame; ``after_each`` is called before the first step and after every one."""
        lists, stale = self._touched.lists(tiles)
        for name in self._tile_cells:
            restore_tiles(self._base[name], stale[name], self._maps[name])
        self._maps[INPUT_NAME] = grid.reshape(1, *grid.shape)
        after_each()
        for step in self._steps:
            if isinstance(step, DenseStep):
                self._run_dense(step)
            else:
                run_step(step, self._maps, lists[step.target])
            after_each()

    def _run_dense(self, step: DenseStep) -> None:
        """A piece that tiles cannot run: its maps go to the host and back."""
        ends = [name for name in (*step.sources, *step.targets) if name in self._maps]
        there = {name: to_host(self._maps[name]) for name in ends}
        self._runners[id(step)].run(there, self._values)
        for name in step.targets:
            if name in there:
                self._maps[name].copy_to_device(there[name], stream=stream())


class _TouchedTiles:
    """Which tiles of the grid this frame runs on and which the last one ran on, as small maps on the device.

    Args:
        network: its grid and its lists.
    """

    def __init__(self, network: TileNetwork) -> None:
        self._network = weakref.proxy(network)  # which holds this: its memory shall go with its last user
        shape = (1, *network.grid_tiles.count, 1)
        self._zeros, self._ones = (to_device(np.full(shape, value, np.float32)) for value in (0, 1))
        self._now, self._gone = (to_device(np.zeros(shape, np.float32)) for _ in range(2))
        self._cells = TileSpec((1, 1), (1, 1), (0, 0), network.grid_tiles.count)  # a cell for every tile of the grid
        whole = TileSpec(network.grid_tiles.count, network.grid_tiles.count, (0, 0), (1, 1))
        self._whole = ActiveTiles.all(whole).to_device()
        self._workspaces = [{key: Workspace(device=True) for key in network.list_keys} for _ in range(2)]

    def lists(self, tiles: DeviceTiles) -> tuple[dict[str, DeviceTiles], dict[str, DeviceTiles]]:
        """For every map, the tiles that run, and those that the last frame ran on and this one may not."""
        cells = replace(tiles, spec=self._cells)
        restore_tiles(self._now, self._whole, self._gone)
        restore_tiles(self._zeros, cells, self._gone)
        restore_tiles(self._zeros, self._whole, self._now)
        restore_tiles(self._ones, cells, self._now)
        count = self._network.grid_tiles.count
        images = (self._now.reshape(1, *count), self._gone.reshape(1, *count))
        now, gone = (
            self._network.lists(image, workspaces) for image, workspaces in zip(images, self._workspaces, strict=True)
        )
        return now, gone


def check_gpu() -> None:
    """Refuses a machine where no GPU will do.

    Raises:
        NoGpuError: then; it says why.
    """
    problem = gpu_problem()
    if problem:
        raise NoGpuError(f"device cuda: {problem}; or use --device cpu")


def wants_half(precision: str) -> bool:
    """Whether float16 runs.

    Raises:
        ModelError: if it is asked for and the GPU cannot, or the precision is unknown.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"precision is '{precision}', expected one of: {', '.join(PRECISIONS)}")
    able = capability() >= TENSOR_CAPABILITY
    if precision == "float16" and not able:
        found, least = (".".join(map(str, number)) for number in (capability(), TENSOR_CAPABILITY))
        raise ModelError(
            f"precision float16: {gpu_name()} has compute capability {found}, expected at least {least}; "
            "use precision float32"
        )
    return able and precision != "float32"
