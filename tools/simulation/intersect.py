"""Where a ray meets a solid or the ground: one source for the CPU and for CUDA.

`build_shapes` and `build_ground` compile the plain functions below with the decorator that they are given. Everything
is float64: a ray that grazes the road far away is a quotient of small differences.
"""

from __future__ import annotations

import math
from typing import Any

from tools.simulation.solids import CROWN, CYLINDER, POLYHEDRON

# Columns of the tables that describe P solids to a kernel. `BOUNDS` is all that decides whether a ray comes near:
X, Y, VELOCITY_X, VELOCITY_Y, REACH, LOW, HIGH, BOUNDS = range(8)
# and `FORM` what it meets there; six planes of four numbers each follow from PLANES.
BASE_Z, COS, SIN, TURN_RATE, SIZE, TRANSMITS, PLANES, FORM = 0, 1, 2, 3, 4, 7, 8, 32

LEAF_DEPTH_M = 0.7  # how far a beam goes on in a crown on average; trees of KITTI let about this much through
CROWN_COSINE = 0.7  # leaves turn every way: the mean

# Purposes of a ray's draws: solid k has 2 k + SOLID_DRAWS for the depth in a crown and the next one for glass.
SOLID_DRAWS = 64

BLOCK = 16  # cells along a side of the blocks that bound the heights of the ground
_REFINEMENTS, _CLOSE_M = 100, 1e-6  # a ray that crosses the ground several times within a cell takes dozens
_NUDGE_M = 1e-7  # past the border of a block, so that rounding does not keep a ray in it


def build_shapes(jit: Any, uniform: Any) -> Any:
    """``enter(form, shape, k, time, p, d, stream)``: distance along a ray to solid k, and cosine.

    ``p`` (3) is the ray's start less the solid's base, but for its height, ``d`` (3) the direction. The distance is
    infinite where the ray misses or starts inside; the cosine is that of the angle between ray and normal.
    """

    @jit
    def enter_planes(form: Any, k: Any, p: Any, d: Any) -> Any:
        enter, leave, cosine = -math.inf, math.inf, 1.0
        for index in range(PLANES, FORM, 4):
            nx, ny, nz = form[k, index], form[k, index + 1], form[k, index + 2]
            gap = form[k, index + 3] - (nx * p[0] + ny * p[1] + nz * p[2])
            slope = nx * d[0] + ny * d[1] + nz * d[2]
            if abs(slope) < 1e-12:
                if gap < 0.0:
                    return math.inf, 1.0
            elif slope < 0.0:
                if gap / slope > enter:
                    enter, cosine = gap / slope, -slope
            else:
                leave = min(leave, gap / slope)
        if enter > leave or enter <= 0.0:
            return math.inf, 1.0
        return enter, cosine

    @jit
    def enter_cylinder(form: Any, k: Any, p: Any, d: Any) -> Any:
        radius, height = form[k, SIZE], form[k, SIZE + 2]
        flat = math.sqrt(d[0] * d[0] + d[1] * d[1])
        across = (p[0] * d[1] - p[1] * d[0]) / flat
        half = radius * radius - across * across
        if half <= 0.0:
            return math.inf, 1.0
        half = math.sqrt(half)
        middle = -(p[0] * d[0] + p[1] * d[1]) / flat
        distance = (middle - half) / flat
        z = p[2] + distance * d[2]
        if 0.0 <= z <= height and distance > 0.0:
            return distance, flat * half / radius
        if z > height and d[2] < 0.0:  # from above: the lid
            distance = (height - p[2]) / d[2]
            if distance * flat <= middle + half and distance > 0.0:
                return distance, -d[2]
        return math.inf, 1.0

    @jit
    def enter_ellipsoid(form: Any, k: Any, p: Any, d: Any) -> Any:
        """Distances at which the ray enters and leaves, and the cosine where it enters."""
        sx, sy, sz = 1.0 / form[k, SIZE], 1.0 / form[k, SIZE + 1], 1.0 / form[k, SIZE + 2]
        ux, uy, uz, vx, vy, vz = p[0] * sx, p[1] * sy, p[2] * sz, d[0] * sx, d[1] * sy, d[2] * sz
        a, b = vx * vx + vy * vy + vz * vz, ux * vx + uy * vy + uz * vz
        root = b * b - a * (ux * ux + uy * uy + uz * uz - 1.0)
        if root <= 0.0:
            return math.inf, math.inf, 1.0
        root = math.sqrt(root)
        distance = (-b - root) / a
        if distance <= 0.0:
            return math.inf, math.inf, 1.0
        nx, ny, nz = (ux + distance * vx) * sx, (uy + distance * vy) * sy, (uz + distance * vz) * sz
        cosine = -(nx * d[0] + ny * d[1] + nz * d[2]) / math.sqrt(nx * nx + ny * ny + nz * nz)
        return distance, (-b + root) / a, cosine

    @jit
    def enter(form: Any, shape: Any, k: Any, time: Any, p: Any, d: Any, stream: Any) -> Any:
        cos, sin = form[k, COS], form[k, SIN]
        if form[k, TURN_RATE] != 0.0:
            turn = form[k, TURN_RATE] * time
            c, s = math.cos(turn), math.sin(turn)
            cos, sin = c * cos - s * sin, s * cos + c * sin
        start = cos * p[0] + sin * p[1], cos * p[1] - sin * p[0], p[2] - form[k, BASE_Z]
        ray = cos * d[0] + sin * d[1], cos * d[1] - sin * d[0], d[2]
        if shape[k] == POLYHEDRON:
            return enter_planes(form, k, start, ray)
        if shape[k] == CYLINDER:
            return enter_cylinder(form, k, start, ray)
        near, far, cosine = enter_ellipsoid(form, k, start, ray)
        if shape[k] == CROWN and near < math.inf:
            near -= LEAF_DEPTH_M * math.log(uniform(stream, SOLID_DRAWS + 2 * k))
            return near if near < far else math.inf, CROWN_COSINE
        return near, cosine

    return enter


