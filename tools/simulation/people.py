"""People: pedestrians and cyclists from a few solids, with sizes as KITTI's labels have them."""

from __future__ import annotations

import numpy as np

from tools.simulation.actors import Actor, Motion, along_road, in_sight
from tools.simulation.materials import Material
from tools.simulation.plot import Plot
from tools.simulation.roads import Road, Use
from tools.simulation.settings import Setting
from tools.simulation.solids import Solids, box, cylinder, ellipsoid, frustum
from tools.simulation.vehicles import Size, correlated_size

# As vehicles.SIZES_M: 4,454 pedestrians, 1,594 cyclists.
SIZES_M = {
    "Pedestrian": ((0.842, 0.660, 1.760), (0.235, 0.143, 0.113), (0.19, 0.27, 0.13)),
    "Cyclist": ((1.762, 0.597, 1.736), (0.176, 0.125, 0.095), (0.32, 0.37, 0.12)),
}
WALK_MPS, RIDE_MPS = (0.8, 1.7), (3.0, 6.0)
SPAN_S = 12.0  # for how long somebody walks or rides
GROUP_SIZE = 1.6  # mean
CROSSING, STANDING = 0.06, 0.3  # shares: crossing the road; or standing (the rest up to here)


def random_size(kind: str, rng: np.random.Generator) -> Size:
    """Length, width, height [m] of a pedestrian or cyclist, limbs included."""
    return correlated_size(*SIZES_M[kind], rng)


def walker(size_m: Size, rng: np.random.Generator) -> Solids:
    """Somebody on foot around the origin, heading +x; the length of the box is that of the stride."""
    length, width, height = size_m
    shade = rng.uniform(0.2, 1.6, 2)
    stride, arm = max(length / 2 - 0.12, 0.0), width / 2 - 0.06
    swing = 1 if rng.random() < 0.5 else -1
    parts = [
        ellipsoid((0, 0, height - 0.13), (0.1, 0.08, 0.13), Material.CLOTH),
        ellipsoid((0, 0, 0.66 * height), (0.14, min(0.23, arm), 0.19 * height), Material.CLOTH, shade[0]),
    ]
    for side in (1, -1):
        x = side * swing * stride
        parts.append(cylinder((x * 0.8, side * 0.09, 0), 0.075, 0.5 * height, Material.CLOTH, shade[1]))
        parts.append(cylinder((-x * 0.4, side * arm, 0.45 * height), 0.05, 0.35 * height, Material.CLOTH, shade[0]))
    return Solids.join(parts)


def cyclist(size_m: Size, rng: np.random.Generator) -> Solids:
    """Somebody on a bicycle around the origin, heading +x."""
    length, width, height = size_m
    shade = rng.uniform(0.2, 1.6, 2)
    axle = length / 2 - 0.34
    parts = [
        *(ellipsoid((end * axle, 0, 0.34), (0.34, 0.02, 0.34), Material.RUBBER) for end in (1, -1)),
        box((0, 0, 0.5), (1.6 * axle, 0.04, 0.08), Material.METAL),
        box((axle - 0.12, 0, 1.0), (0.05, min(0.5, width), 0.04), Material.METAL),
        frustum((-0.22, 0, 0.85), (0.26, 0.34), (0.24, 0.4), height - 1.15, Material.CLOTH, shade[0], shift_m=0.22),
        ellipsoid((0.08, 0, height - 0.13), (0.12, 0.09, 0.13), Material.CLOTH),
    ]
    for side in (1, -1):
        parts.append(cylinder((-0.08, side * 0.11, 0.12 + 0.1 * (side > 0)), 0.075, 0.75, Material.CLOTH, shade[1]))
        parts.append(box((0.2, side * (width / 2 - 0.06), 1.05), (0.5, 0.08, 0.1), Material.CLOTH, shade[0]))
    return Solids.join(parts)


def on_foot(plot: Plot, road: Road, setting: Setting, ego: Motion, rng: np.random.Generator) -> list[Actor]:
    """Pedestrians on both pavements: walking alone or in groups, standing, a few crossing the road."""
    actors = []
    for side in (-1, 1):
        for start, end in road.free_stretches():
            for _ in range(rng.poisson(setting.people / GROUP_SIZE * (end - start) / 100)):
                group = rng.geometric(1 / GROUP_SIZE)
                along, chance = rng.uniform(start, end), rng.random()
                for _ in range(group):
                    motion: Motion | None
                    if chance < CROSSING:
                        motion = _crosser(road, along, side, ego, rng)
                    elif chance < STANDING:
                        motion = _stander(plot, road, along, side, rng)
                    else:
                        motion = _stroller(plot, road, along, side, WALK_MPS, ego, rng)
                    actors += _person("Pedestrian", motion, ego, rng)
                    along += rng.uniform(0.9, 2.0)
    return actors


