"""What happens to one column and to one ray: one source for the CPU and for CUDA."""

from __future__ import annotations

import math
from typing import Any

from tools.simulation.intersect import HIGH, LOW, REACH, SOLID_DRAWS, TRANSMITS, X, Y, build_ground, build_shapes
from tools.simulation.intersect import VELOCITY_X as VX
from tools.simulation.intersect import VELOCITY_Y as VY
from tools.simulation.randoms import build_draws
from tools.simulation.surface import Ground

NOTHING, GROUND = -1, -2  # what is hit: a solid's index from 0, GROUND less the kind of ground, or NOTHING
_OUTSIDE = GROUND - int(Ground.EARTH)


def build_caster(jit: Any) -> Any:
    """The functions below compiled by one decorator, and the ``stream`` of `build_draws`; see their docstrings."""
    stream_of, uniform, _ = build_draws(jit)
    enter = build_shapes(jit, uniform)
    meet_ground, ground_cell = build_ground(jit)

    @jit
    def place_column(rays: Any, column: Any) -> Any:
        """Origin (3), frame (9, row by row) and time of a column as numbers: no array is touched for every ray."""
        p, f = rays[0], rays[1]
        origin = p[column, 0], p[column, 1], p[column, 2]
        ahead = f[column, 0, 0], f[column, 0, 1], f[column, 0, 2]
        left = f[column, 1, 0], f[column, 1, 1], f[column, 1, 2]
        up = f[column, 2, 0], f[column, 2, 1], f[column, 2, 2]
        return origin, (*ahead, *left, *up), rays[2][column]

    @jit
    def list_column(
        bounds: Any,
        candidates: Any,
        place: Any,
        lift: Any,
        spread: Any,
        slack: Any,
        limit: Any,
        member: Any,
        bound: Any,
    ) -> Any:
        """Lists the candidates that rays within ``spread`` of a column can meet, and says how many there are.

        Row i of ``bound``, in order of its first number: distance seen from above, lowest and highest slope. No
        more than fit into ``member`` are written. ``place`` is from `place_column`, ``lift`` the lowest and highest
        start of a beam above the sensor, ``slack`` what solids' reach is widened by.
        """
        origin, frame, time = place
        found = 0
        flat = math.sqrt(frame[0] * frame[0] + frame[3] * frame[3])
        ux, uy = frame[0] / flat, frame[3] / flat
        cone_cos, cone_sin = math.cos(spread), math.sin(spread)
        for index in range(len(candidates)):
            k = int(candidates[index])
            rx, ry = bounds[k, X] + time * bounds[k, VX] - origin[0], bounds[k, Y] + time * bounds[k, VY] - origin[1]
            along, across = ux * rx + uy * ry, abs(ux * ry - uy * rx)
            reach = bounds[k, REACH] + slack
            if along < -reach or along - reach > limit or across * cone_cos - along * cone_sin > reach:
                continue
            if found < len(member):
                wide = reach + spread * (max(along, 0.0) + reach)
                half = math.sqrt(max(wide * wide - across * across, 0.0)) + spread * wide
                near, far, lowest, highest = max(along - half, 0.0), along + half, -math.inf, math.inf
                if near > 0.0:
                    low = bounds[k, LOW] - origin[2] - lift[1]
                    high = bounds[k, HIGH] - origin[2] - lift[0]
                    lowest, highest = low / (near if low < 0.0 else far), high / (near if high > 0.0 else far)
                spot = found
                while spot > 0 and bound[spot - 1, 0] > near:
                    member[spot] = member[spot - 1]
                    for item in range(3):
                        bound[spot, item] = bound[spot - 1, item]
                    spot -= 1
                member[spot], bound[spot, 0], bound[spot, 1], bound[spot, 2] = k, near, lowest, highest
            found += 1
        return found

    @jit
    def aim(place: Any, cos: Any, sin: Any, rise: Any, subray: Any, tilt: Any, odd: Any) -> Any:
        """Start and direction of a beam's sub-ray, off its axis by ``tilt`` to the side and up; the other is opposite.

        ``odd`` beams have them on the other diagonal.
        """
        origin, f, _ = place
        side = tilt if subray == 0 else -tilt
        above = -side if odd else side
        ahead, up = cos - above * sin, sin + above * cos
        direction = (
            f[0] * ahead + f[1] * side + f[2] * up,
            f[3] * ahead + f[4] * side + f[5] * up,
            f[6] * ahead + f[7] * side + f[8] * up,
        )
        return (origin[0] + rise * f[2], origin[1] + rise * f[5], origin[2] + rise * f[8]), direction

    @jit
    def meet_solid(bounds: Any, form: Any, shape: Any, k: Any, time: Any, start: Any, ray: Any, stream: Any) -> Any:
        """Distance and cosine of one solid."""
        x, y = start[0] - bounds[k, X] - time * bounds[k, VX], start[1] - bounds[k, Y] - time * bounds[k, VY]
        return enter(form, shape, k, time, (x, y, start[2]), ray, stream)

    @jit
    def cast_ray(
        scene: Any,
        ground: Any,
        member: Any,
        bound: Any,
        count: Any,
        time: Any,
        start: Any,
        ray: Any,
        limit: Any,
        stream: Any,
    ) -> Any:
        """Range, hit, cosine and what is met first, as in `Hits`, of one sub-ray; ``limit`` where it ends."""
        bounds, form, shape, height, kind, low, high = scene[:7]
        flat = math.sqrt(ray[0] * ray[0] + ray[1] * ray[1])
        slope, inverse = ray[2] / flat, 1.0 / flat
        best, hit, cosine, passed, glass = limit, NOTHING, 1.0, limit, NOTHING
        for index in range(count):
            if bound[index, 0] * inverse >= best:
                break
            if not bound[index, 1] <= slope <= bound[index, 2]:
                continue
            k = int(member[index])
            distance, slant = meet_solid(bounds, form, shape, k, time, start, ray, stream)
            if distance < best:
                if form[k, TRANSMITS] > 0.0 and uniform(stream, SOLID_DRAWS + 2 * k + 1) < form[k, TRANSMITS]:
                    if distance < passed:
                        passed, glass = distance, k
                else:
                    best, hit, cosine = distance, k, slant
        distance, slant = meet_ground(height, low, high, ground, start, ray, best)
        if distance < best:
            row, col = ground_cell(ground, start[0] + distance * ray[0], start[1] + distance * ray[1])
            best, cosine, hit = distance, slant, _OUTSIDE
            if 0 <= row < kind.shape[0] and 0 <= col < kind.shape[1]:
                hit = GROUND - int(kind[row, col])
        return best if hit != NOTHING else math.inf, hit, cosine, glass if passed < best else hit

    return place_column, list_column, aim, meet_solid, cast_ray, stream_of
