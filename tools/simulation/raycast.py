"""Casts a sweep's rays against the solids and the ground, on the CPU; `raycast_cuda` does the same on a GPU.

Every column of rays has its own time: the sensor moves on, and so do solids, at constant velocity. For each column the
solids near its vertical plane are listed from near to far, with the slopes between which a ray can meet them, so that
a ray tests one or two of them.

Each beam is two sub-rays; `echo` makes one point of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tools.simulation.caster import build_caster
from tools.simulation.jit import block_function, column_function, cpu_kernel, ray_function
from tools.simulation.scene import COLUMNS, SUBRAYS, Hits, Rays, Scene, Way

Int32 = NDArray[np.int32]

_WIDE_RAD = 0.5  # half a block's angle from which it is not worth to ask which solids lie in it


def cast(scene: Scene, rays: Rays, way: Way) -> Hits:
    """What every ray meets first."""
    shape = (len(rays.time), len(rays.beam), SUBRAYS)
    hits = Hits(np.empty(shape), np.empty(shape, np.int32), np.empty(shape), np.empty(shape[:2], np.int32))
    _cast_cpu(scene, rays, way, hits)
    return hits


def count_unoccluded(scene: Scene, owner: Int32, owners: int, rays: Rays, way: Way) -> NDArray[np.int64]:
    """(owners,) int64: how many beams would meet each actor if it stood alone.

    ``scene`` holds nothing but actors' solids, those of one actor following each other, with ``owner`` (P,) int32.
    A beam is its first sub-ray.
    """
    counts = np.zeros((len(rays.time), owners), np.int64)
    _count_cpu(scene, owner, rays, way, counts)
    totals: NDArray[np.int64] = counts.sum(axis=0)
    return totals


_place_column, _list_column, _aim, _meet_solid, _cast_ray, _stream = build_caster(ray_function)


@cpu_kernel
def _cast_cpu(scene: Any, rays: Any, way: Any, hits: Any) -> None:
    for block in prange((len(rays.time) + COLUMNS - 1) // COLUMNS):
        _cast_block(scene, rays, way, block, hits)


@cpu_kernel
def _count_cpu(scene: Any, owner: Any, rays: Any, way: Any, counts: Any) -> None:
    for block in prange((len(rays.time) + COLUMNS - 1) // COLUMNS):
        _count_block(scene, owner, rays, way, block, counts)


@block_function
def _cast_block(scene: Any, rays: Any, way: Any, block: Any, hits: Any) -> None:
    first, last, listed = _candidates(scene.bounds, rays, way, block)
    member, bound = np.empty(len(listed), np.int32), np.empty((len(listed), 3))
    for column in range(first, last):
        _cast_column(scene, rays, way, column, listed, member, bound, hits)


@block_function
def _count_block(scene: Any, owner: Any, rays: Any, way: Any, block: Any, counts: Any) -> None:
    first, last, listed = _candidates(scene.bounds, rays, way, block)
    listed.sort()  # solids of one actor follow each other again: a beam counts once for it
    member, bound = np.empty(1, np.int32), np.empty((1, 3))
    aims, counted = np.empty((len(rays.beam), 7)), np.empty(len(rays.beam), np.int32)
    for column in range(first, last):
        _aim_column(rays, way, column, aims)
        counted[:] = -1
        for index in range(len(listed)):
            one = listed[index : index + 1]
            _count_column(scene, owner, rays, way, column, one, member, bound, aims, counted, counts)


@block_function
def _candidates(bounds: Any, rays: Any, way: Any, block: Any) -> Any:
    """First and last column of a block, and the solids that rays of any of its columns can meet."""
    first, last = block * COLUMNS, min((block + 1) * COLUMNS, len(rays.time))
    middle, widest, frame = (first + last) // 2, 0.0, rays.frame
    for column in (first, last - 1):
        sine = frame[column, 0, 0] * frame[middle, 1, 0] - frame[column, 1, 0] * frame[middle, 0, 0]
        cosine = frame[column, 0, 0] * frame[middle, 0, 0] + frame[column, 1, 0] * frame[middle, 1, 0]
        widest = max(widest, abs(math.atan2(sine, cosine)))
    everything = np.arange(len(bounds)).astype(np.int32)
    if widest > _WIDE_RAD:
        return first, last, everything
    member, bound = np.empty(len(bounds), np.int32), np.empty((len(bounds), 3))
    spread = way.spread_rad + 1.1 * widest
    return first, last, member[: _list(bounds, everything, rays, middle, spread, way, member, bound)]


@column_function
def _list(bounds: Any, listed: Any, rays: Any, column: Any, spread: Any, way: Any, member: Any, bound: Any) -> Any:
    """`list_column` of a column of the rays."""
    place = _place_column(rays, column)
    return _list_column(
        bounds, listed, place, (way.lift_low_m, way.lift_high_m), spread, way.slack_m, way.limit_m, member, bound
    )


@column_function
def _cast_column(scene: Any, rays: Any, way: Any, column: Any, listed: Any, member: Any, bound: Any, hits: Any) -> None:
    count = _list(scene.bounds, listed, rays, column, way.spread_rad, way, member, bound)
    place, beam, g = _place_column(rays, column), rays.beam, scene.ground
    ground = (g[0], g[1], g[2], g[3], g[4])
    for b in range(len(beam)):
        stream, odd = _stream(way.seed, column * len(beam) + b), (column + b) & 1
        for subray in range(SUBRAYS - 1, -1, -1):
            start, ray = _aim(place, beam[b, 0], beam[b, 1], beam[b, 2], subray, way.tilt, odd)
            distance, hit, cosine, first = _cast_ray(
                scene, ground, member, bound, count, place[2], start, ray, way.limit_m, stream + subray
            )
            hits.range_m[column, b, subray], hits.hit[column, b, subray] = distance, hit
            hits.cosine[column, b, subray], hits.first[column, b] = cosine, first


@column_function
def _aim_column(rays: Any, way: Any, column: Any, aims: Any) -> None:
    """Start (3), direction (3) and slope of the first sub-ray of a column's beams."""
    place = _place_column(rays, column)
    for b in range(len(rays.beam)):
        beam = rays.beam[b]
        start, ray = _aim(place, beam[0], beam[1], beam[2], 0, way.tilt, (column + b) & 1)
        aims[b, 0], aims[b, 1], aims[b, 2] = start
        aims[b, 3], aims[b, 4], aims[b, 5] = ray
        aims[b, 6] = ray[2] / math.sqrt(ray[0] * ray[0] + ray[1] * ray[1])


@column_function
def _count_column(
    scene: Any,
    owner: Any,
    rays: Any,
    way: Any,
    column: Any,
    one: Any,
    member: Any,
    bound: Any,
    aims: Any,
    counted: Any,
    counts: Any,
) -> None:
    """Counts the beams of a column that meet one solid, but for those ``counted`` (B,) for its owner already."""
    if _list(scene.bounds, one, rays, column, way.spread_rad, way, member, bound) == 0:
        return
    k, time = one[0], rays.time[column]
    for b in range(len(aims)):
        if counted[b] == owner[k] or not bound[0, 1] <= aims[b, 6] <= bound[0, 2]:
            continue
        start, ray = (aims[b, 0], aims[b, 1], aims[b, 2]), (aims[b, 3], aims[b, 4], aims[b, 5])
        stream = _stream(way.seed, column * len(aims) + b)
        distance, _ = _meet_solid(scene.bounds, scene.form, scene.shape, k, time, start, ray, stream)
        if distance < way.limit_m:
            counts[column, owner[k]] += 1
            counted[b] = owner[k]