def on_bicycles(plot: Plot, road: Road, setting: Setting, ego: Motion, rng: np.random.Generator) -> list[Actor]:
    """Cyclists at the edge of the outer lanes, and on the pavements."""
    actors = []
    for side in (-1, 1):
        for start, end in road.free_stretches():
            for _ in range(rng.poisson(setting.cyclists * (end - start) / 100)):
                along = rng.uniform(start, end)
                motion: Motion | None
                if setting.kerb_m > 0 and rng.random() < 0.5:
                    motion = _stroller(plot, road, along, side, RIDE_MPS, ego, rng)
                else:
                    left = side * (road.section.lane_edge_m(side) - rng.uniform(0.3, 0.6))
                    motion = _passing(road, along, left, -side, rng.uniform(*RIDE_MPS), ego, rng)
                actors += _person("Cyclist", motion, ego, rng)
    return actors


def _person(kind: str, motion: Motion | None, ego: Motion, rng: np.random.Generator) -> list[Actor]:
    if motion is None or not in_sight(motion, ego):
        return []
    size = random_size(kind, rng)
    make, name = (walker, "walker") if kind == "Pedestrian" else (cyclist, "cyclist")
    return [Actor(kind, name, size, make(size, rng), motion)]


def _passing(
    road: Road, along_m: float, left_m: float, direction: int, speed_mps: float, ego: Motion, rng: np.random.Generator
) -> Motion:
    """Along the road at a constant speed, at ``along_m`` about when the ego comes by."""
    here = road.path.at(along_m)[:2]
    nearest = ego.times_s[np.argmin(np.hypot(*(ego.poses[:, :2] - here).T))]
    begin = nearest - rng.uniform(0, SPAN_S)
    times = begin + np.linspace(0, SPAN_S, 25)
    return along_road(road, times, along_m + direction * speed_mps * (times - begin), left_m, direction)


def _stroller(
    plot: Plot,
    road: Road,
    along: float,
    side: int,
    speeds_mps: tuple[float, float],
    ego: Motion,
    rng: np.random.Generator,
) -> Motion | None:
    """Along a pavement either way, if all of the way is free."""
    left = side * rng.uniform(road.section.kerb_edge_m(side) + 0.5, road.section.outer_edge_m(side) - 0.4)
    motion = _passing(road, along, left, int(rng.choice([-1, 1])), rng.uniform(*speeds_mps), ego, rng)
    poses = (motion.poses[1:] + motion.poses[:-1]) / 2
    length = np.hypot(*np.diff(motion.poses[:, :2], axis=0).T) + 1.0
    way = np.column_stack([poses[:, :2], length, np.full(len(poses), 0.7), poses[:, 2]])
    return motion if plot.claim(way, (Use.PAVEMENT, Use.VERGE)) else None


def _stander(plot: Plot, road: Road, along: float, side: int, rng: np.random.Generator) -> Motion | None:
    left = side * rng.uniform(road.section.kerb_edge_m(side) + 0.4, road.section.outer_edge_m(side) + 1.0)
    pose = road.path.at(along, left)
    pose[2] = rng.uniform(0, 2 * np.pi)
    return Motion.standing(pose) if plot.claim(np.array([*pose[:2], 0.8, 0.8, pose[2]])) else None


def _crosser(road: Road, along: float, side: int, ego: Motion, rng: np.random.Generator) -> Motion:
    """Straight across the road from kerb to kerb, at any time of the drive."""
    edges = side * np.array([road.section.kerb_edge_m(side) + 0.5, -road.section.kerb_edge_m(-side) - 0.5])
    begin = rng.uniform(-5, ego.times_s[-1])
    poses = road.path.at(along, edges)
    poses[:, 2] = np.arctan2(*(poses[1, :2] - poses[0, :2])[::-1])
    return Motion(begin + np.array([0, abs(edges[1] - edges[0]) / rng.uniform(*WALK_MPS)]), poses)