def build_ground(jit: Any) -> tuple[Any, Any]:
    """``meet_ground(height, low, high, ground, p, d, limit)`` and ``ground_cell(ground, x, y)``.

    The ground is bilinear between the middles of the cells of ``height`` and 0 beyond the outermost of them.
    ``low`` and ``high`` bound it in every block of `BLOCK` x `BLOCK` patches between four middles; ``ground`` (5) is
    x and y of the first middle, cells per metre, and the bounds of all heights, 0 included.
    A ray from ``p`` along ``d`` skips the blocks whose bounds it passes above, walks from cell to cell between the
    bounds in the others, and the crossing is refined by regula falsi (the Illinois variant). The answer is the
    distance, infinite if ``limit`` comes first, and the cosine between ray and normal.
    """

    @jit
    def floor(number: Any) -> Any:
        """As an integer: `math.floor` gives one on the CPU only."""
        whole = int(number)
        return whole - 1 if number < whole else whole

    @jit
    def ground_cell(ground: Any, x: Any, y: Any) -> Any:
        u, v = (x - ground[0]) * ground[2] + 0.5, (y - ground[1]) * ground[2] + 0.5
        return floor(u), floor(v)

    @jit
    def sample(height: Any, ground: Any, p: Any, d: Any, distance: Any) -> Any:
        """How far a point of a ray is above the ground, and the ground's slopes there, per cell."""
        u = (p[0] + distance * d[0] - ground[0]) * ground[2]
        v = (p[1] + distance * d[1] - ground[1]) * ground[2]
        row, col = floor(u), floor(v)
        z = p[2] + distance * d[2]
        if row < 0 or col < 0 or row + 1 >= height.shape[0] or col + 1 >= height.shape[1]:
            return z, 0.0, 0.0
        u, v = u - row, v - col
        a, b = float(height[row, col]), float(height[row, col + 1])
        c, e = float(height[row + 1, col]), float(height[row + 1, col + 1])
        left, right = a + u * (c - a), b + u * (e - b)
        return z - left - v * (right - left), (c - a) + v * (e - b - c + a), right - left

    @jit
    def refine(height: Any, ground: Any, p: Any, d: Any, a: Any, above: Any, b: Any, below: Any) -> Any:
        """The crossing between distance a, where the ray is ``above`` the ground, and b, where it is not."""
        side = 0
        for _ in range(_REFINEMENTS):
            middle = a + (b - a) * above / (above - below)
            gap = sample(height, ground, p, d, middle)[0]
            if abs(gap) < _CLOSE_M:
                return middle
            if gap > 0.0:
                a, above = middle, gap
                below = below * 0.5 if side > 0 else below
                side = 1
            else:
                b, below = middle, gap
                above = above * 0.5 if side < 0 else above
                side = -1
        return a + (b - a) * above / (above - below)

    @jit
    def walk(height: Any, ground: Any, p: Any, d: Any, start: Any, end: Any, step: Any) -> Any:
        """The first crossing in a stretch of a ray, or inf."""
        above = sample(height, ground, p, d, start)[0]
        if above <= 0.0:
            return start
        here = start
        while here < end:
            there = min(here + step, end)
            gap = sample(height, ground, p, d, there)[0]
            if gap <= 0.0:
                return refine(height, ground, p, d, here, above, there, gap)
            here, above = there, gap
        return math.inf

    @jit
    def find(height: Any, low: Any, high: Any, ground: Any, p: Any, d: Any, here: Any, end: Any) -> Any:
        """The first crossing between two distances, block by block, or inf."""
        per_block = ground[2] / BLOCK
        u, v = (p[0] - ground[0]) * per_block, (p[1] - ground[1]) * per_block
        du, dv = d[0] * per_block, d[1] * per_block
        # Distances are linear in block coordinates; a ray along an axis never leaves by the other.
        inverse_u, inverse_v = 1.0 / (du if abs(du) > 1e-12 else 1e-12), 1.0 / (dv if abs(dv) > 1e-12 else 1e-12)
        ahead_u, ahead_v = (1 if inverse_u > 0.0 else 0), (1 if inverse_v > 0.0 else 0)
        step = 1.0 / (ground[2] * math.sqrt(d[0] * d[0] + d[1] * d[1]) + 1e-12)
        while here < end:
            row, col = floor(u + here * du), floor(v + here * dv)
            there = min((row + ahead_u - u) * inverse_u, (col + ahead_v - v) * inverse_v) + _NUDGE_M
            there = min(max(there, here + _NUDGE_M), end)
            bottom, top = 0.0, 0.0
            if 0 <= row < low.shape[0] and 0 <= col < low.shape[1]:
                bottom, top = float(low[row, col]), float(high[row, col])
            if p[2] + min(here * d[2], there * d[2]) <= top:
                begin, stop, sure = here, there, False
                if d[2] < 0.0:  # below the lowest point of the block the ray is surely under the ground
                    begin, under = max(here, (top - p[2]) / d[2]), (bottom - p[2]) / d[2]
                    stop, sure = min(there, max(begin, under)), under < there
                distance = walk(height, ground, p, d, begin, stop, step)
                if distance < math.inf or sure:
                    return min(distance, stop)
            here = there
        return math.inf

    @jit
    def meet_ground(height: Any, low: Any, high: Any, ground: Any, p: Any, d: Any, limit: Any) -> Any:
        here, end = 0.0, limit
        if d[2] < 0.0:
            here, end = max(0.0, (ground[4] - p[2]) / d[2]), min(limit, (ground[3] - p[2]) / d[2] + _NUDGE_M)
        elif p[2] > ground[4]:
            return math.inf, 1.0
        distance = find(height, low, high, ground, p, d, here, end) if here < end else math.inf
        if distance >= limit:
            return math.inf, 1.0
        _, along_x, along_y = sample(height, ground, p, d, distance)
        along_x, along_y = along_x * ground[2], along_y * ground[2]
        cosine = (along_x * d[0] + along_y * d[1] - d[2]) / math.sqrt(1.0 + along_x * along_x + along_y * along_y)
        return distance, max(cosine, 1e-3)

    return meet_ground, ground_cell
