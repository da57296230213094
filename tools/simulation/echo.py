"""What the receiver makes of a beam's two sub-rays: one range or none, and an intensity.

The law has the form that the frames of KITTI show (train split, points by ring through the beams' own elevations):

- Strength is the surface's reflectance, less at a graze, with a lobe around the normal for what is glossy.
- An echo is lost with odds that grow with range to the fourth and fall with strength squared: KITTI's facades lose
  2 % at 45 m and 14 % at 75 m, its cars 10 % at 27 m, 45 % at 45 m, 70 % at 60 m.
- Intensity is strength times the laser's gain, less what falls linearly with range beyond some 17 m, less what a pulse
  loses that is smeared over the range at a graze: so KITTI's road reads 0.29 at 17 m, 0.11 at 25 m, 0 from 30 m on.
- Echoes of a beam that are closer than a pulse is long merge; the stronger of two that are far apart wins; in between
  the range is sometimes a mixture of both, which gives the stray points behind edges.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tools.simulation.caster import GROUND, NOTHING
from tools.simulation.jit import column_function, cpu_kernel, ray_function
from tools.simulation.materials import DROPOUT, REFLECTANCE, RETRO, ROUGHNESS, SPECULAR, Material, optics_table
from tools.simulation.randoms import build_draws
from tools.simulation.scene import Hits
from tools.simulation.solids import Solids
from tools.simulation.surface import Ground

Float64 = NDArray[np.float64]

_LOST, _MIXED, _SHARE, _RANGE, _SPECKLE, _NOISE, _SURFACE = range(1, 8)  # purposes of draws
_GRAZING = 0.02  # cosine at which a rough surface looks half as bright as from above
_SATURATED = 0.99  # KITTI's largest intensity
MATERIAL_OF_GROUND = {
    Ground.ROAD: Material.ASPHALT,
    Ground.MARKING: Material.MARKING,
    Ground.PAVEMENT: Material.PAVING,
    Ground.GRASS: Material.GRASS,
    Ground.EARTH: Material.EARTH,
}
SEALED = [Ground.ROAD, Ground.MARKING, Ground.PAVEMENT]  # kinds of ground on which water stands
NUM_GROUNDS = len(Ground)
NO_GROUND = 255

stream_of, uniform, normal = build_draws(ray_function)


class Receiver(NamedTuple):
    """How a sensor errs; see `sensor.Sensor` for what each number is.

    Attributes:
        gain, bias_m: (B,) float64, of each beam.
        blind: (A,) float64, sine of the elevation below which a column sees nothing but the sensor's own vehicle.
        others: as in `sensor.Sensor`.
    """

    gain: Float64
    bias_m: Float64
    blind: Float64
    min_range_m: float
    max_range_m: float
    range_noise_m: float
    range_noise_per_m: float
    divergence_rad: float
    merge_m: float
    split_m: float
    mixed_share: float
    lost_share: float
    half_lost_m: float
    intensity_floor: float
    fade_from_m: float
    fade_per_m: float
    smear_from_m: float
    smear_per_m: float
    intensity_noise: float


class Echoes(NamedTuple):
    """One point or none for every beam.

    Attributes:
        range_m: (B, A) float64, 0 where there is none.
        intensity: (B, A) float64, 0..0.99.
        hit: (B, A) int32, what was measured, as in `Hits`.
    """

    range_m: Float64
    intensity: Float64
    hit: NDArray[np.int32]


def surface_optics(solids: Solids, wet: float) -> Float64:
    """(P + kinds of ground, 6) float64: the optics of every solid, then of every kind of ground.

    Args:
        solids: P of them.
        wet: 0..1. Water on asphalt swallows light, and mirrors what comes at a graze.
    """
    table = optics_table()
    of_solids = table[solids.material]
    of_solids[:, REFLECTANCE] *= solids.shade
    of_ground = table[[MATERIAL_OF_GROUND[kind] for kind in Ground]]
    of_ground[SEALED, REFLECTANCE] *= 1 - 0.6 * wet
    of_ground[SEALED, DROPOUT] += 0.3 * wet
    of_ground[SEALED, SPECULAR] += (1 - of_ground[SEALED, SPECULAR]) * 0.8 * wet
    return np.concatenate([of_solids, of_ground])


def receive(hits: Hits, optics: Float64, beam: Float64, receiver: Receiver, seed: int) -> Echoes:
    """Echoes of all beams; ``optics`` as from `surface_optics`, ``beam`` (B, 3) as in `Rays`."""
    shape = hits.hit.shape[1::-1]
    echoes = Echoes(np.empty(shape), np.empty(shape), np.empty(shape, np.int32))
    _receive(hits, optics, beam, receiver, seed, echoes)
    return echoes


@ray_function
def _strength(optics: Any, row: Any, cosine: Any) -> Any:
    """How bright a surface looks from where the beam comes: 1 is white paper seen from above."""
    specular = optics[row, SPECULAR]
    lobe = cosine**8
    share = (1.0 - specular) * cosine / (cosine + _GRAZING) + 2.0 * specular * lobe
    return optics[row, REFLECTANCE] * (1.0 + optics[row, RETRO]) * share


@ray_function
def _subray(hits: Any, optics: Any, column: Any, b: Any, subray: Any) -> Any:
    """Range of a sub-ray, strength and row of ``optics`` of what it meets; strength 0 if that is nothing."""
    what = hits.hit[column, b, subray]
    if what == NOTHING:
        return math.inf, 0.0, 0
    row = what if what >= 0 else len(optics) - NUM_GROUNDS + GROUND - what
    return hits.range_m[column, b, subray], _strength(optics, row, hits.cosine[column, b, subray]), row


@ray_function
def _merge(hits: Any, optics: Any, receiver: Any, column: Any, b: Any, stream: Any) -> Any:
    """Range and strength of a beam's echo, and the sub-ray that gives more of it."""
    range_a, strength_a, row_a = _subray(hits, optics, column, b, 0)
    range_b, strength_b, row_b = _subray(hits, optics, column, b, 1)
    main = 0
    if strength_b / range_b**2 > strength_a / range_a**2:
        main, row_a, row_b = 1, row_b, row_a
        range_a, range_b, strength_a, strength_b = range_b, range_a, strength_b, strength_a
    gap = abs(range_b - range_a)
    mean = 0.5 * (strength_a + strength_b)
    ground = len(optics) - NUM_GROUNDS
    if row_a == row_b or (row_a >= ground and row_b >= ground and gap < math.inf):
        return 0.5 * (range_a + range_b), mean, main  # one surface: its footprint's middle
    if gap < receiver.merge_m:
        return (strength_a * range_a + strength_b * range_b) / (2 * mean), mean, main
    if gap < receiver.split_m and uniform(stream, _MIXED) < receiver.mixed_share:
        return range_a + uniform(stream, _SHARE) * (range_b - range_a), mean, main
    return range_a, 0.5 * strength_a, main


