"""One sweep of a sensor through a world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from tools.simulation.actors import EGO_SIZE_M
from tools.simulation.echo import Receiver, gather, receive, surface_optics
from tools.simulation.raycast import cast, count_unoccluded
from tools.simulation.scene import Hits, Rays, Scene, Way, build_scene, build_way
from tools.simulation.sensor import Sensor
from tools.simulation.solids import NO_OWNER, Solids
from tools.simulation.surface import Surface
from tools.simulation.world import World

Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Caster = Callable[[Scene, Rays, Way], Hits]

# Where wheels stand, as shares of length and width.
_WHEELS = np.array([[0.32, 0.4], [0.32, -0.4], [-0.32, 0.4], [-0.32, -0.4]])


@dataclass(frozen=True)
class Sweep:
    """What a sensor gives for one turn, and what is known about it.

    Attributes:
        points: (N, 4) float32: x, y, z [m], intensity 0..0.99, in the frame of the sensor at the moment of each
            point's column; beam by beam, the uppermost first, each from straight ahead to the left all around.
        ring: (N,) int32, beam of each point.
        owner: (N,) int32, index of the actor that it is on, or -1.
        ground: (N,) uint8, kind of ground that it is on, or 255.
        met: (V,) int64, how many beams meet each actor before anything else, whether an echo comes back or not.
        possible: (V,) int64, how many would if it stood alone.
        world_from_lidar: (4, 4) float64, the sensor's pose at the stamp. Its rotation includes mounting and slope.
    """

    points: NDArray[np.float32]
    ring: Int32
    owner: Int32
    ground: NDArray[np.uint8]
    met: NDArray[np.int64]
    possible: NDArray[np.int64]
    world_from_lidar: Float64


def sweep(
    sensor: Sensor,
    world: World,
    time_s: float,
    rng: np.random.Generator,
    half_view_rad: float = np.pi,
    device: str = "cpu",
) -> Sweep:
    """The sweep whose beam looks forward at ``time_s``; see `sensor` for the shutter.

    Args:
        sensor: the LiDAR.
        world: what stands and moves.
        time_s: the stamp.
        rng: gives one number, the seed of all noise, so that a sweep depends on nothing but it, scene and sensor.
        half_view_rad: only columns this close to straight ahead fire.
        device: "cpu" or "cuda", where the rays are cast. Points may differ by a millimetre between the two.

    Raises:
        ConfigError: if there is no such device.
    """
    seed = int(rng.integers(2**32))
    azimuth = azimuths(sensor, half_view_rad)
    rays = rays_of(sensor, world, time_s, azimuth)
    scene, solids, movable = scene_of(sensor, world, time_s)
    way = build_way(scene, rays, sensor.divergence_mrad / 1000, sensor.max_range_m, seed)
    hits = caster(device)(scene, rays, way)
    echoes = receive(hits, surface_optics(solids, world.wet), rays.beam, _receiver(sensor, azimuth), seed)
    owner = np.append(solids.owner, NO_OWNER).astype(np.int32)
    points, ring, owners, ground = gather(echoes, azimuth, rays.beam, owner)
    count = len(world.actors)
    actors_only = scene._replace(bounds=scene.bounds[movable], form=scene.form[movable], shape=scene.shape[movable])
    possible = count_unoccluded(actors_only, owner[:-1][movable], count, rays, way)
    pose = world_from_lidar(sensor, world, time_s)
    return Sweep(points, ring, owners, ground, _met(hits, owner, count), possible, pose)


def caster(device: str) -> Caster:
    """What casts rays on a device; see `sweep`."""
    if device == "cpu":
        return cast
    if device != "cuda":
        raise ConfigError(f"device is '{device}', expected cpu or cuda")
    from tools.simulation.raycast_cuda import cast_cuda, cuda  # the CPU alone needs no numba-cuda

    if not cuda.is_available():
        raise ConfigError("device cuda: no GPU answers here; expected one, and the extra 'gpu', or device cpu")
    return cast_cuda


def azimuths(sensor: Sensor, half_view_rad: float = np.pi) -> Float64:
    """(A,) azimuths of the columns within ``half_view_rad`` of straight ahead, ascending, 0 along x, towards y."""
    turn = (np.arange(sensor.rays_per_turn) + 0.5) / sensor.rays_per_turn * 2 * np.pi - np.pi
    return turn[np.abs(turn) <= half_view_rad]


def ground_under(surface: Surface, poses: Float64, sizes_m: Float64) -> Float64:
    """(V,) float64 height [m] of the ground under things: the mean of the places of their wheels.

    Args:
        surface: the ground.
        poses: (V, 3) float64 x, y [m], yaw [rad] in the world.
        sizes_m: (V, 3) float64 length, width, height.
    """
    along, across = (_WHEELS[:, None] * sizes_m[None, :, :2]).transpose(2, 0, 1)
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    heights = surface.height_at(poses[:, 0] + cos * along - sin * across, poses[:, 1] + sin * along + cos * across)
    mean: Float64 = heights.mean(axis=0)
    return mean


def actor_poses(world: World, time_s: float) -> Float64:
    """(V, 4) float64 x, y, z [m] and yaw [rad] in the world of the points on the ground that actors stand around."""
    poses = np.array([actor.motion.at(time_s) for actor in world.actors]).reshape(-1, 3)
    sizes = np.array([actor.size_m for actor in world.actors]).reshape(-1, 3)
    return np.column_stack([poses[:, :2], ground_under(world.surface, poses, sizes), poses[:, 2]])


def lidar_from_world(sensor: Sensor, world: World, time_s: float, points: Float64) -> Float64:
    """Points (N, 3) of the world, as on level ground, in the sensor's frame at a time, where the slope lifts them."""
    position, yaw = _mounted(sensor, world, time_s)
    level = (points - position) @ _turn(yaw)
    level[:, 2] += level[:, :2] @ world.grade_at(time_s)
    found: Float64 = level @ _mounting(sensor)
    return found


