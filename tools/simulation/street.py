"""A street: a straight road with pavements, houses, side streets, trees, poles, parked rows and traffic.

World frame: x along the road, y to the left of it, z = 0 on the asphalt [m].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tools.simulation.raycast import LEVEL
from tools.simulation.solids import Solids, box, crown, cylinder
from tools.simulation.vehicles import Vehicle, make_vehicle, random_size

KERB_M = 0.12
LANE_M = 3.3
SIDE_STREET_M = 9.0  # width of a gap in the houses, pavement edges included
BEHIND_M, AHEAD_M = 90.0, 130.0  # how far the street goes on before and after the drive
HOUSE, PLASTER_SPREAD, ASPHALT, PAVING, BARK, LEAVES, METAL = 0.35, 0.15, 0.32, 0.35, 0.25, 0.3, 0.55
EGO_SPEED_MPS = (4.0, 11.0)
# Rise of the road along and across it, metres per metre, and how far the car's pitch and roll move it on the way:
# together they spread as planes fitted to KITTI's ground do (standard deviations 0.010 and 0.018).
GRADE, SWAY, SWAY_HZ = (0.008, 0.016), (0.006, 0.006), (0.7, 0.4)


@dataclass(frozen=True)
class Street:
    """Everything that stands or moves there.

    Attributes:
        static: houses, pavements, trees, poles, walls.
        vehicles: parked and moving ones.
        ego_y_m: where across the road the sensor drives.
        ego_speed_mps: how fast.
        grade: (2,) float64, mean rise of the ground along x and y as the sensor sees it, metres per metre.
        sway_rad: (2,) float64, phases at which pitch and roll start to swing about it.
    """

    static: Solids
    vehicles: tuple[Vehicle, ...]
    ego_y_m: float
    ego_speed_mps: float
    grade: NDArray[np.float64] = field(default_factory=LEVEL.copy)
    sway_rad: NDArray[np.float64] = field(default_factory=LEVEL.copy)

    def grade_at(self, time_s: float) -> NDArray[np.float64]:
        """(2,) float64 rise of the ground along x and y in the sensor's frame at a time, metres per metre."""
        swing = np.sin(self.sway_rad + 2 * np.pi * np.array(SWAY_HZ) * time_s)
        grade: NDArray[np.float64] = self.grade + np.array(SWAY) * swing
        return grade


def build_street(duration_s: float, rng: np.random.Generator) -> Street:
    """A random street, long enough for a drive of ``duration_s``."""
    speed = rng.uniform(*EGO_SPEED_MPS)
    start, end = -BEHIND_M, speed * duration_s + AHEAD_M
    parking = rng.random(2) < 0.7  # a parked row on the right, on the left
    half_road = LANE_M + 2.2 * parking  # from the middle line to the kerb, right and left
    crossings = _crossings(start, end, rng)
    parts: list[Solids] = []
    vehicles: list[Vehicle] = []
    for side, (kerb, parked) in ((-1, (half_road[0], parking[0])), (1, (half_road[1], parking[1]))):
        pavement = rng.uniform(1.8, 4.0)
        for low, high in _between(crossings, start, end):
            parts.append(_slab(low, high, side * kerb, side * (kerb + pavement)))
            parts += _furniture(low, high, side, kerb, rng)
            parts += _fronts(low, high, side, kerb + pavement, rng)
            if parked:
                vehicles += _parked_row(low + 3, high - 3, side, kerb, rng)
    ego_y = -LANE_M / 2
    vehicles += _traffic(start, end, ego_y, speed, duration_s, rng)
    for crossing in crossings:
        vehicles += _side_street(crossing, half_road, rng)
    grade = rng.normal(0, GRADE)
    return Street(Solids.join(parts), tuple(vehicles), ego_y, speed, grade, rng.uniform(0, 2 * np.pi, 2))


def _crossings(start: float, end: float, rng: np.random.Generator) -> list[float]:
    places, x = [], start + rng.uniform(10, 50)
    while x < end:
        places.append(float(x))
        x += rng.uniform(35, 90)
    return places


def _between(crossings: list[float], start: float, end: float) -> list[tuple[float, float]]:
    """Stretches of x that no side street opens into."""
    edges = [start, *(x + side * SIDE_STREET_M / 2 for x in crossings for side in (-1, 1)), end]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True) if high - low > 4]


def _slab(low: float, high: float, y_a: float, y_b: float) -> Solids:
    return box(((low + high) / 2, (y_a + y_b) / 2, 0), (high - low, abs(y_b - y_a), KERB_M), PAVING)


