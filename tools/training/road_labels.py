"""Road labels of real frames, from points alone: where the ground is road, where it is not, where nobody knows.

Method, ground segmentation grown from where the sensor stands:

1. A frame becomes a range image, one row for each beam: points of a beam next to each other differ in height by a few
   millimetres on asphalt, at any range, so borders show along the beam. Its cells with points are the nodes.
2. Of each node: how rough the ground is (second differences of height along the beam), whether there is a step (of mean
   heights on both sides) and how far its points spread. What is smooth and has no step can be driven on.
3. Growing: nodes next to each other, along the beam or in the next ones, are joined where heights differ by little;
   what is joined to the ground ahead of the vehicle is the first guess. A polynomial of x and y, fitted to it robustly
   from near to far, is the height of the road, crossfall and hills included.
4. Nodes at this height that can be driven on are road. Nodes on other ground are rough, or too high or too low; kerbs
   and soft verges between them are borders.
5. On cells of half the width: what lies between nodes of one kind in neighbouring beams is of that kind; what nothing
   tells (hidden, between far rings) stays unknown. Road must be reachable from ahead of the vehicle by something
   2 m wide, which closes the gaps that borders have.
6. Cells with objects are unknown, or not road if the object is too tall for a car. But what is enclosed by road, as
   what cars hide while they stand on it, is road too.

Whatever is doubtful is unknown: smooth raised areas wide enough for vehicles (another carriageway, a yard) as well
as everything beyond the range to which the road's height is known.

Sources: growing over the range image follows Bogoslavskyi and Stachniss, "Fast range image-based segmentation of sparse
3D laser scans for online operation" (IROS 2016); kerbs as steps along each beam follow Zhang, Wang, Wang and Dolan,
"Road-segmentation-based curb detection method for self-driving via a 3D-LiDAR sensor" (IEEE T-ITS 19(12), 2018). Their
features are simplified. Thresholds were set on simulated frames, whose road is known (`tools.simulation.road_raster`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from models.errors import ModelError
from models.grid import BevSpec
from tools.simulation.drive import DEFAULT_SENSOR
from tools.simulation.sensor import Sensor, load_sensor, rings

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Uint8 = NDArray[np.uint8]

NOT_ROAD, ROAD, UNKNOWN = 0, 1, 255

COLS = 1080  # of the range image, all around: two points of a beam each
ROUGH_HALF_M, STEP_HALF_M = 0.5, 0.25  # along the beam, to each side of a point
SMOOTH_M = ((8.0, 12.0), (0.0075, 0.0052))  # at ranges [m], roughness up to which ground can be driven on [m]
BORDER_ROUGH_M, GRASS_ROUGH_M = 0.009, 0.012
STEP_M, SPREAD_M = 0.025, 0.06  # kerbs and walls are more
FAR_M = 60.0
JOIN_M, JOIN_SLOPE, JOIN_FAR_M = 0.02, 0.08, 8.0  # height between joined nodes: at once, per metre; their distance
START_SHARE = 0.3  # of the largest piece of it, that others must have
START_AHEAD_M, START_SIDE_M = 14.0, 1.5  # the ground that the sensor's vehicle is about to drive on
ABOVE_M, BELOW_M, BEYOND_M = 0.03, 0.08, 0.02  # of the road's height: still road; by more than BEYOND_M: surely not
GROUND_M, GROUND_SLOPE = (-1.5, 0.5), 0.35  # about the road's height; between beams
TRUST_M = 3.0  # beyond the last road that the height was fitted to
BRIDGED_M, GAP_M = 0.35, 6.0  # around a single node; between two beams
LOW_OBJECT_M, TALL_OBJECT_M = (0.3, 2.2), 2.8
OBJECT_GAP_M, OBJECT_MARGIN_M = 0.8, 0.4  # points of one car leave gaps, and its footprint is wider
NARROW_M = 1.0  # half the width of the narrowest way
SHADOW_M, ENCLOSED_M, WIDE_M = 0.5, 1.6, 1.2  # half the widths: of shadows crossed, of holes closed, of a lane


class _Kind(IntEnum):
    """What a node, or a cell between nodes, is."""

    NOTHING = 0
    ROAD = 1
    ROUGH = 2
    RAISED = 3  # smooth, but not at the road's height
    BORDER = 4


@dataclass(frozen=True)
class _Nodes:
    """Cells of the range image that hold points: means of those, in the order of the beams.

    Attributes:
        ring, col: (M,) int64, place in the image.
        x, y, z, range_m: (M,) float64 [m], LiDAR frame.
        rough_m, step_m, spread_m: (M,) float64, see the module.
    """

    ring: Int64
    col: Int64
    x: Float64
    y: Float64
    z: Float64
    range_m: Float64
    rough_m: Float64
    step_m: Float64
    spread_m: Float64

    @property
    def drivable(self) -> Bool:
        """(M,) bool: smooth and without a step."""
        smooth = self.rough_m < np.interp(self.range_m, *SMOOTH_M)
        return smooth & (self.step_m < STEP_M) & (self.spread_m < SPREAD_M) & (self.range_m < FAR_M)

    def image(self, values: NDArray[Any], nothing: float) -> NDArray[Any]:
        """(rings, COLS) range image of (M,) values."""
        found = np.full((self.ring[-1] + 1, COLS), nothing, values.dtype)
        found[self.ring, self.col] = values
        return found


def road_labels(
    points: NDArray[np.float32], cell_m: float = 0.4, spec: BevSpec | None = None, sensor: Sensor | None = None
) -> Uint8:
    """The road around a sensor, as far as a frame tells; the module says how.

    Args:
        points: (N, 4) float32, columns x, y, z [m, LiDAR frame] and intensity; whole sweeps or what a camera sees.
        cell_m: width of the labels' cells.
        spec: the grid whose area is labelled, KITTI's by default; its own cells mean nothing.
        sensor: the LiDAR, for its beams; KITTI's by default.

    Returns:
        (rows, cols) uint8 on cells of ``cell_m``: `NOT_ROAD`, `ROAD` or `UNKNOWN`.

    Raises:
        ModelError: if the area is no whole number of cells.
    """
    fine = replace(spec or BevSpec(), cell_m=cell_m / 2)
    if fine.rows % 2 or fine.cols % 2:
        raise ModelError(f"road labels: cells of {cell_m} m do not fill the grid's area; expected a whole number")
    inside = (points[:, 0] >= fine.x_min_m) & (points[:, 0] < fine.x_max_m)
    inside &= (points[:, 1] >= fine.y_min_m) & (points[:, 1] < fine.y_max_m) & np.isfinite(points[:, 2])
    labels = np.full((fine.rows, fine.cols), UNKNOWN, np.uint8)
    if inside.any():
        found = points[inside].astype(np.float64)
        nodes = _nodes(found, sensor or load_sensor(DEFAULT_SENSOR))
        grown = _grow(nodes)
        if grown.any():
            height = _fit_height(nodes, grown)
            trusted_m = float(np.percentile(nodes.range_m[grown], 98)) + TRUST_M
            kinds = _rasterize(nodes, _classify(nodes, height(nodes.x, nodes.y), trusted_m), fine)
            labels = _label(kinds, found, found[:, 2] - height(found[:, 0], found[:, 1]), trusted_m, fine)
    parts = labels.reshape(fine.rows // 2, 2, fine.cols // 2, 2)
    road, other = ((parts == value).sum(axis=(1, 3)) for value in (ROAD, NOT_ROAD))
    return np.select([road > other, other > road], [np.uint8(ROAD), np.uint8(NOT_ROAD)], np.uint8(UNKNOWN))


def _nodes(points: Float64, sensor: Sensor) -> _Nodes:
    """The range image of (N, 4) points, N > 0, and its features."""
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    ring = rings(points, sensor)
    order = np.lexsort((azimuth, ring))
    x, y, z = points[order, :3].T
    azimuth, ring, range_m = azimuth[order], ring[order], np.hypot(x, y)
    rough, step = _along_beams(z, ring, range_m, 2 * np.pi / (2 * COLS))
    col = np.minimum(((azimuth + np.pi) / (2 * np.pi) * COLS).astype(np.int64), COLS - 1)
    first = np.flatnonzero(np.diff(ring * COLS + col, prepend=-1))
    count = np.diff(first, append=len(ring))
    spread = np.maximum.reduceat(z, first) - np.minimum.reduceat(z, first)
    x, y, z, range_m, rough = np.add.reduceat([x, y, z, range_m, rough], first, axis=1) / count
    step = np.maximum.reduceat(step, first)
    return _Nodes(ring[first], col[first], x, y, z, range_m, rough, step, spread)


def _along_beams(z: Float64, ring: Int64, range_m: Float64, spacing_rad: float) -> tuple[Float64, Float64]:
    """Roughness and step [m] at every point, from the points of its beam that are near: both (N,) float64."""
    index = np.arange(len(z))
    start, stop = np.searchsorted(ring, ring, "left"), np.searchsorted(ring, ring, "right")

    def window(half_m: float) -> tuple[Int64, Int64]:
        half = np.clip(np.round(half_m / (spacing_rad * np.maximum(range_m, 1))), 2, 40).astype(np.int64)
        return np.maximum(index - half, start), np.minimum(index + half + 1, stop)

    bend = np.zeros(len(z))
    bend[1:-1] = np.minimum(np.abs(z[2:] - 2 * z[1:-1] + z[:-2]), 0.05)  # so that one edge is not all of a window
    low, high = window(ROUGH_HALF_M)
    total = np.concatenate([[0], np.cumsum(bend)])
    rough = (total[high] - total[low]) / (high - low)
    low, high = window(STEP_HALF_M)
    total = np.concatenate([[0], np.cumsum(z)])
    before = (total[index] - total[low]) / np.maximum(index - low, 1)
    after = (total[high] - total[index + 1]) / np.maximum(high - index - 1, 1)
    return rough, np.where((index > low) & (high > index + 1), np.abs(after - before), 0)


def _grow(nodes: _Nodes) -> Bool:
    """(M,) bool: nodes that can be driven on and are joined to such ahead of the vehicle."""
    index, count = nodes.image(np.arange(len(nodes.x)), -1), len(nodes.x)
    rows, drivable = len(index), nodes.drivable
    pairs = []
    for down, across in ((0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (1, -1)):
        a = index[: max(rows - down, 0), max(0, -across) : COLS - max(0, across)]
        b = index[down:, max(0, across) : COLS + min(0, across)]
        both = (a >= 0) & (b >= 0)
        pairs.append(np.stack([a[both], b[both]]))
    a, b = np.concatenate(pairs, axis=1)
    apart_m = np.hypot(nodes.x[a] - nodes.x[b], nodes.y[a] - nodes.y[b])
    level = np.abs(nodes.z[a] - nodes.z[b]) <= JOIN_M + JOIN_SLOPE * apart_m
    joined = drivable[a] & drivable[b] & level & (apart_m < JOIN_FAR_M)
    graph = coo_array((np.ones(joined.sum()), (a[joined], b[joined])), shape=(count, count))
    start = drivable & (np.abs(nodes.y) < START_SIDE_M) & (nodes.x > 0) & (nodes.range_m < START_AHEAD_M)
    return drivable & _reached(connected_components(graph, directed=False)[1], start)


def _reached(parts: NDArray[np.integer], start: Bool) -> Bool:
    """Where ``parts``, the number of each element's part, is one that holds much of ``start``."""
    numbers, counts = np.unique(parts[start], return_counts=True)
    return np.isin(parts, numbers[counts >= max(5, START_SHARE * counts.max(initial=0))])