def world_from_lidar(sensor: Sensor, world: World, time_s: float) -> Float64:
    """(4, 4) float64 pose of the sensor: a rotation where the slope is a shear, which are alike for small slopes."""
    position, yaw = _mounted(sensor, world, time_s)
    along, across = world.grade_at(time_s)
    up = np.array([-along, -across, 1]) / np.sqrt(1 + along**2 + across**2)
    ahead = np.array([1, 0, along]) / np.sqrt(1 + along**2)
    level_from_ego = np.stack([np.cross(np.cross(up, ahead), up), np.cross(up, ahead), up])
    pose = np.eye(4)
    pose[:3, :3] = _turn(yaw) @ level_from_ego @ _mounting(sensor)
    pose[:3, 3] = position
    return pose


def lateness_s(sensor: Sensor, azimuth: Float64) -> Float64:
    """How long after the stamp of a sweep the beam looks at azimuths (A,) [s]; negative before it."""
    way_round = -1 if sensor.clockwise else 1
    late: Float64 = way_round * azimuth / (2 * np.pi * sensor.rate_hz)
    return late


def rays_of(sensor: Sensor, world: World, time_s: float, azimuth: Float64) -> Rays:
    """The rays of a sweep's columns (A,), in the frame of the world."""
    late = lateness_s(sensor, azimuth)
    ego = world.ego.at(time_s + late)
    position, _ = _mounted(sensor, world, time_s)
    cos, sin, zero, one = np.cos(ego[:, 2]), np.sin(ego[:, 2]), np.zeros(len(late)), np.ones(len(late))
    origin = np.stack(
        [
            ego[:, 0] + cos * sensor.x_m - sin * sensor.y_m,
            ego[:, 1] + sin * sensor.x_m + cos * sensor.y_m,
            np.full(len(late), position[2]),
        ],
        axis=1,
    )
    # Slope and sway of the ego change little within a turn: linearly.
    half = 0.5 / sensor.rate_hz
    begin, end = world.grade_at(time_s - half), world.grade_at(time_s + half)
    grade = begin + (end - begin) * (late[:, None] / (2 * half) + 0.5)
    shear = np.broadcast_to(np.eye(3), (len(late), 3, 3)).copy()
    shear[:, 2, :2] = -grade
    ca, sa = np.cos(azimuth), np.sin(azimuth)
    spin = np.stack([ca, -sa, zero, sa, ca, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
    turn = np.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
    elevation = np.radians(sensor.elevation_deg)
    height = sensor.beam_height_m or (0.0,) * len(elevation)
    beam = np.stack([np.cos(elevation), np.sin(elevation), height], axis=1)
    return Rays(origin, turn @ shear @ _mounting(sensor) @ spin, late, beam)


def scene_of(sensor: Sensor, world: World, time_s: float) -> tuple[Scene, Solids, NDArray[np.bool_]]:
    """The scene within the sensor's range at the stamp, its solids, and which of them (P,) are actors'."""
    position, _ = _mounted(sensor, world, time_s)
    parts = [_near(world.static, position, sensor.max_range_m)]
    motion = [np.zeros((len(parts[0]), 3))]
    if world.actors:
        actors = Solids.join([actor.solids for actor in world.actors])
        index = np.repeat(np.arange(len(world.actors)), [len(actor.solids) for actor in world.actors])
        poses = actor_poses(world, time_s)[index]
        speeds = np.array([actor.motion.velocity_at(time_s) for actor in world.actors])[index]
        placed = actors.placed(poses[:, :3], poses[:, 3], index)
        # A turning actor's parts also go round its middle.
        lever = placed.base[:, :2] - poses[:, :2]
        speeds[:, :2] += speeds[:, 2:] * np.stack([-lever[:, 1], lever[:, 0]], axis=1)
        near = _is_near(placed, position, sensor.max_range_m)
        parts.append(placed.take(near))
        motion.append(speeds[near])
    solids = Solids.join(parts)
    radius = sensor.max_range_m + np.abs([sensor.x_m, sensor.y_m]).sum() + 10
    scene = build_scene(solids, np.concatenate(motion), world.surface, position[:2], radius)
    return scene, solids, solids.owner != NO_OWNER


def _is_near(solids: Solids, position: Float64, range_m: float) -> NDArray[np.bool_]:
    """Whether each may be met during the turn, in which something moves by some metres."""
    away = np.hypot(*(solids.base[:, :2] - position[:2]).T)
    near: NDArray[np.bool_] = away - solids.reach_m < range_m + 10
    return near


def _near(solids: Solids, position: Float64, range_m: float) -> Solids:
    return solids.take(_is_near(solids, position, range_m))


def _met(hits: Hits, owner: Int32, count: int) -> NDArray[np.int64]:
    """How many beams meet each actor first; ``owner`` of each solid, and NO_OWNER at its end."""
    first = owner[np.maximum(hits.first, -1)]
    return np.bincount(first.ravel() + 1, minlength=count + 1)[1:]


def _mounted(sensor: Sensor, world: World, time_s: float) -> tuple[Float64, float]:
    """The sensor's position (3,) in the world, and the ego's yaw."""
    x, y, yaw = world.ego.at(time_s)
    ground = ground_under(world.surface, np.array([[x, y, yaw]]), np.array([EGO_SIZE_M]))[0]
    offset = _turn(yaw)[:2, :2] @ [sensor.x_m, sensor.y_m]
    return np.array([x + offset[0], y + offset[1], ground + sensor.height_m]), float(yaw)


def _turn(yaw_rad: float) -> Float64:
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _mounting(sensor: Sensor) -> Float64:
    """(3, 3) rotation from the sensor's frame to its vehicle's."""
    roll, pitch, yaw = np.radians([sensor.roll_deg, sensor.pitch_deg, sensor.yaw_deg])
    about_x = np.array([[1, 0, 0], [0, np.cos(roll), -np.sin(roll)], [0, np.sin(roll), np.cos(roll)]])
    about_y = np.array([[np.cos(pitch), 0, np.sin(pitch)], [0, 1, 0], [-np.sin(pitch), 0, np.cos(pitch)]])
    rotation: Float64 = _turn(yaw) @ about_y @ about_x
    return rotation


def _receiver(sensor: Sensor, azimuth: Float64) -> Receiver:
    beams = len(sensor.elevation_deg)
    blind = np.full(len(azimuth), -1.0)
    for start, end, below in sensor.blind_deg:
        inside = np.degrees(azimuth - np.radians(start)) % 360 <= (end - start) % 360
        blind[inside] = np.maximum(blind[inside], np.sin(np.radians(below)))
    # A sensor's own constant errors: the same for all sweeps, so no part of their noise.
    bias = np.random.default_rng(beams).normal(0, 1, beams) * sensor.range_bias_m
    return Receiver(
        gain=np.array(sensor.beam_gain or (1.0,) * beams),
        bias_m=bias,
        blind=blind,
        divergence_rad=sensor.divergence_mrad / 1000,
        **{name: getattr(sensor, name) for name in Receiver._fields if hasattr(sensor, name)},
    )
