"""Vehicles: sizes as KITTI's labels have them, bodies with cabins, glass and gaps under the sill."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tools.simulation.solids import Solids, box, frustum

# Mean and spread of length, width, height [m]. Cars: KITTI's labels (mean 3.9 x 1.6 x 1.5 m); others: rough road sizes.
SIZES_M = {
    "Car": ((3.88, 1.63, 1.53), (0.40, 0.09, 0.13)),
    "Van": ((5.0, 1.90, 2.20), (0.50, 0.10, 0.25)),
    "Truck": ((9.0, 2.50, 3.30), (1.60, 0.12, 0.30)),
}
GLASS_DROPOUT = 0.6
SILL_M = 0.2


@dataclass(frozen=True)
class Vehicle:
    """One vehicle and its motion along the road.

    Attributes:
        kind: KITTI class name.
        size_m: length, width, height.
        solids: its parts, around the middle of its footprint, heading along +x.
        position_m: x, y in the world at time 0.
        yaw_rad: heading in the world.
        speed_mps: along the road (x), the way that it heads; 0 is parked. Headings waver by a degree, which must
            not carry it out of its lane.
    """

    kind: str
    size_m: tuple[float, float, float]
    solids: Solids
    position_m: tuple[float, float]
    yaw_rad: float
    speed_mps: float = 0.0

    def at(self, time_s: float) -> tuple[float, float]:
        """x, y [m] in the world at a time."""
        x, y = self.position_m
        return x + self.speed_mps * time_s * float(np.sign(np.cos(self.yaw_rad))), y


def random_size(kind: str, rng: np.random.Generator) -> tuple[float, float, float]:
    """Length, width, height [m] of a vehicle of a kind; a long one is a little wider too."""
    mean, spread = (np.array(values) for values in SIZES_M[kind])
    draw = np.clip(rng.normal(size=3), -2, 2)
    draw[1] = 0.5 * draw[0] + 0.85 * draw[1]
    length, width, height = mean + spread * draw
    return float(length), float(width), float(height)


def body(kind: str, size_m: tuple[float, float, float], rng: np.random.Generator) -> Solids:
    """The parts of a vehicle of a size, standing on the ground around the origin, heading along +x."""
    length, width, height = size_m
    paint, dark = 0.6 * rng.random() ** 2, rng.uniform(0, 0.2)  # KITTI's cars look dark: half of them below 0.1
    if kind == "Truck":
        cab, gap = min(2.2, length / 4), 0.4
        cargo = length - cab - gap
        front = box((length / 2 - cab / 2, 0, 0.4), (cab, width * 0.95, height * 0.75), paint, dropout=dark)
        load = box((-length / 2 + cargo / 2, 0, 0.7), (cargo, width, height - 0.7), rng.uniform(0.2, 0.8))
        return Solids.join([front, load, *_wheels(length, width)])
    waist = 0.58 * height if kind == "Car" else 0.5 * height
    nose = 0.95 * length
    lower = frustum((0, 0, SILL_M), (length, width), (nose, 0.92 * width), waist - SILL_M, paint, dropout=dark)
    cabin_length, roof_length = (0.72, 0.42) if kind == "Car" else (0.86, 0.74)
    shift = (-0.06 if kind == "Car" else -0.04) * length
    glass = frustum(
        (shift, 0, waist),
        (cabin_length * length, 0.9 * width),
        (roof_length * length, 0.72 * width),
        height - waist - 0.06,
        0.3,
        shift_m=shift / 3,
        dropout=GLASS_DROPOUT,
    )
    roof = box((shift * 4 / 3, 0, height - 0.06), (roof_length * length, 0.72 * width, 0.06), paint, dropout=dark)
    return Solids.join([lower, glass, roof, *_wheels(length, width)])


def _wheels(length: float, width: float) -> list[Solids]:
    """Both axles; beams pass between them, under the body."""
    return [box((0.32 * side * length, 0, 0), (0.6, 0.95 * width, 0.45), 0.1, dropout=0.3) for side in (1, -1)]


def make_vehicle(
    kind: str,
    position_m: tuple[float, float],
    yaw_rad: float,
    rng: np.random.Generator,
    speed_mps: float = 0.0,
    size_m: tuple[float, float, float] | None = None,
) -> Vehicle:
    """A vehicle of random paint, and of random size unless one is given."""
    size = size_m or random_size(kind, rng)
    return Vehicle(kind, size, body(kind, size, rng), position_m, yaw_rad, speed_mps)