def _fit_height(nodes: _Nodes, chosen: Bool) -> Callable[[Float64, Float64], Float64]:
    """The height [m] of the road at x and y [m], which fits most of the chosen nodes."""

    def terms(x: Float64, y: Float64, degree: int) -> Float64:
        powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        return np.stack([(x / 20) ** i * (y / 20) ** j for i, j in powers], axis=-1)

    near = chosen & (nodes.range_m <= max(START_AHEAD_M, nodes.range_m[chosen].min()))
    fitted, factors = 0, np.array([np.median(nodes.z[near])])
    for degree, far_m, off_m in (
        (1, 12, 0.25),
        (1, 12, 0.12),
        (2, 20, 0.08),
        (2, 45, 0.1),
        (3, 45, 0.12),
        (3, 80, 0.08),
    ):
        error = np.abs(nodes.z - terms(nodes.x, nodes.y, fitted) @ factors)
        used = chosen & (nodes.range_m < far_m) & (error < off_m)
        if used.sum() < 30:
            break
        here, weight = terms(nodes.x[used], nodes.y[used], degree), np.sqrt(nodes.range_m[used])  # sparse far away
        ridge = 0.1 * np.eye(here.shape[1])  # holds what the nodes do not
        ridge[0, 0] = 0
        factors = np.linalg.solve(here.T @ (here * weight[:, None]) + ridge, here.T @ (nodes.z[used] * weight))
        fitted = degree
    return lambda x, y: np.asarray(terms(x, y, fitted) @ factors)


