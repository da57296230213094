"""The ground near the roads as rasters: what it is, and its height."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from tools.simulation.roads import CROSSFALL, FILLET_M, Network, Road, Section, Use

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]
Uint8 = NDArray[np.uint8]

CELL_M = 0.2
BORDER_M = 60.0  # the rasters end this far from the roads' paths
COARSE = 8  # terrain is drawn in cells of this many cells
RELIEF_SCALE_M = 12.0  # width of its hills, as standard deviation of the filter
RAMP_M = 8.0  # from the road, over which they rise to their full height
BARE_ABOVE = 0.8  # of the spread of other hills: where open ground is bare
END_M = 2.0  # of a path, along which cells beyond its end may have been projected
GAP_CELLS = 5  # half the width of gaps between the lanes of a junction that are paved over
LINE_M = 0.11  # half the width of a painted line: at least one cell, so that none is lost
DASH_M, DASH_PERIOD_M = 3.0, 9.0


class Ground(IntEnum):
    """Kinds of ground. ROAD and MARKING together are the road, parking bays included."""

    ROAD = 0
    MARKING = 1
    PAVEMENT = 2
    GRASS = 3
    EARTH = 4


# Standard deviation of the height of single cells [m], by kind: texture of asphalt to tufts of grass.
ROUGHNESS_M = np.array([0.004, 0.004, 0.005, 0.025, 0.015], np.float32)
KIND_OF_USE = np.zeros(len(Use), np.uint8)
KIND_OF_USE[[Use.OPEN, Use.VERGE, Use.PAVEMENT]] = Ground.GRASS, Ground.GRASS, Ground.PAVEMENT
KIND_OF_USE[[Use.PARKING, Use.LANE]] = Ground.ROAD


@dataclass(frozen=True)
class Surface:
    """The ground. Row = x, column = y; outside the rasters it is EARTH at height 0.

    Attributes:
        origin_m: (2,) float64, x and y in the world of the outer corner of cell (0, 0).
        cell_m: width of a cell.
        height_m: (R, C) float32, heights at the middles of the cells.
        kind: (R, C) uint8, of `Ground`.
    """

    origin_m: Float64
    cell_m: float
    height_m: Float32
    kind: Uint8

    def height_at(self, x_m: ArrayLike, y_m: ArrayLike) -> Float64:
        """Height [m] at places in the world, between the middles of cells bilinearly. Shapes broadcast."""
        x, y = np.broadcast_arrays(np.asarray(x_m, np.float64), np.asarray(y_m, np.float64))
        u, v = (x - self.origin_m[0]) / self.cell_m - 0.5, (y - self.origin_m[1]) / self.cell_m - 0.5
        rows, cols = self.height_m.shape
        inside = (u >= 0) & (v >= 0) & (u <= rows - 1) & (v <= cols - 1)
        row = np.clip(np.floor(u).astype(np.int64), 0, rows - 2)
        col = np.clip(np.floor(v).astype(np.int64), 0, cols - 2)
        a, b, h = u - row, v - col, self.height_m
        low = h[row, col] * (1 - b) + h[row, col + 1] * b
        high = h[row + 1, col] * (1 - b) + h[row + 1, col + 1] * b
        return np.where(inside, low * (1 - a) + high * a, 0.0)

    def kind_at(self, x_m: ArrayLike, y_m: ArrayLike) -> Uint8:
        """The `Ground` of the cells that hold places in the world. Shapes broadcast."""
        row = np.floor((np.asarray(x_m) - self.origin_m[0]) / self.cell_m).astype(np.int64)
        col = np.floor((np.asarray(y_m) - self.origin_m[1]) / self.cell_m).astype(np.int64)
        rows, cols = self.kind.shape
        inside = (row >= 0) & (col >= 0) & (row < rows) & (col < cols)
        kind = self.kind[np.clip(row, 0, rows - 1), np.clip(col, 0, cols - 1)]
        return np.where(inside, kind, np.uint8(Ground.EARTH))


def level_surface(kind: Ground = Ground.ROAD, half_m: float = 60.0) -> Surface:
    """A level square of one kind around the origin."""
    cells = round(2 * half_m / CELL_M)
    shape = (cells, cells)
    return Surface(np.full(2, -half_m), CELL_M, np.zeros(shape, np.float32), np.full(shape, kind, np.uint8))


def lay_ground(network: Network, rng: np.random.Generator) -> tuple[Surface, Uint8]:
    """The ground of a network of roads: the surface, and a raster (R, C) uint8 of `Use` on the same cells."""
    points = np.concatenate([road.path.points_m for road in network.roads])
    origin = np.floor(points.min(axis=0) - BORDER_M)
    shape = np.ceil((points.max(axis=0) + BORDER_M - origin) / CELL_M / COARSE).astype(int) * COARSE
    uses, height = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    main = _Band(network.main, origin, shape)
    main.draw(uses, height)
    lines = main.lines()
    for road in network.arms:
        arm = _Band(road, origin, shape)
        arm.draw(uses, height)
        arm.round_corners(main, uses, height)
        lines = np.concatenate([lines, arm.lines()])
    main.pave_gaps(uses, height, origin)
    kind = KIND_OF_USE[uses]
    kind.flat[lines[uses.flat[lines] == Use.LANE]] = Ground.MARKING
    open_ = uses == Use.OPEN
    height += np.where(open_, _relief(uses, network.setting.relief_m, rng), 0)
    bare = Ground.PAVEMENT if network.setting.kerb_m > 0 else Ground.EARTH  # yards, fields
    kind[open_ & (_refined(_hills(shape // COARSE, rng)) > BARE_ABOVE)] = bare
    height += rng.standard_normal(kind.shape, dtype=np.float32) * ROUGHNESS_M[kind]
    return Surface(origin.astype(np.float64), CELL_M, height, kind), uses


def _hills(shape: NDArray[np.int64], rng: np.random.Generator) -> Float32:
    """Smooth random heights of spread 1 on coarse cells."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, RELIEF_SCALE_M / CELL_M / COARSE, mode="wrap")
    hills: Float32 = noise / noise.std()
    return hills


