"""Casts the sensor's rays against the ground and the solids.

Solids are first sorted into sectors of azimuth, so that a ray meets only what stands in its direction.

A slope ``grade`` (along x, along y) lifts everything at x, y by ``grade · (x, y)``. That shear keeps the origin and
straight lines, so a ray meets the sloping scene exactly where the ray of z-component ``dz - grade · (dx, dy)`` meets
the level one, at the same distance; nothing but rays has to be sheared.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from tools.simulation.solids import CROWN, POLYHEDRON, Solids

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

NUM_SECTORS = 720
GROUND, NOTHING = -1, -2
LEVEL = np.zeros(2)


def cast(
    solids: Solids,
    ground_z_m: float,
    elevation_rad: Float64,
    azimuth_rad: Float64,
    depth: Float64,
    grade: Float64 = LEVEL,
) -> tuple[Float64, Int64, Float64]:
    """First hit of every ray from the origin.

    Args:
        solids: what stands around on level ground, in the frame of the sensor [m].
        ground_z_m: height of the ground under the sensor, below 0.
        elevation_rad: (B,) elevations of the beams.
        azimuth_rad: (A,) azimuths, 0 along x, growing towards y.
        depth: (B, A) in 0..1: how deep a ray enters a crown that it meets.
        grade: (2,) rise of the ground along x and y, metres per metre.

    Returns:
        range (B, A) [m], infinite where nothing is hit; solid (B, A) int64, GROUND or NOTHING; and the cosine
        (B, A) of the angle between ray and surface normal, as on level ground.
    """
    starts, members = sort_into_sectors(solids)
    shape = (len(elevation_rad), len(azimuth_rad))
    range_m, hit, cosine = np.full(shape, np.inf), np.full(shape, NOTHING), np.ones(shape)
    columns = (solids.shape, solids.base, solids.yaw_rad, solids.planes, solids.size)
    _cast(starts, members, *columns, ground_z_m, elevation_rad, azimuth_rad, grade, depth, range_m, hit, cosine)
    return range_m, hit, cosine


def count_unoccluded(
    solids: Solids, num_owners: int, elevation_rad: Float64, azimuth_rad: Float64, grade: Float64 = LEVEL
) -> Int64:
    """(num_owners,) int64: how many rays would meet each vehicle if it stood alone. Arguments as `cast`."""
    starts, members = sort_into_sectors(solids)
    counts = np.zeros((len(azimuth_rad), num_owners), np.int64)
    columns = (solids.shape, solids.base, solids.yaw_rad, solids.planes, solids.size, solids.owner)
    _count(starts, members, *columns, elevation_rad, azimuth_rad, grade, counts)
    return counts.sum(axis=0)


def sort_into_sectors(solids: Solids) -> tuple[Int64, Int64]:
    """Solids by sector of azimuth: sector s holds ``members[starts[s]:starts[s + 1]]``, each sector in index order."""
    distance = np.hypot(solids.base[:, 0], solids.base[:, 1])
    middle = np.arctan2(solids.base[:, 1], solids.base[:, 0])
    around = distance <= solids.reach_m * 1.001
    half = np.where(around, np.pi, np.arcsin(np.clip(solids.reach_m / np.maximum(distance, 1e-9), 0, 1)))
    width = 2 * np.pi / NUM_SECTORS
    # One sector more on either side: no ray slips through by rounding.
    first = np.floor((middle - half + np.pi) / width).astype(int) - 1
    count = np.minimum(np.ceil(2 * half / width).astype(int) + 3, NUM_SECTORS)
    sectors = np.concatenate([(start + np.arange(n)) % NUM_SECTORS for start, n in zip(first, count, strict=True)])
    owners = np.repeat(np.arange(len(solids)), count)
    order = np.lexsort((owners, sectors))
    starts = np.searchsorted(sectors[order], np.arange(NUM_SECTORS + 1))
    return starts, owners[order]


@njit(cache=True, nogil=True)
def _enter_planes(planes, px, py, pz, dx, dy, dz):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Distance at which a ray enters a convex solid, or inf; and the cosine at the face it enters by."""
    enter, leave, cosine = -np.inf, np.inf, 1.0
    for index in range(6):
        nx, ny, nz = planes[index, 0], planes[index, 1], planes[index, 2]
        gap = planes[index, 3] - (nx * px + ny * py + nz * pz)
        slope = nx * dx + ny * dy + nz * dz
        if abs(slope) < 1e-12:
            if gap < 0:
                return np.inf, 1.0
        elif slope < 0:
            if gap / slope > enter:
                enter, cosine = gap / slope, -slope
        else:
            leave = min(leave, gap / slope)
    if enter > leave or enter <= 0:
        return np.inf, 1.0
    return enter, cosine


