"""What rays can meet, and the rays of a sweep, as the arrays that the ray casters read.

A slope ``grade`` (along x, along y) lifts everything at x, y from the sensor by ``grade · (x, y)``. That shear keeps
straight lines, so a ray meets the sloping scene exactly where the sheared ray meets the level one, at the same
distance; it is part of `Rays.frame`, and nothing but rays has to be sheared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tools.simulation import intersect
from tools.simulation.intersect import BLOCK, BOUNDS, FORM, HIGH, LOW, PLANES, REACH, TRANSMITS, X, Y
from tools.simulation.intersect import VELOCITY_X as VX
from tools.simulation.intersect import VELOCITY_Y as VY
from tools.simulation.jit import cpu_kernel
from tools.simulation.materials import OPTICS, Material
from tools.simulation.solids import Solids
from tools.simulation.surface import Surface

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]

SUBRAYS = 2  # of a beam, because it is as wide as its divergence
COLUMNS = 16  # neighbouring columns share one list of solids that they can meet


class Rays(NamedTuple):
    """A columns of B beams, as arrays.

    Attributes:
        origin: (A, 3) float64, the sensor's position when the column fires, in the scene's frame [m].
        frame: (A, 3, 3) float64: from the column's own frame (along its azimuth, to the left, up) to the scene's.
        time: (A,) float64, since the stamp [s].
        beam: (B, 3) float64: cosine and sine of the elevation, height of the beam's origin above the sensor's [m].
    """

    origin: Float64
    frame: Float64
    time: Float64
    beam: Float64


class Scene(NamedTuple):
    """What rays can meet, as arrays: P solids and the ground; columns are those of `intersect`.

    Attributes:
        bounds: (P, 7) float64.
        form: (P, 32) float64.
        shape: (P,) int32.
        height, kind: the surface's (R, C) rasters.
        low, high: float32, bounds of the ground's heights by blocks.
        ground: (5,) float64, see `intersect.build_ground`.
    """

    bounds: Float64
    form: Float64
    shape: Int32
    height: NDArray[np.float32]
    kind: NDArray[np.uint8]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    ground: Float64


class Way(NamedTuple):
    """How rays are cast; see `build_way`.

    Attributes:
        spread_rad: largest angle, seen from above, between a sub-ray and the first axis of its column.
        slack_m: how far a beam starts beside the sensor, and the sensor and a solid can move against each other while
            COLUMNS columns fire.
        tilt: of a sub-ray against its beam's axis, to the side and up, each [rad].
        lift_low_m, lift_high_m: lowest and highest start of a beam above the sensor.
        limit_m: where rays end.
        seed: of all draws.
    """

    spread_rad: float
    slack_m: float
    lift_low_m: float
    lift_high_m: float
    tilt: float
    limit_m: float
    seed: int


class Hits(NamedTuple):
    """What the two sub-rays of every beam meet.

    Attributes:
        range_m: (A, B, 2) float64, infinite where nothing is met.
        hit: (A, B, 2) int32, index of a solid, GROUND less the kind of ground, or NOTHING.
        cosine: (A, B, 2) float64, of the angle between ray and normal, as on level ground.
        first: (A, B) int32, as hit: what the first sub-ray meets first, glass included that lets it through.
    """

    range_m: Float64
    hit: Int32
    cosine: Float64
    first: Int32


def build_scene(solids: Solids, motion: Float64, surface: Surface, centre: Float64, radius_m: float) -> Scene:
    """The tables of a scene.

    Args:
        solids: at the stamp, in the scene's frame.
        motion: (P, 3) float64, velocity along x and y [m/s] and yaw rate [rad/s] of each about its base.
        surface: the ground.
        centre: (2,) float64: the ground is bounded around it only ...
        radius_m: ... out to here; rays must end before.
    """
    count = len(solids)
    low, high = solids.height_span_m()
    bounds, form = np.empty((count, BOUNDS)), np.empty((count, FORM))
    bounds[:, [X, Y]], bounds[:, [VX, VY]] = solids.base[:, :2], motion[:, :2]
    bounds[:, REACH], bounds[:, LOW], bounds[:, HIGH] = (
        solids.reach_m,
        solids.base[:, 2] + low,
        solids.base[:, 2] + high,
    )
    form[:, intersect.BASE_Z] = solids.base[:, 2]
    form[:, intersect.COS], form[:, intersect.SIN] = np.cos(solids.yaw_rad), np.sin(solids.yaw_rad)
    form[:, intersect.TURN_RATE], form[:, intersect.SIZE : TRANSMITS] = motion[:, 2], solids.size
    form[:, TRANSMITS] = np.array([OPTICS[material].transmits for material in Material])[solids.material]
    form[:, PLANES:] = solids.planes.reshape(count, FORM - PLANES)
    blocks = tuple(max(1, -(-(cells - 1) // BLOCK)) for cells in surface.height_m.shape)
    block_low, block_high = np.zeros((2, *blocks), np.float32)
    width = BLOCK * surface.cell_m
    corner = (centre - radius_m - surface.origin_m) / width
    first = np.clip(np.floor(corner).astype(np.int64) - 1, 0, blocks)
    last = np.clip(np.ceil(corner + 2 * radius_m / width).astype(np.int64) + 1, 0, blocks)
    _bound_ground(surface.height_m, first, last, block_low, block_high)
    middle = surface.origin_m + surface.cell_m / 2
    ground = np.array([*middle, 1 / surface.cell_m, block_low.min(), block_high.max()])
    return Scene(
        bounds, form, solids.shape.astype(np.int32), surface.height_m, surface.kind, block_low, block_high, ground
    )


def build_way(scene: Scene, rays: Rays, divergence_rad: float, max_range_m: float, seed: int) -> Way:
    """How rays are cast.

    Args:
        scene: what they can meet.
        rays: columns in order of azimuth.
        divergence_rad: full angle of a beam; its sub-rays are half of it apart.
        max_range_m: rays end here.
        seed: of the draws for crowns, glass and sub-rays.
    """
    # Beams leave their column's vertical plane where the sensor is tilted: the highest and the lowest do most.
    steepest = rays.beam[[rays.beam[:, 1].argmin(), rays.beam[:, 1].argmax()]]
    axis = rays.frame[:, None, :2, 0]
    flat = axis * steepest[:, :1] + rays.frame[:, None, :2, 2] * steepest[:, 1:2]
    turn = np.abs(axis[..., 0] * flat[..., 1] - axis[..., 1] * flat[..., 0])
    lean = turn / np.linalg.norm(axis, axis=-1) / np.linalg.norm(flat, axis=-1)
    spread = float(np.arcsin(np.clip(lean, 0, 0.99)).max() + divergence_rad / steepest[:, 0].min())
    lift = rays.beam[:, 2].min(), rays.beam[:, 2].max()
    slack = np.abs(lift).max() * np.abs(rays.frame[:, :2, 2]).max()
    if len(rays.time) > 1 and len(scene.bounds):
        own = np.linalg.norm(np.diff(rays.origin[:, :2], axis=0), axis=1).max()
        fastest = np.hypot(scene.bounds[:, VX], scene.bounds[:, VY]).max()
        slack += COLUMNS * (own + fastest * np.abs(np.diff(rays.time)).max())
    return Way(spread, float(slack), float(lift[0]), float(lift[1]), divergence_rad / 4, max_range_m, seed)


@cpu_kernel
def _bound_ground(height: Any, first: Any, last: Any, low: Any, high: Any) -> None:
    """Bounds of the blocks from ``first`` to before ``last`` (2,); those at the raster's edge hold 0 too.

    Rows are merged first, element by element, which the compiler makes vector instructions of.
    """
    rows, cols = height.shape
    begin, end = first[1] * BLOCK, min(last[1] * BLOCK + 1, cols)
    for row in prange(first[0], last[0]):
        lowest, highest = height[row * BLOCK, begin:end].copy(), height[row * BLOCK, begin:end].copy()
        for y in range(row * BLOCK + 1, min((row + 1) * BLOCK + 1, rows)):
            for x in range(end - begin):
                value = height[y, begin + x]
                lowest[x] = value if value < lowest[x] else lowest[x]
                highest[x] = value if value > highest[x] else highest[x]
        for col in range(first[1], last[1]):
            inner = slice(col * BLOCK - begin, min((col + 1) * BLOCK + 1, cols) - begin)
            low[row, col], high[row, col] = lowest[inner].min(), highest[inner].max()
            if (row + 1) * BLOCK >= rows or (col + 1) * BLOCK >= cols or row == 0 or col == 0:
                low[row, col], high[row, col] = min(low[row, col], 0), max(high[row, col], 0)
