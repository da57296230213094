"""Vehicles on and beside the roads: the ego's drive, columns in the lanes, side streets, parked rows, yards.

Vehicles of a lane follow each other as in Newell's car-following model ("A simplified car-following theory",
Transportation Research B 36, 2002): each does what the one ahead did, later and a gap behind. So a column brakes,
queues and starts again without ever colliding, and where everybody is has a closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.simulation.actors import EGO_SIZE_M, Actor, Motion, along_road, in_sight
from tools.simulation.plot import Plot
from tools.simulation.roads import ARM_M, Network, Path, Road, Use
from tools.simulation.settings import Setting
from tools.simulation.vehicles import Size, body, random_size

Float64 = NDArray[np.float64]

SAMPLE_S = 0.1  # of the ego's motion
ACTOR_SAMPLE_S = 0.25
SIDEWAYS_MPS2 = 2.2  # acceleration that drivers bear in a bend
BRAKE_MPS2, START_MPS2 = 2.2, 1.6
# Chances of KITTI's classes Car, Van, Truck, driving and parked. Of KITTI's labels 88, 9 and 3 % are such, but
# large vehicles are seen farther away.
KINDS = ("Car", "Van", "Truck")
DRIVING, PARKED = (0.855, 0.115, 0.03), (0.885, 0.105, 0.01)
PLATOON = 0.2  # chance that a vehicle is right behind another
KERBSIDE = (Use.PARKING, Use.PAVEMENT, Use.VERGE)


@dataclass(frozen=True)
class Progress:
    """Distance over time: (T,) float64 times [s] and metres; before and after, the speed stays as it is."""

    times_s: Float64
    along_m: Float64

    def at(self, time_s: Float64) -> Float64:
        """Metres at times."""
        t, s = self.times_s, self.along_m
        first, last = (s[1] - s[0]) / (t[1] - t[0]), (s[-1] - s[-2]) / (t[-1] - t[-2])
        inside = np.interp(time_s, t, s)
        along: Float64 = inside + first * np.minimum(time_s - t[0], 0) + last * np.maximum(time_s - t[-1], 0)
        return along


def drive(
    path: Path, start_m: float, speed_mps: float, duration_s: float, stop_chance: float, rng: np.random.Generator
) -> Progress:
    """A drive along a path: slower in bends, wavering, with a chance to stand for a while."""
    places = np.arange(len(path.points_m) - 1) * (path.length_m / (len(path.points_m) - 1))
    bend = np.abs(path.curvature_at(places))
    squared = SIDEWAYS_MPS2 / np.maximum(bend, 1e-4)
    # Brake early enough for every bend to come.
    ahead = np.minimum.accumulate((squared + 2 * BRAKE_MPS2 * places)[::-1])[::-1] - 2 * BRAKE_MPS2 * places
    limit = np.sqrt(ahead)
    halt = rng.uniform(-5, max(duration_s, 20.0)) if rng.random() < stop_chance else np.inf
    halt_end = halt + rng.uniform(2, 12)
    phase = rng.uniform(0, 2 * np.pi)
    times = np.arange(0.0, duration_s + SAMPLE_S, SAMPLE_S)
    wish = speed_mps * (1 + 0.12 * np.sin(phase + 0.35 * times)) * ((times < halt) | (times > halt_end))
    along = np.empty(len(times))
    along[0], speed = start_m, 0.0 if halt <= 0 else min(wish[0], float(np.interp(start_m, places, limit)))
    for index in range(1, len(times)):
        goal = min(wish[index], float(np.interp(along[index - 1], places, limit)))
        speed += float(np.clip(goal - speed, -1.3 * BRAKE_MPS2 * SAMPLE_S, START_MPS2 * SAMPLE_S))
        along[index] = along[index - 1] + speed * SAMPLE_S
    return Progress(times, along)


def vehicle(kind: str, size_m: Size, motion: Motion, rng: np.random.Generator) -> Actor:
    """An actor with a random body."""
    name, solids = body(kind, size_m, rng)
    return Actor(kind, name, size_m, solids, motion)


def lane_traffic(
    network: Network, ego: Motion, ego_lane: int, progress: Progress, rng: np.random.Generator
) -> list[Actor]:
    """Columns in all lanes of the main road; the ego is one of its column."""
    setting, road = network.setting, network.main
    duration_s, length = float(ego.times_s[-1]), road.path.length_m
    actors = []
    for direction in (1, -1):
        for lane in range(road.section.lanes[direction < 0]):
            follows_ego = direction == 1 and lane == ego_lane
            if follows_ego:
                column = progress
            else:
                start = progress.along_m[0] if direction > 0 else length - progress.along_m[0]
                way = road.path if direction > 0 else _reversed(road.path)
                column = drive(way, start, rng.uniform(*setting.speed_mps), duration_s, 0.1, rng)
            actors += _column(road, ego, direction, lane, column, setting, rng)
    return actors


def _reversed(path: Path) -> Path:
    return Path(path.points_m[::-1], path.yaw_rad[::-1] + np.pi)


def _column(
    road: Road, ego: Motion, direction: int, lane: int, column: Progress, setting: Setting, rng: np.random.Generator
) -> list[Actor]:
    """Vehicles ahead of and behind one that drives as ``column`` says, which is left out."""
    headway_s, speed_mps = setting.headway_s[direction < 0], sum(setting.speed_mps) / 2
    times = np.arange(0.0, ego.times_s[-1] + ACTOR_SAMPLE_S, ACTOR_SAMPLE_S)
    length, actors = road.path.length_m, []
    for way in (1, -1):
        gap_m, delay_s, last = 0.0, 0.0, EGO_SIZE_M[0]
        while True:
            kind = str(rng.choice(KINDS, p=DRIVING))
            size = random_size(kind, rng)
            gap_m += (last + size[0]) / 2 + rng.uniform(1.5, 4)
            if rng.random() < PLATOON:
                delay_s += rng.uniform(0.7, 2)
            else:  # half of a long gap is one of distance, which stays when the column stands
                headway = rng.exponential(headway_s)
                delay_s, gap_m = delay_s + headway / 2, gap_m + headway / 2 * speed_mps
            last = size[0]
            travelled = column.at(times + way * delay_s) + way * gap_m
            if (travelled[0] > length) if way > 0 else (travelled[-1] < 0):
                break
            left = road.section.lane_left_m(direction, lane) + rng.normal(0, 0.12)
            motion = along_road(road, times, travelled if direction > 0 else length - travelled, left, direction)
            if in_sight(motion, ego):
                actors.append(vehicle(kind, size, motion, rng))
    return actors


def side_traffic(arm: Road, ego: Motion, rng: np.random.Generator) -> list[Actor]:
    """Vehicles that wait to leave a side street, the last of them maybe just arriving, and one that drove into it."""
    clear, actors = arm.junctions[0][1], []
    place, duration_s = clear - 1.0, float(ego.times_s[-1])
    for _ in range(rng.geometric(0.55) - 1):
        kind = str(rng.choice(KINDS, p=DRIVING))
        size = random_size(kind, rng)
        place += size[0] / 2
        arriving = rng.random() < 0.3
        begin, speed = rng.uniform(-8, duration_s), rng.uniform(4, 8)
        stops = np.array([place + rng.uniform(25, 60), place]) if arriving else np.array([place, place])
        times = begin + np.array([0.0, (stops[0] - place) / speed + 1e-3])
        motion = along_road(arm, *_resampled(times, stops), arm.section.lane_left_m(-1, 0), -1)
        actors.append((kind, size, motion))
        place += size[0] / 2 + rng.uniform(1.2, 4)
        if arriving:
            break
    if rng.random() < 0.4:
        kind = str(rng.choice(KINDS, p=DRIVING))
        size, begin = random_size(kind, rng), rng.uniform(-8, duration_s)
        stops = np.array([clear + size[0] / 2 + rng.uniform(0, 30), ARM_M - 3])
        times = begin + np.array([0.0, (stops[1] - stops[0]) / rng.uniform(4, 9)])
        motion = along_road(arm, *_resampled(times, stops), arm.section.lane_left_m(1, 0))
        actors.append((kind, size, motion))
    return [vehicle(kind, size, motion, rng) for kind, size, motion in actors if in_sight(motion, ego)]


def _resampled(times_s: Float64, along_m: Float64) -> tuple[Float64, Float64]:
    """A motion between two places, with samples enough for a bend; a single one where it stands."""
    if along_m[0] == along_m[-1]:
        return times_s[:1], along_m[:1]
    share = np.linspace(0, 1, 25)
    return times_s[0] + share * (times_s[-1] - times_s[0]), along_m[0] + share * (along_m[-1] - along_m[0])


def parked_rows(plot: Plot, road: Road, setting: Setting, ego: Motion, rng: np.random.Generator) -> list[Actor]:
    """Parked vehicles in the bays of both sides, along the road or across it where the bays are deep."""
    actors = []
    for side in (-1, 1):
        bay_m = road.section.parking_m[side > 0]
        taken = rng.uniform(*setting.parked)
        if bay_m == 0:
            continue
        for start, end in road.free_stretches():
            along = start + rng.uniform(0, 3)
            while along < end - 4:
                kind, size = _parked_kind(rng)
                across = bay_m > 4
                step = size[1] + rng.uniform(0.6, 1.1) if across else size[0] + rng.uniform(0.5, 1.8)
                kerb, edge = road.section.kerb_edge_m(side), rng.uniform(0.05, 0.3)
                left = side * (kerb - edge - (size[0] if across else size[1]) / 2)
                turn = rng.choice([-1, 1]) * np.pi / 2 if across else np.pi * (rng.random() < (0.93, 0.07)[side < 0])
                pose = road.path.at(along + step / 2, left)
                pose[2] += turn + rng.normal(0, 0.03)
                if rng.random() < taken and along + step < end:
                    actors += _parked(plot, kind, size, pose, KERBSIDE, ego, rng)
                along += step
    return actors


def parked_off_road(plot: Plot, road: Road, setting: Setting, ego: Motion, rng: np.random.Generator) -> list[Actor]:
    """Vehicles on driveways and yards behind the pavement, alone or in rows, mostly across the road."""
    actors = []
    for side in (-1, 1):
        for along in rng.uniform(0, road.path.length_m, rng.poisson(setting.off_road * road.path.length_m / 100)):
            beyond = road.section.outer_edge_m(side) + rng.uniform(0.5, 12)
            row = rng.integers(3, 9) if rng.random() < 0.2 else 1
            turn = np.pi / 2 * (rng.integers(0, 4) if row == 1 and rng.random() < 0.4 else rng.choice([-1, 1]))
            for place in range(row):
                kind, size = _parked_kind(rng)
                pose = road.path.at(along + 2.7 * place, side * (beyond + size[0] / 2))
                pose[2] += turn + rng.normal(0, 0.06)
                actors += _parked(plot, kind, size, pose, (Use.OPEN,), ego, rng)
    return actors


def _parked_kind(rng: np.random.Generator) -> tuple[str, Size]:
    kind = str(rng.choice(KINDS, p=PARKED))
    return kind, random_size(kind, rng)


def _parked(
    plot: Plot, kind: str, size: Size, pose: Float64, allowed: tuple[Use, ...], ego: Motion, rng: np.random.Generator
) -> list[Actor]:
    """One vehicle if its place is free, else none."""
    motion = Motion.standing(pose)
    if not plot.claim(np.array([*pose[:2], *size[:2], pose[2]]), allowed) or not in_sight(motion, ego):
        return []
    return [vehicle(kind, size, motion, rng)]