def _furniture(low: float, high: float, side: int, kerb: float, rng: np.random.Generator) -> list[Solids]:
    """Trees, lamp posts and signs along the kerb."""
    parts, x, trees = [], low + rng.uniform(2, 8), rng.random() < 0.6
    while x < high - 1:
        y = side * (kerb + rng.uniform(0.4, 0.9))
        if trees and rng.random() < 0.7:
            trunk, radius = rng.uniform(2.0, 3.0), rng.uniform(1.2, 2.4)
            parts.append(cylinder((x, y, KERB_M), rng.uniform(0.1, 0.25), trunk, BARK))
            parts.append(crown((x, y, trunk + radius), radius, radius * rng.uniform(0.8, 1.3), LEAVES))
        else:
            parts.append(cylinder((x, y, KERB_M), rng.uniform(0.04, 0.1), rng.uniform(2.2, 6.0), METAL))
        x += rng.uniform(7, 20)
    return parts


def _fronts(low: float, high: float, side: int, edge: float, rng: np.random.Generator) -> list[Solids]:
    """What stands behind the pavement: houses, walls and hedges with gaps."""
    parts, x = [], low
    while x < high - 3:
        width = min(rng.uniform(6, 22), high - x)
        setback = rng.choice([0.0, rng.uniform(2, 6)])
        kind = rng.random()
        paint = HOUSE + rng.uniform(-PLASTER_SPREAD, PLASTER_SPREAD)
        middle = x + width / 2
        if kind < 0.65:
            depth = rng.uniform(8, 12)
            parts.append(
                box((middle, side * (edge + setback + depth / 2), 0), (width, depth, rng.uniform(5, 12)), paint)
            )
        if kind >= 0.65 or setback > 1:
            height = rng.uniform(0.7, 2.2)
            hedge = rng.random() < 0.5
            thickness = 0.8 if hedge else 0.25
            place = (middle, side * (edge + thickness / 2), 0.0)
            parts.append(box(place, (width * 0.92, thickness, height), LEAVES if hedge else paint))
        if kind >= 0.65:  # a garden or yard behind the wall
            for _ in range(rng.integers(1, 5)):
                spot = (x + rng.uniform(0, width), side * (edge + rng.uniform(2, 14)), rng.uniform(0.8, 3.5))
                parts.append(crown(spot, rng.uniform(0.6, 2.0), rng.uniform(0.7, 2.2), LEAVES))
        x += width + rng.choice([0.0, rng.uniform(1, 5)])
    return parts


def _kind(rng: np.random.Generator) -> str:
    return str(rng.choice(["Car", "Van", "Truck"], p=[0.88, 0.09, 0.03]))


def _parked_row(low: float, high: float, side: int, kerb: float, rng: np.random.Generator) -> list[Vehicle]:
    cars, x = [], low + rng.uniform(0, 6)
    density = rng.uniform(0.3, 0.9)
    while x < high - 6:
        kind = "Van" if rng.random() < 0.1 else "Car"
        if rng.random() < density:
            heading = 0.0 if side < 0 or rng.random() < 0.15 else np.pi
            yaw = heading + rng.normal(0, 0.03)
            cars.append(make_vehicle(kind, (x + 2.5, side * (kerb - 1.05 + rng.normal(0, 0.1))), yaw, rng))
        x += 6.6 if kind == "Van" else rng.uniform(5.3, 6.2)
    return cars


def _traffic(
    start: float, end: float, ego_y: float, ego_speed: float, duration_s: float, rng: np.random.Generator
) -> list[Vehicle]:
    """Both lanes; nothing drives where the sensor is."""
    cars, x = [], rng.uniform(9, 30)
    while x < end:
        cars.append(make_vehicle(_kind(rng), (x, ego_y + rng.normal(0, 0.2)), rng.normal(0, 0.02), rng, ego_speed))
        x += rng.uniform(14, 50)
    x = start
    oncoming = rng.uniform(5, 13)
    while x < end + oncoming * duration_s:  # the last to be met is still that far away
        place = (x, -ego_y + rng.normal(0, 0.2))
        cars.append(make_vehicle(_kind(rng), place, np.pi + rng.normal(0, 0.02), rng, oncoming))
        x += rng.uniform(14, 60)
    return cars


def _side_street(
    x: float, half_road: np.ndarray[tuple[int], np.dtype[np.float64]], rng: np.random.Generator
) -> list[Vehicle]:
    """Waiting or parked cars in both mouths of a side street."""
    cars = []
    for side, kerb in ((-1, half_road[0]), (1, half_road[1])):
        y = kerb + rng.uniform(1.5, 6)  # of the end that faces the road
        while y < 33:
            gap = rng.uniform(2, 9)
            if rng.random() < 0.5:
                lane = rng.choice([-1.8, 1.8])
                yaw = (np.pi / 2 if lane > 0 else -np.pi / 2) + rng.normal(0, 0.05)
                kind = _kind(rng)
                size = random_size(kind, rng)
                cars.append(make_vehicle(kind, (x + lane, side * (y + size[0] / 2)), yaw, rng, size_m=size))
                y += size[0]
            y += gap
    return cars
