"""What the tile executors on the CPU and on CUDA share: a planned network, its tile lists, and one step on tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kernels.residual_unit import residual_unit
from kernels.tile_conv import tile_conv
from kernels.tile_max_pool import tile_max_pool
from kernels.tile_pointwise import tile_pointwise
from kernels.tiles import ActiveTiles, TileSpec
from kernels.workspace import Workspace
from models.errors import ModelError
from models.network import INPUT_NAME, REGRESSION_NAME, SCORE_NAME, Network
from models.plan import GRID_TILE, Plan, StageChoice, make_plan
from models.steps import ConvStep, DenseStep, PointwiseStep, PoolStep, Step, TileStep, UnitStep
from models.tile_lists import tile_image, tile_spec, tiles_of_map

DETECTOR_OUTPUTS = (SCORE_NAME, REGRESSION_NAME)


class TileNetwork:
    """A network with the plan of how it runs on tiles.

    Args:
        network: the network.
        choices: how each stage runs, by stride; None for the defaults.
        outputs: names of the maps that a run gives.

    Attributes:
        plan: the steps and their tiles.
        grid_tiles: geometry of the grid's tiles.

    Raises:
        ModelError: if the network cannot be planned or lacks the pipeline's input or the outputs.
    """

    def __init__(
        self,
        network: Network,
        choices: Mapping[int, StageChoice] | None = None,
        outputs: tuple[str, ...] = DETECTOR_OUTPUTS,
    ) -> None:
        self.plan: Plan = make_plan(network, choices)
        graph = self.plan.graph
        if graph.input_name != INPUT_NAME or not set(outputs) <= set(graph.outputs):
            raise ModelError(
                f"{network.path}: input {graph.input_name} and outputs {list(graph.outputs)}, "
                f"expected {INPUT_NAME} and {', '.join(outputs)}"
            )
        self._outputs = outputs
        first = self.plan.maps[INPUT_NAME]
        self.grid_tiles = TileSpec.covering((first.rows, first.cols), GRID_TILE)
        self._steps: list[Step] = [line.step for line in self.plan.steps]
        self._tile_cells = {
            line.step.target: line.tile_cells
            for line in self.plan.steps
            if not isinstance(line.step, DenseStep) and line.tile_cells is not None
        }

    def check_frame(self, grid: Any, tiles: Any) -> None:
        """Refuses a grid or tiles of another geometry.

        Raises:
            ValueError: if they do not fit the network.
        """
        expected = self.plan.maps[INPUT_NAME].shape[1:]
        if tuple(grid.shape) != expected or tiles.spec != self.grid_tiles:
            raise ValueError(f"grid {grid.shape}, tiles {tiles.spec}; expected {expected} and {self.grid_tiles}")

    def lists(self, image: Any, workspaces: Mapping[tuple[int, int], Workspace] | None = None) -> dict[str, Any]:
        """The tiles of every map; maps of one stride and tile size share a list.

        Args:
            image: `models.tile_lists.tile_image` of the grid's active tiles, on the CPU or on the device.
            workspaces: where each list is kept, by `list_keys`; None makes new ones.
        """
        shared = {
            key: tiles_of_map(image, GRID_TILE, made, key[1], None if workspaces is None else workspaces[key])
            for key, made in self.list_keys.items()
        }
        return {name: shared[self.plan.maps[name].stride, cells] for name, cells in self._tile_cells.items()}

    @property
    def list_keys(self) -> dict[tuple[int, int], Any]:
        """Stride and tile size of every list, with a map that it belongs to."""
        maps = self.plan.maps
        return {(maps[name].stride, cells): maps[name] for name, cells in self._tile_cells.items()}

    def computed_fraction(self, tiles: ActiveTiles) -> float:
        """Operations on these tiles over those of all cells."""
        lists = self.lists(tile_image(tiles))
        total = done = 0.0
        for line in self.plan.steps:
            if line.made is None or isinstance(line.step, DenseStep):
                continue
            operations = line.step.operations(line.made)
            total += operations
            done += operations * len(lists[line.step.target]) / tile_spec(line.made, line.tile_cells or 1).total
        return done / total if total else 1.0


def run_step(step: TileStep, maps: Mapping[str, Any], tiles: Any, workspace: Workspace | None = None) -> None:
    """One step where tiles are active, on the CPU or on the device, wherever maps and tiles are.

    Args:
        step: what to run; on the device its scale and shift lie there.
        maps: (1, rows, cols, channels) by name.
        tiles: active tiles of the map that it makes.
        workspace: scratch for CPU kernels.
    """
    source, target = maps[step.source], maps[step.target]
    residual = maps[step.residual] if isinstance(step, ConvStep | PointwiseStep) and step.residual else None
    if isinstance(step, ConvStep):
        # The grid itself is nearly all zeros, and no other map is.
        skip = step.source == INPUT_NAME and not step.filters.transposed
        method = "nonzero" if skip else "auto"
        tile_conv(source, step.filters, tiles, target, step.relu, residual, method, workspace)
    elif isinstance(step, UnitStep):
        residual_unit(source, step.unit, tiles, target, workspace)
    elif isinstance(step, PointwiseStep):
        tile_pointwise(
            source,
            tiles,
            target,
            scale=step.scale,
            shift=step.shift,
            residual=residual,
            activation=step.activation,
            upsample=step.upsample,
            first_channel=step.first_channel,
        )
    else:
        assert isinstance(step, PoolStep)
        tile_max_pool(source, tiles, target, size=step.size, stride=step.stride, padding=step.padding)
