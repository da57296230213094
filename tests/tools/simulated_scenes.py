"""Small scenes and sensors with nothing random in them, for the tests of the simulated sensor."""

import numpy as np

from tools.simulation.actors import Actor, Motion
from tools.simulation.raycast import cast
from tools.simulation.scene import Rays, build_scene, build_way
from tools.simulation.sensor import Sensor
from tools.simulation.solids import Solids
from tools.simulation.surface import Surface, level_surface
from tools.simulation.world import World

STILL = Motion.standing(np.zeros(3))
NO_SOLIDS = Solids.join([])
HIGH_M = 50.0  # above the level ground, which no ray from there meets near by


class SteadyWorld(World):
    """A world whose slope does not swing."""

    def grade_at(self, time_s):
        return self.grade


def world_of(static=NO_SOLIDS, actors=(), ego=STILL, surface=None, **more):
    """A world without sway around the origin."""
    return SteadyWorld(surface or level_surface(), static, tuple(actors), ego, **more)


def actor_of(solids, motion, size_m=(4.0, 2.0, 1.5)):
    return Actor("Car", "box", size_m, solids, motion)


def quiet_sensor(elevation_deg, **changes):
    """A sensor that measures exactly, loses nothing, and whose beams are lines."""
    exact = {
        "range_noise_m": 0.0,
        "range_noise_per_m": 0.0,
        "range_bias_m": 0.0,
        "divergence_mrad": 0.0,
        "lost_share": 0.0,
        "half_lost_m": 1e4,
        "intensity_floor": 0.0,
        "fade_per_m": 0.0,
        "smear_per_m": 0.0,
        "intensity_noise": 0.0,
        "rays_per_turn": 720,
        "height_m": 2.0,
        "min_range_m": 0.1,
    }
    return Sensor(tuple(np.atleast_1d(elevation_deg).tolist()), **{**exact, **changes})


def level_rays(azimuth_rad, elevation_rad, origin=(0.0, 0.0, HIGH_M)):
    """Rays of a level sensor that stands still."""
    azimuth, elevation = np.atleast_1d(azimuth_rad), np.atleast_1d(elevation_rad)
    zero, one = np.zeros(len(azimuth)), np.ones(len(azimuth))
    cos, sin = np.cos(azimuth), np.sin(azimuth)
    frame = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
    beam = np.stack([np.cos(elevation), np.sin(elevation), np.zeros(len(elevation))], axis=1)
    return Rays(np.tile(np.array(origin, float), (len(azimuth), 1)), frame, zero, beam)


def cast_level(
    solids, azimuth_rad, elevation_rad=0.0, origin=(0.0, 0.0, HIGH_M), surface=None, seed=0, limit_m=200.0, motion=None
):
    """Hits of exact beams from a level sensor."""
    surface = surface or Surface(np.zeros(2), 1.0, np.zeros((2, 2), np.float32), np.zeros((2, 2), np.uint8))
    rays = level_rays(azimuth_rad, elevation_rad, origin)
    motion = np.zeros((len(solids), 3)) if motion is None else motion
    scene = build_scene(solids, motion, surface, np.array(origin[:2]), limit_m)
    return cast(scene, rays, build_way(scene, rays, 0.0, limit_m, seed))


def range_along(solids, azimuth_rad, elevation_rad=0.0, **more):
    """Range and hit of one level ray."""
    hits = cast_level(solids, azimuth_rad, elevation_rad, **more)
    return hits.range_m[0, 0, 0], hits.hit[0, 0, 0]


def profile(height_of_x, cell_m=0.2, half_m=40.0):
    """A surface whose height depends on x alone, and the middles of its rows."""
    cells = round(2 * half_m / cell_m)
    x = (np.arange(cells) + 0.5) * cell_m - half_m
    height = np.repeat(height_of_x(x)[:, None], cells, axis=1).astype(np.float32)
    return Surface(np.full(2, -half_m), cell_m, height, np.zeros(height.shape, np.uint8)), x