@ray_function
def _is_lost(receiver: Any, dropout: Any, distance: Any, strength: Any, stream: Any) -> Any:
    """Whether no echo comes back."""
    if not receiver.min_range_m <= distance <= receiver.max_range_m or strength <= 0.0:
        return True
    odds = (0.1 / strength * (distance / receiver.half_lost_m) ** 2) ** 2
    kept = (1.0 - dropout) * (1.0 - receiver.lost_share) / (1.0 + odds)
    return uniform(stream, _LOST) >= kept


@ray_function
def _read_intensity(receiver: Any, gain: Any, strength: Any, distance: Any, cosine: Any, stream: Any) -> Any:
    """Intensity that the sensor gives, in hundredths as KITTI's."""
    smear = distance * receiver.divergence_rad * math.sqrt(max(0.0, 1.0 - cosine * cosine)) / cosine
    level = strength - receiver.intensity_floor
    level -= receiver.fade_per_m * max(0.0, distance - receiver.fade_from_m)
    level -= receiver.smear_per_m * max(0.0, smear - receiver.smear_from_m)
    level = gain * (level + receiver.intensity_noise * normal(stream, _NOISE)) * (1.0 + 0.15 * normal(stream, _SPECKLE))
    return min(max(round(100.0 * level) / 100.0, 0.0), _SATURATED)