def _relief(uses: Uint8, relief_m: float, rng: np.random.Generator) -> Float32:
    """(R, C) float32 heights of open ground: level with the roads beside them and at the border of the raster."""
    rows, cols = np.array(uses.shape) // COARSE
    laid = uses.reshape(rows, COARSE, cols, COARSE).any(axis=(1, 3))
    away_m = ndimage.distance_transform_edt(~laid) * CELL_M * COARSE
    from_row, from_col = (np.minimum(np.arange(n), np.arange(n)[::-1]) for n in (rows, cols))
    inwards = np.minimum(from_row[:, None], from_col)
    ramp = np.clip((away_m - 2) / RAMP_M, 0, 1) * np.clip(inwards * CELL_M * COARSE / RAMP_M, 0, 1)
    return _refined((relief_m * ramp).astype(np.float32) * _hills(np.array([rows, cols]), rng))


def _refined(coarse: Float32) -> Float32:
    """(n, m) -> (n * COARSE, m * COARSE): bilinear between the middles of coarse cells."""
    for axis in (0, 1):
        size = coarse.shape[axis]
        place = np.clip((np.arange(size * COARSE) + 0.5) / COARSE - 0.5, 0, size - 1)
        low = np.minimum(place.astype(np.int64), size - 2)
        share = np.expand_dims((place - low).astype(np.float32), 1 - axis)
        coarse = coarse.take(low, axis) * (1 - share) + coarse.take(low + 1, axis) * share
    return coarse


