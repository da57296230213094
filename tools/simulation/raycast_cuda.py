"""`raycast.cast` on a GPU: the same functions, one thread per column to list solids, then one per beam.

The lists of columns lie behind each other in global memory, with room for as many solids as the fullest needs; the
columns of one beam are neighbours, so that threads of a warp walk the same part of the scene.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.launch import THREADS, blocks, cuda, new_array, to_device, to_host
from tools.simulation.caster import build_caster
from tools.simulation.scene import SUBRAYS, Hits, Rays, Scene, Way

_ROOM = 32  # solids that a column's list holds at first
# Types that the kernels are compiled for where no GPU is.
_RAYS = "float64[:,::1], float64[:,:,::1], float64[::1], float64[:,::1]"
_LISTS = "int32[:,::1], float64[:,:,::1], int32[::1]"
_SCENE = (
    "float64[:,::1], float64[:,::1], int32[::1], float32[:,::1], uint8[:,::1], float32[:,::1], float32[:,::1], "
    "float64[::1]"
)
_HITS = "float64[:,:,::1], int32[:,:,::1], float64[:,:,::1], int32[:,::1]"
LIST_SIGNATURE = f"(float64[:,::1], int32[::1], {_RAYS}, float64, float64, float64, float64, float64, {_LISTS})"
CAST_SIGNATURE = f"({_SCENE}, {_RAYS}, {_LISTS}, float64, float64, int64, {_HITS})"

_place_column, _list_column, _aim, _, _cast_ray, _stream = build_caster(cuda.jit(device=True, inline="always"))


@cuda.jit
def list_kernel(
    bounds: Any,
    everything: Any,
    origin: Any,
    frame: Any,
    time: Any,
    beam: Any,
    spread: Any,
    slack: Any,
    lift_low: Any,
    lift_high: Any,
    limit: Any,
    member: Any,
    bound: Any,
    counts: Any,
) -> None:
    """One column per thread; all solids are candidates."""
    rays, lift = (origin, frame, time, beam), (lift_low, lift_high)
    for column in range(cuda.grid(1), time.shape[0], cuda.gridsize(1)):
        place = _place_column(rays, column)
        counts[column] = _list_column(
            bounds, everything, place, lift, spread, slack, limit, member[column], bound[column]
        )


@cuda.jit
def cast_kernel(
    bounds: Any,
    form: Any,
    shape: Any,
    height: Any,
    kind: Any,
    low: Any,
    high: Any,
    g: Any,
    origin: Any,
    frame: Any,
    time: Any,
    beam: Any,
    member: Any,
    bound: Any,
    counts: Any,
    tilt: Any,
    limit: Any,
    seed: Any,
    range_m: Any,
    hit: Any,
    cosine: Any,
    first: Any,
) -> None:
    """One beam per thread, neighbours have neighbouring columns."""
    scene, rays = (bounds, form, shape, height, kind, low, high), (origin, frame, time, beam)
    ground = (g[0], g[1], g[2], g[3], g[4])
    columns, beams = time.shape[0], beam.shape[0]
    for index in range(cuda.grid(1), columns * beams, cuda.gridsize(1)):
        b, column = index // columns, index % columns
        place = _place_column(rays, column)
        stream, odd = _stream(seed, column * beams + b), (column + b) & 1
        for subray in range(SUBRAYS - 1, -1, -1):
            start, ray = _aim(place, beam[b, 0], beam[b, 1], beam[b, 2], subray, tilt, odd)
            distance, what, slant, met = _cast_ray(
                scene,
                ground,
                member[column],
                bound[column],
                counts[column],
                time[column],
                start,
                ray,
                limit,
                stream + subray,
            )
            range_m[column, b, subray], hit[column, b, subray] = distance, what
            cosine[column, b, subray], first[column, b] = slant, met


def cast_cuda(scene: Scene, rays: Rays, way: Way) -> Hits:
    """As `raycast.cast`: arguments and results are NumPy arrays, the work is done on the GPU."""
    columns, beams, solids = len(rays.time), len(rays.beam), len(scene.bounds)
    there, beams_there = [to_device(array) for array in scene], [to_device(array) for array in rays]
    everything, counts = to_device(np.arange(solids, dtype=np.int32)), new_array((columns,), np.int32, True)
    room, needed = 0, min(_ROOM, max(solids, 1))
    while room < needed:  # a second time if a column has more solids than there was room for
        room = needed
        member, bound = new_array((columns, room), np.int32, True), new_array((columns, room, 3), np.float64, True)
        list_kernel[blocks(), THREADS](
            there[0],
            everything,
            *beams_there,
            way.spread_rad,
            way.slack_m,
            way.lift_low_m,
            way.lift_high_m,
            way.limit_m,
            member,
            bound,
            counts,
        )
        needed = int(to_host(counts).max())
    shape = (columns, beams, SUBRAYS)
    ranges, hit = new_array(shape, np.float64, True), new_array(shape, np.int32, True)
    cosine, first = new_array(shape, np.float64, True), new_array(shape[:2], np.int32, True)
    lists, hits = (member, bound, counts), (ranges, hit, cosine, first)
    cast_kernel[blocks(), THREADS](*there, *beams_there, *lists, way.tilt, way.limit_m, way.seed, *hits)
    return Hits(*to_host(hits))
