"""From the active tiles of the grid to the tiles of every map: by stride, or exactly by receptive field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.reduce_mask import reduce_mask
from kernels.tiles import ActiveTiles, TileSpec
from kernels.workspace import Workspace
from models.steps import ConvStep, Map, PointwiseStep, PoolStep, TileStep, UnitStep

Bool = NDArray[np.bool_]


def tile_spec(made: Map, tile_cells: int) -> TileSpec:
    """Square tiles on a map."""
    return TileSpec.covering((made.rows, made.cols), tile_cells)


def tile_image(tiles: ActiveTiles) -> NDArray[np.float32]:
    """(1, tile rows, tile cols) float32: 1 where a tile is active."""
    image = np.zeros((1, *tiles.spec.count), np.float32)
    image[0, tiles.index[:, 1], tiles.index[:, 2]] = 1
    return image


def tiles_of_map(image: Any, grid_tile: int, made: Map, tile_cells: int, workspace: Workspace | None = None) -> Any:
    """The tiles of a map that touch an active tile of the grid.

    Args:
        image: `tile_image` of the grid's active tiles, on the CPU or on the device.
        grid_tile: cells of a side of the grid's tiles.
        made: the map.
        tile_cells: cells of a side of its tiles; they must cover whole tiles of the grid.
        workspace: where the list is kept, until the next call with it; None makes a new one.

    Returns:
        `ActiveTiles`, on the device `DeviceTiles`.
    """
    factor = tile_cells * made.stride // grid_tile
    spec = tile_spec(made, tile_cells)
    pooled = reduce_mask(image, TileSpec((factor, factor), (factor, factor), (0, 0), spec.count), workspace=workspace)
    return replace(pooled, spec=spec)


def receptive_tiles(
    steps: Sequence[TileStep], maps: Mapping[str, Map], cells: Mapping[str, Bool], tile_cells: Mapping[str, int]
) -> dict[str, ActiveTiles]:
    """The tiles of every map that the wanted output cells depend on.

    Args:
        steps: in the order in which they run.
        maps: all maps by name.
        cells: (rows, cols) bool of the outputs by name: which cells are wanted.
        tile_cells: cells of a tile's side, by name of the map.
    """
    needed = {name: np.zeros((made.rows, made.cols), np.bool_) for name, made in maps.items()}
    for name, wanted in cells.items():
        needed[name] |= wanted
    tiles: dict[str, ActiveTiles] = {}
    for step in reversed(steps):
        made = maps[step.target]
        spec = tile_spec(made, tile_cells[step.target])
        image = needed[step.target][None].astype(np.float32)
        tiles[step.target] = reduce_mask(image, spec)
        computed = np.kron(tile_image(tiles[step.target])[0] > 0, np.ones(spec.size, np.bool_))
        computed = computed[: made.rows, : made.cols]
        needed[step.target] |= computed
        for source in step.sources:
            reach = _reach(step) if source == step.sources[0] else (1, 1, 0, 0)
            needed[source] |= _seen_through(computed, (maps[source].rows, maps[source].cols), *reach)
    return tiles


def _reach(step: TileStep) -> tuple[int, int, int, int]:
    """Up-sampling, stride, cells before and cells after of a step's window on its input."""
    if isinstance(step, ConvStep):
        filters = step.filters
        if filters.transposed:
            return filters.stride, 1, 0, 0
        before, kernel = max(filters.padding), max(filters.weights.shape[:2])
        return 1, filters.stride, before, kernel - 1 - min(filters.padding)
    if isinstance(step, UnitStep):
        return 1, 1, step.unit.halo, step.unit.halo
    if isinstance(step, PoolStep):
        return 1, step.stride, max(step.padding), step.size - 1 - min(step.padding)
    assert isinstance(step, PointwiseStep)
    return step.upsample, 1, 0, 0


def _seen_through(computed: Bool, shape: tuple[int, int], up: int, stride: int, before: int, after: int) -> Bool:
    """(rows, cols) bool of the input: cells that a window around a computed output cell covers."""
    seen = np.zeros(shape, np.bool_)
    rows, cols = np.nonzero(computed)
    for down in range(-before, after + 1):
        for right in range(-before, after + 1):
            r, c = rows // up * stride + down, cols // up * stride + right
            inside = (r >= 0) & (r < shape[0]) & (c >= 0) & (c < shape[1])
            seen[r[inside], c[inside]] = True
    return seen