def _classify(nodes: _Nodes, height: Float64, trusted_m: float) -> Uint8:
    """(M,) uint8 of `_Kind`, from the nodes' heights (M,) [m] above the road."""
    above = nodes.z - height
    z, range_m = nodes.image(nodes.z, np.nan), nodes.image(nodes.range_m, np.nan)
    level = np.zeros(z.shape, bool)
    for down in (1, 2):
        small = np.abs(z[down:] - z[:-down]) < GROUND_SLOPE * np.abs(range_m[down:] - range_m[:-down])
        level[down:] |= small
        level[:-down] |= small
    ground = level[nodes.ring, nodes.col] & (above > GROUND_M[0]) & (above < GROUND_M[1])
    ground &= nodes.range_m < trusted_m
    step = (nodes.step_m >= STEP_M) & (np.abs(above) < GROUND_M[1])
    clear = ground & (nodes.step_m < 2 * STEP_M)
    kind = np.zeros(len(above), np.uint8)
    kind[step | (ground & (nodes.rough_m > BORDER_ROUGH_M))] = _Kind.BORDER
    kind[clear & ((above > ABOVE_M + BEYOND_M) | (above < -BELOW_M - BEYOND_M))] = _Kind.RAISED
    kind[clear & (nodes.rough_m > GRASS_ROUGH_M)] = _Kind.ROUGH
    kind[nodes.drivable & (above < ABOVE_M) & (above > -BELOW_M)] = _Kind.ROAD
    return kind


