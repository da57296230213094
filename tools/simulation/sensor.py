"""The spinning LiDAR: beams, noise, drop-out, intensity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.simulation.raycast import GROUND, LEVEL, cast
from tools.simulation.solids import Solids
from tools.simulation.street import ASPHALT

Float64 = NDArray[np.float64]

FAINT = 0.05  # weaker echoes read as 0: in KITTI, nearly half of those from cars


def _hdl64e_elevations() -> Float64:
    """Two blocks of 32 beams, in thirds and in halves of a degree (data sheet of the Velodyne HDL-64E)."""
    return np.radians(np.concatenate([2 - np.arange(32) / 3, -8.83 - np.arange(32) / 2]))


@dataclass(frozen=True)
class Sensor:
    """A LiDAR and how it errs.

    Attributes:
        elevation_rad: (B,) elevations of the beams.
        azimuth_steps: rays per turn.
        height_m: above the road.
        max_range_m: farther hits are lost.
        range_noise_m: standard deviation of a range.
        lost_at_70_m: share of rays lost at 70 m at normal incidence on a grey surface; grows with the square of range.
    """

    elevation_rad: Float64
    azimuth_steps: int = 2083
    height_m: float = 1.73
    max_range_m: float = 120.0
    range_noise_m: float = 0.02
    lost_at_70_m: float = 0.25


HDL_64E = Sensor(_hdl64e_elevations())


def azimuths(sensor: Sensor, half_view_rad: float = np.pi) -> Float64:
    """(A,) azimuths of the rays within ``half_view_rad`` of straight ahead."""
    turn = (np.arange(sensor.azimuth_steps) + 0.5) / sensor.azimuth_steps * 2 * np.pi - np.pi
    return turn[np.abs(turn) <= half_view_rad]


def sweep(
    sensor: Sensor, solids: Solids, azimuth_rad: Float64, rng: np.random.Generator, grade: Float64 = LEVEL
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """One sweep.

    Args:
        sensor: the LiDAR, at the origin, ``height_m`` above the ground.
        solids: the scene on level ground, in the frame of the sensor.
        azimuth_rad: (A,) directions to cast.
        rng: noise; every draw has a fixed size, so that a sweep depends on nothing but the seed and the scene.
        grade: (2,) rise of the ground along x and y, metres per metre.

    Returns:
        points (N, 4) float32: x, y, z [m, sensor frame], intensity 0..1; the vehicle hit by each (N,) int64,
        or -1; and the vehicle met first by every ray (B, A) int64, or -1, whether an echo came back or not.
    """
    shape = (len(sensor.elevation_rad), len(azimuth_rad))
    depth, noise, luck, speckle = rng.random(shape), rng.normal(size=shape), rng.random(shape), rng.normal(size=shape)
    range_m, hit, cosine = cast(solids, -sensor.height_m, sensor.elevation_rad, azimuth_rad, depth**2, grade)
    on_solid = hit >= 0
    reflectance, dropout = np.full(shape, ASPHALT), np.zeros(shape)
    reflectance[on_solid], dropout[on_solid] = solids.reflectance[hit[on_solid]], solids.dropout[hit[on_solid]]
    reach = np.where(np.isfinite(range_m), range_m, 0.0)
    # What comes back falls with range squared, with a grazing angle and with a dark surface.
    signal = np.clip(reflectance / 0.3 * np.sqrt(np.clip(cosine, 0.02, 1)), 0.15, 2)
    lost = sensor.lost_at_70_m * (reach / 70) ** 2 / signal
    # The road far ahead is met at a fraction of a degree: most of it never comes back.
    lost = np.where((hit == GROUND) & (cosine < 0.04), np.maximum(lost, 1 - cosine / 0.05), lost)
    kept = (luck > 1 - (1 - dropout) * (1 - np.clip(lost, 0, 1))) & np.isfinite(range_m)
    kept &= (range_m + noise * sensor.range_noise_m < sensor.max_range_m) & (range_m > 1.0)
    roughness = np.where(hit == GROUND, 2.0, 1.0)
    measured = range_m + noise * sensor.range_noise_m * np.where(cosine < 0.2, 1.0, roughness)
    intensity = np.clip(reflectance * (0.7 + 0.3 * cosine) * (1 + 0.25 * speckle), 0, 0.99)
    intensity[intensity < FAINT] = 0.0
    flat = np.cos(sensor.elevation_rad)[:, None]
    direction = np.stack(
        [
            flat * np.cos(azimuth_rad),
            flat * np.sin(azimuth_rad),
            np.broadcast_to(np.sin(sensor.elevation_rad)[:, None], shape),
        ],
        axis=-1,
    )
    points = np.concatenate([direction[kept] * measured[kept][:, None], intensity[kept][:, None]], axis=1)
    owner = np.full(shape, -1)
    owner[on_solid] = solids.owner[hit[on_solid]]
    return points.astype(np.float32), owner[kept], owner