class _Band:
    """The cells of a road, and where each is on it.

    Attributes:
        road: the road.
        cells: (K,) int64 flat indices into the raster.
        along: (K,) float64 [m] of the nearest place on the path.
        left: (K,) float64 [m].
    """

    def __init__(self, road: Road, origin: Float64, shape: NDArray[np.int64]) -> None:
        edges, _ = road.section.bands()
        reach = max(-edges[0], edges[-1]) + FILLET_M
        points = road.path.points_m
        low = np.floor((points.min(axis=0) - reach - origin) / CELL_M).astype(np.int64)
        high = np.ceil((points.max(axis=0) + reach - origin) / CELL_M).astype(np.int64)
        low, high = np.maximum(low, 0), np.minimum(high, shape)
        left = np.full(high - low, np.inf)
        along = np.zeros_like(left)
        _project(points, road.path.length_m / (len(points) - 1), origin + low * CELL_M, CELL_M, reach, left, along)
        row, col = np.nonzero(np.isfinite(left))
        self.road, self.left, self.along = road, left[row, col], along[row, col]
        self.cells = (row + low[0]) * shape[1] + col + low[1]
        self._cut_ends(origin, shape[1])

    def _cut_ends(self, origin: Float64, cols: int) -> None:
        """Drops the cells before the path's begin and past its end, which are nearest to the ends themselves."""
        path, keep = self.road.path, np.ones(len(self.cells), bool)
        for end, near, direction in ((0, self.along < END_M, -1), (-1, self.along > path.length_m - END_M, 1)):
            at_end = np.nonzero(near)[0]
            cells = self.cells[at_end]
            offset = origin + (np.stack([cells // cols, cells % cols], axis=1) + 0.5) * CELL_M - path.points_m[end]
            ahead = direction * np.array([np.cos(path.yaw_rad[end]), np.sin(path.yaw_rad[end])])
            keep[at_end] = offset @ ahead <= 0
        self.cells, self.left, self.along = self.cells[keep], self.left[keep], self.along[keep]

    def draw(self, uses: Uint8, height: Float32) -> None:
        """Draws the cross-section; the greater use wins, and of equal ones the higher surface."""
        edges, kinds = self.road.section.bands()
        inside = (self.left >= edges[0]) & (self.left < edges[-1])
        cells, left = self.cells[inside], self.left[inside]
        self._write(uses, height, cells, kinds[np.searchsorted(edges, left, side="right") - 1], left)

    def _write(self, uses: Uint8, height: Float32, cells: NDArray[np.int64], use: Uint8, left: Float64) -> None:
        level = self.road.section.height_m(left).astype(np.float32)
        wins = (use > uses.flat[cells]) | ((use == uses.flat[cells]) & (level > height.flat[cells]))
        uses.flat[cells[wins]], height.flat[cells[wins]] = use[wins], level[wins]

    def round_corners(self, main: _Band, uses: Uint8, height: Float32) -> None:
        """Rounds the kerb where this road leaves the main one: by how far cells are beyond both kerbs."""
        shared, here, there = np.intersect1d(self.cells, main.cells, assume_unique=True, return_indices=True)
        left, main_left = self.left[here], main.left[there]
        beyond = np.abs(left) - _kerb(self.road.section, left)
        main_beyond = np.abs(main_left) - _kerb(main.road.section, main_left)
        square = (beyond >= 0) & (main_beyond >= 0) & (np.maximum(beyond, main_beyond) <= FILLET_M)
        corner = square & (np.hypot(beyond - FILLET_M, main_beyond - FILLET_M) >= FILLET_M)
        cells = shared[corner]
        uses.flat[cells] = Use.LANE
        height.flat[cells] = -CROSSFALL * np.minimum(np.abs(left), np.abs(main_left))[corner]

    def pave_gaps(self, uses: Uint8, height: Float32, origin: Float64) -> None:
        """Makes lanes of the slivers between the lanes that meet in a junction."""
        for start, end in self.road.junctions:
            corner = self.road.path.at(np.array([start, end]))[:, :2] - origin
            low = np.maximum((corner.min(axis=0) / CELL_M).astype(int) - 8 * GAP_CELLS, 0)
            high = (corner.max(axis=0) / CELL_M).astype(int) + 8 * GAP_CELLS
            window = np.s_[low[0] : high[0], low[1] : high[1]]
            lane = uses[window] == Use.LANE
            filled = ndimage.binary_closing(lane, iterations=GAP_CELLS) & ~lane
            uses[window][filled] = Use.LANE
            height[window][filled] = height[window][lane].mean() if lane.any() else 0.0

    def lines(self) -> NDArray[np.int64]:
        """Cells under painted lines: solid at the edges of the lanes, dashed between them; none in junctions."""
        section = self.road.section
        if not section.marked:
            return np.zeros(0, np.int64)
        painted = np.zeros(len(self.cells), bool)
        dash = self.along % DASH_PERIOD_M < DASH_M
        for direction in (1, -1):
            count = section.lanes[direction < 0]
            for index in range(count + 1):
                place = section.lane_left_m(direction, index) + direction * section.lane_m / 2
                beside_median = index == 0 and section.median_m > 0
                solid = beside_median or index == count
                inwards = direction * (-LINE_M if beside_median else LINE_M) if solid else 0.0
                painted |= (np.abs(self.left - place - inwards) < LINE_M) & (dash | solid)
        cells: NDArray[np.int64] = self.cells[painted & ~self.road.in_junction(self.along)]
        return cells


def _kerb(section: Section, left: Float64) -> Float64:
    """Distance to the kerb on the side where places are."""
    return np.where(left > 0, section.kerb_edge_m(1), section.kerb_edge_m(-1))


@njit(cache=True, nogil=True)
def _project(points, step, corner, cell, reach, left, along):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Nearest place on a polyline of every cell within ``reach``; other cells stay infinite.

    Every segment looks at the cells of the rectangle around the strip that lies across it, so the nearest of all
    segments wins.
    """
    rows, cols = left.shape
    count = points.shape[0] - 1
    for index in range(count):
        ax, ay = points[index, 0] - corner[0], points[index, 1] - corner[1]
        dx, dy = points[index + 1, 0] - points[index, 0], points[index + 1, 1] - points[index, 1]
        length = (dx * dx + dy * dy) ** 0.5
        dx, dy = dx / length, dy / length
        # Neighbouring strips must leave no gap on the outside of a bend: each is longer than its segment.
        slack = 2 * step + cell
        wide, high = abs(dx) * (length / 2 + slack) + abs(dy) * reach, abs(dy) * (length / 2 + slack) + abs(dx) * reach
        mx, my = ax + dx * length / 2, ay + dy * length / 2
        for row in range(max(0, int((mx - wide) / cell)), min(rows, int((mx + wide) / cell) + 1)):
            for col in range(max(0, int((my - high) / cell)), min(cols, int((my + high) / cell) + 1)):
                px, py = (row + 0.5) * cell - ax, (col + 0.5) * cell - ay
                t = px * dx + py * dy
                t = min(max(t, 0.0), length)
                gap = ((px - t * dx) ** 2 + (py - t * dy) ** 2) ** 0.5
                if gap < reach and gap < abs(left[row, col]):
                    left[row, col] = gap if dx * py - dy * px >= 0 else -gap
                    along[row, col] = index * step + t * step / length