def _rasterize(nodes: _Nodes, kind: Uint8, spec: BevSpec) -> Uint8:
    """(rows, cols) uint8 of `_Kind`: that of the nodes before and behind a cell, seen from the sensor, if near."""
    x, y = _middles(spec)
    cell_range = np.hypot(x, y)
    cell_col = np.minimum(((np.arctan2(y, x) + np.pi) / (2 * np.pi) * COLS).astype(np.int64), COLS - 1)
    used = np.flatnonzero(kind)
    if not len(used):
        return np.zeros(cell_range.shape, np.uint8)
    used = used[np.lexsort((nodes.range_m[used], nodes.col[used]))]
    kind, ring, col, range_m = kind[used], nodes.ring[used], nodes.col[used], nodes.range_m[used]
    past_m = 1000.0  # no point is as far, so that columns do not mix
    next_ = np.searchsorted(col * past_m + range_m, (cell_col * past_m + cell_range).ravel()).reshape(cell_range.shape)
    low, high = np.maximum(next_ - 1, 0), np.minimum(next_, len(used) - 1)
    to_low = np.where((next_ > 0) & (col[low] == cell_col), cell_range - range_m[low], np.inf)
    to_high = np.where((next_ < len(used)) & (col[high] == cell_col), range_m[high] - cell_range, np.inf)
    between = (to_low + to_high <= GAP_M) & (np.abs(ring[low] - ring[high]) <= 2)
    nearest = np.where(to_low <= to_high, kind[low], kind[high])
    alone = np.minimum(to_low, to_high) < np.where(between, BRIDGED_M, spec.cell_m)
    return np.where((between & (kind[low] == kind[high])) | alone, nearest, np.uint8(_Kind.NOTHING))