@njit(cache=True, nogil=True)
def _enter_round(shape, size, px, py, pz, dx, dy, dz, depth):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """The same for a cylinder's mantle, or for a crown, which is entered by a share ``depth`` of the chord."""
    sx, sy, sz = 1 / size[0], 1 / size[1], (1 / size[2] if shape == CROWN else 0.0)
    a = (dx * sx) ** 2 + (dy * sy) ** 2 + (dz * sz) ** 2
    b = px * dx * sx * sx + py * dy * sy * sy + pz * dz * sz * sz
    c = (px * sx) ** 2 + (py * sy) ** 2 + (pz * sz) ** 2 - 1
    root = b * b - a * c
    if root <= 0 or a < 1e-12:
        return np.inf, 1.0
    root = math.sqrt(root)
    enter, leave = (-b - root) / a, (-b + root) / a
    if enter <= 0:
        return np.inf, 1.0
    if shape == CROWN:
        return enter + depth * (leave - enter), 0.7
    z = pz + enter * dz
    if z < 0 or z > size[2]:
        return np.inf, 1.0
    return enter, min(1.0, root / math.sqrt(a))


@njit(cache=True, nogil=True)
def _enter(shape, base, yaw, planes, size, dx, dy, dz, depth):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Distance and cosine for any shape; the ray starts at the origin."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    px, py, pz = -(cos * base[0] + sin * base[1]), -(cos * base[1] - sin * base[0]), -base[2]
    lx, ly = cos * dx + sin * dy, cos * dy - sin * dx
    if shape == POLYHEDRON:
        return _enter_planes(planes, px, py, pz, lx, ly, dz)
    return _enter_round(shape, size, px, py, pz, lx, ly, dz, depth)


@njit(cache=True, nogil=True)
def _direction(elevation, azimuth, grade):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """A ray's direction in the level scene."""
    flat = math.cos(elevation)
    dx, dy = flat * math.cos(azimuth), flat * math.sin(azimuth)
    return dx, dy, math.sin(elevation) - grade[0] * dx - grade[1] * dy


@njit(cache=True, nogil=True, parallel=True)
def _cast(starts, order, shape, base, yaw, planes, size, road, elevation, azimuth, grade, depth, range_m, hit, cosine):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for column in prange(azimuth.shape[0]):
        sector = int((azimuth[column] + math.pi) / (2 * math.pi) * NUM_SECTORS) % NUM_SECTORS
        for beam in range(elevation.shape[0]):
            dx, dy, dz = _direction(elevation[beam], azimuth[column], grade)
            if dz < 0:
                range_m[beam, column], hit[beam, column], cosine[beam, column] = road / dz, GROUND, -dz
            for place in range(starts[sector], starts[sector + 1]):
                k = order[place]
                distance, slope = _enter(shape[k], base[k], yaw[k], planes[k], size[k], dx, dy, dz, depth[beam, column])
                if distance < range_m[beam, column]:
                    range_m[beam, column], hit[beam, column], cosine[beam, column] = distance, k, slope


@njit(cache=True, nogil=True, parallel=True)
def _count(starts, members, shape, base, yaw, planes, size, owner, elevation, azimuth, grade, counts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    for column in prange(azimuth.shape[0]):
        sector = int((azimuth[column] + math.pi) / (2 * math.pi) * NUM_SECTORS) % NUM_SECTORS
        for beam in range(elevation.shape[0]):
            dx, dy, dz = _direction(elevation[beam], azimuth[column], grade)
            last = -1  # the solids of one vehicle follow each other: count a ray once for it
            for place in range(starts[sector], starts[sector + 1]):
                k = members[place]
                if owner[k] < 0 or owner[k] == last:
                    continue
                if _enter(shape[k], base[k], yaw[k], planes[k], size[k], dx, dy, dz, 0.0)[0] < np.inf:
                    counts[column, owner[k]] += 1
                    last = owner[k]
