"""A random world for one drive: roads, ground, scenery, traffic and people, and the way that the ego takes.

World frame: x, y, z [m], z up, z = 0 about the road's middle. The ego starts on the main road, MARGIN_M from its begin.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tools.simulation.actors import Actor, Motion, keep_apart
from tools.simulation.people import on_bicycles, on_foot
from tools.simulation.plot import Plot
from tools.simulation.roads import MARGIN_M, lay_roads
from tools.simulation.scenery import build_scenery
from tools.simulation.settings import SETTINGS
from tools.simulation.solids import Solids
from tools.simulation.surface import Surface, lay_ground
from tools.simulation.traffic import drive, lane_traffic, parked_off_road, parked_rows, side_traffic

__all__ = ["Actor", "Motion", "World", "build_world"]

Float64 = NDArray[np.float64]

STOP_CHANCE = 0.25  # that the ego has to stand during a drive in town
# Rise of the road along and across it, metres per metre, and how far the car's pitch and roll move it on the way:
# together they spread as planes fitted to KITTI's ground do (standard deviations 0.010 and 0.018).
GRADE, SWAY, SWAY_HZ = (0.008, 0.016), (0.006, 0.006), (0.7, 0.4)
EGO_LEFT_M = (0.2, 0.12)  # of the middle of its lane: away from the parked row
WET = 0.15  # share of wet roads


@dataclass(frozen=True)
class World:
    """Everything that a drive meets.

    Attributes:
        surface: the ground.
        static: what stands there, in the world's frame.
        actors: who has a label; their places in this tuple are their ``track_id``.
        ego: the motion of the sensor's vehicle, from time 0.
        wet: how wet the road is, 0..1.
        grade: (2,) float64, mean rise of the ground along the ego's x and y, metres per metre.
        sway_rad: (2,) float64, phases at which pitch and roll start to swing about it.
        setting: name of the surroundings.
    """

    surface: Surface
    static: Solids
    actors: tuple[Actor, ...]
    ego: Motion
    wet: float = 0.0
    grade: Float64 = field(default_factory=lambda: np.zeros(2))
    sway_rad: Float64 = field(default_factory=lambda: np.zeros(2))
    setting: str = ""

    def grade_at(self, time_s: float) -> Float64:
        """(2,) float64 rise of the ground along the ego's x and y at a time, metres per metre."""
        swing = np.sin(self.sway_rad + 2 * np.pi * np.array(SWAY_HZ) * time_s)
        grade: Float64 = self.grade + np.array(SWAY) * swing
        return grade


def build_world(duration_s: float, rng: np.random.Generator) -> World:
    """A random world, long enough for a drive of ``duration_s``."""
    setting = SETTINGS[rng.choice(len(SETTINGS), p=[s.share for s in SETTINGS])]
    speed = rng.uniform(*setting.speed_mps)
    network = lay_roads(1.15 * speed * duration_s + 1.0, setting, rng)
    surface, uses = lay_ground(network, rng)
    plot, road = Plot(surface, uses), network.main
    lane = int(rng.integers(road.section.lanes[0]))
    stop_chance = STOP_CHANCE if setting.kerb_m > 0 else 0.0
    progress = drive(road.path, MARGIN_M, speed, duration_s, stop_chance, rng)
    left = road.section.lane_left_m(1, lane) + rng.normal(*EGO_LEFT_M)
    ego = Motion(progress.times_s, road.path.at(progress.along_m, left))

    actors = lane_traffic(network, ego, lane, progress, rng)
    for arm in network.arms:
        actors += side_traffic(arm, ego, rng)
    for beside in network.roads:
        actors += parked_rows(plot, beside, setting, ego, rng)
        actors += on_bicycles(plot, beside, setting, ego, rng)
        actors += on_foot(plot, beside, setting, ego, rng)
    static = build_scenery(network, plot, rng)
    for beside in network.roads:
        actors += parked_off_road(plot, beside, setting, ego, rng)
    actors = keep_apart(actors, ego)
    wet = float(rng.uniform(0.3, 1.0)) if rng.random() < WET else 0.0
    return World(
        surface,
        static,
        tuple(replace(actor, track_id=index) for index, actor in enumerate(actors)),
        ego,
        wet,
        rng.normal(0, GRADE),
        rng.uniform(0, 2 * np.pi, 2),
        setting.name,
    )