def _label(kinds: Uint8, points: Float64, above: Float64, trusted_m: float, spec: BevSpec) -> Uint8:
    """(rows, cols) uint8 labels from the kinds of cells, and points (N, 4) with their heights above the road [m]."""
    x, y = _middles(spec)
    row = ((points[:, 0] - spec.x_min_m) / spec.cell_m).astype(np.int64)
    col = ((points[:, 1] - spec.y_min_m) / spec.cell_m).astype(np.int64)
    occupied, tall = np.zeros((2, *kinds.shape), bool)
    low = (above > LOW_OBJECT_M[0]) & (above < LOW_OBJECT_M[1])
    occupied[row[low], col[low]] = True
    tall[row[above > TALL_OBJECT_M], col[above > TALL_OBJECT_M]] = True
    tall = occupied & _within(tall, 1.5 * spec.cell_m, spec) & (np.hypot(x, y) < trusted_m)
    objects = _within(_closed(occupied, OBJECT_GAP_M, spec), OBJECT_MARGIN_M, spec)

    road, raised = kinds == _Kind.ROAD, kinds == _Kind.RAISED
    border = (kinds != _Kind.NOTHING) & ~road & ~objects
    way = _within(road, SHADOW_M, spec) & ~_within(border, NARROW_M, spec)
    start = way & road & (x > 0) & (x < START_AHEAD_M) & (np.abs(y) < START_SIDE_M)
    way &= _reached(ndimage.label(way, np.ones((3, 3)))[0], start)
    road &= _within(way, NARROW_M + 1.25 * spec.cell_m, spec)
    lane = ~_closed(~_closed(raised, OBJECT_MARGIN_M, spec), WIDE_M, spec)

    labels = np.full(kinds.shape, UNKNOWN, np.uint8)
    labels[((kinds == _Kind.ROUGH) | (raised & ~lane)) & ~objects] = NOT_ROAD
    labels[tall] = NOT_ROAD
    labels[road & ~occupied] = ROAD
    labels[_closed(road, ENCLOSED_M, spec) & ((labels == UNKNOWN) | occupied)] = ROAD
    return labels


def _middles(spec: BevSpec) -> tuple[Float64, Float64]:
    """Middles of cells: x (rows, 1) and y (cols,) [m]."""
    row, col = np.arange(spec.rows, dtype=np.float64), np.arange(spec.cols, dtype=np.float64)
    return spec.x_min_m + (row[:, None] + 0.5) * spec.cell_m, spec.y_min_m + (col + 0.5) * spec.cell_m


def _within(mask: Bool, distance_m: float, spec: BevSpec) -> Bool:
    """Cells no farther than ``distance_m`` from those of a mask."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) * spec.cell_m <= distance_m + 1e-9)


def _closed(mask: Bool, radius_m: float, spec: BevSpec) -> Bool:
    """A mask with holes and gaps closed that a disk of this radius does not fit into."""
    return ~_within(~_within(mask, radius_m, spec), radius_m, spec) | mask