@cpu_kernel
def _receive(hits: Any, optics: Any, beam: Any, receiver: Any, seed: Any, echoes: Any) -> None:
    for column in prange(len(hits.first)):
        _receive_column(hits, optics, beam, receiver, seed, column, echoes)


@column_function
def _receive_column(hits: Any, optics: Any, beam: Any, receiver: Any, seed: Any, column: Any, echoes: Any) -> None:
    for b in range(len(beam)):
        echoes.range_m[b, column], echoes.intensity[b, column], echoes.hit[b, column] = 0.0, 0.0, NOTHING
        missed = hits.hit[column, b, 0] == NOTHING and hits.hit[column, b, 1] == NOTHING
        if missed or beam[b, 1] < receiver.blind[column]:
            continue
        stream = stream_of(seed, column * len(beam) + b)
        distance, strength, main = _merge(hits, optics, receiver, column, b, stream)
        hit, cosine = hits.hit[column, b, main], hits.cosine[column, b, main]
        row = hit if hit >= 0 else len(optics) - NUM_GROUNDS + GROUND - hit
        if _is_lost(receiver, optics[row, DROPOUT], distance, strength, stream):
            continue
        noise = receiver.range_noise_m + receiver.range_noise_per_m * distance
        error = noise * normal(stream, _RANGE) + optics[row, ROUGHNESS] * normal(stream, _SURFACE)
        echoes.range_m[b, column] = distance + error + receiver.bias_m[b]
        echoes.intensity[b, column] = _read_intensity(receiver, receiver.gain[b], strength, distance, cosine, stream)
        echoes.hit[b, column] = hit


def gather(
    echoes: Echoes, azimuth: Float64, beam: Float64, owner: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32], NDArray[np.uint8]]:
    """The echoes as points in KITTI's order: beam by beam, each from straight ahead to the left all around.

    Args:
        echoes: of B beams and A columns.
        azimuth: (A,) of the columns.
        beam: (B, 3) as in `Rays`.
        owner: (P + 1,) int32 of the solids; the last for what is no solid.

    Returns:
        points (N, 4) float32 with coordinates in whole millimetres, beam (N,), owner (N,), kind of ground (N,).
    """
    ends = np.cumsum(np.count_nonzero(echoes.range_m, axis=1))
    count = int(ends[-1])
    points, ring = np.empty((count, 4), np.float32), np.empty(count, np.int32)
    owners, ground = np.empty(count, np.int32), np.empty(count, np.uint8)
    order = np.argsort(azimuth % (2 * np.pi))
    cos, sin = np.cos(azimuth), np.sin(azimuth)
    _gather(echoes, order, cos, sin, beam, owner, ends, points, ring, owners, ground)
    return points, ring, owners, ground


@cpu_kernel
def _gather(
    echoes: Any,
    order: Any,
    cos: Any,
    sin: Any,
    beam: Any,
    owner: Any,
    ends: Any,
    points: Any,
    ring: Any,
    owners: Any,
    ground: Any,
) -> None:
    for b in prange(len(beam)):
        place = ends[b - 1] if b > 0 else 0
        for column in order:
            distance, what = echoes.range_m[b, column], echoes.hit[b, column]
            if distance == 0.0:
                continue
            flat = distance * beam[b, 0]
            points[place, 0] = round(1000.0 * flat * cos[column]) / 1000.0
            points[place, 1] = round(1000.0 * flat * sin[column]) / 1000.0
            points[place, 2] = round(1000.0 * (distance * beam[b, 1] + beam[b, 2])) / 1000.0
            points[place, 3], ring[place] = echoes.intensity[b, column], b
            owners[place] = owner[max(what, -1)]
            ground[place] = GROUND - what if what <= GROUND else NO_GROUND
            place += 1
