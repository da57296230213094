"""Augmentation of labelled point clouds. Randomness only through the generator that is passed in.

Ground-truth sampling (Yan et al., SECOND, Sensors 2018) pastes cars of other frames. A pasted car keeps its
range and the side it shows: it is turned about the sensor, set on the local ground, and shadows and is
shadowed like a real one, through a z-buffer over the sensor's viewing directions. A frame's own cars are moved
and turned a little, one by one (Lang et al., PointPillars, CVPR 2019, section 4.3).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.boxes import RECTANGLE, points_in_box, wrap_angle
from kernels.rotated_iou import rotated_iou
from tools.training.dataset import CutObject, LabelledFrame

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# Viewing directions of the z-buffer: about one beam of a 64-beam sensor each.
AZIMUTH_STEP_RAD = np.radians(0.25)
ELEVATION_STEP_RAD = np.radians(0.45)
VIEW_HALF_ANGLE_RAD = float(np.radians(40.0))  # half of the camera's horizontal field of view
SHADOW_MARGIN_M = 0.5
EDGE_M = 0.05  # points so near beside a box move with it


@dataclass(frozen=True)
class AugmentConfig:
    """How strongly frames are varied."""

    pasted_cars: int = 20  # tried per frame; those that collide are dropped
    car_shift_m: float = 0.0  # spread (one sigma) along x and along y, of every car of the frame by itself
    car_turn_rad: float = 0.0  # at most, either way, likewise
    rotation_rad: float = 0.4
    half_turns: float = 0.0  # share of frames that are turned by half a turn besides: what is ahead is behind then
    scale: float = 0.05
    height_m: float = 0.05  # spread (one sigma) of the sensor's height
    beam_dropout: float = 0.1  # share of frames that lose every other beam
    intensity_dropout: float = 0.1  # share of frames that lose their intensity


@dataclass(frozen=True)
class Motion:
    """How a scene was moved as a whole: mirrored, turned about the sensor, scaled, lifted; in this order."""

    mirrored: bool
    angle_rad: float
    scale: float
    lift_m: float

    @classmethod
    def draw(cls, config: AugmentConfig, rng: np.random.Generator) -> Motion:
        """A random one."""
        motion = cls(
            bool(rng.random() < 0.5),
            rng.uniform(-config.rotation_rad, config.rotation_rad),
            rng.uniform(1 - config.scale, 1 + config.scale),
            rng.normal(0, config.height_m),
        )
        if config.half_turns and rng.random() < config.half_turns:
            return replace(motion, angle_rad=motion.angle_rad + np.pi)
        return motion

    def move(self, points: Float32, boxes: Float32) -> None:
        """Moves points and boxes in place."""
        if self.mirrored:
            mirror(points, boxes)
        turn(points, boxes, self.angle_rad)
        points[:, :3] *= self.scale
        boxes[:, :6] *= self.scale
        points[:, 2] += np.float32(self.lift_m)
        boxes[:, 2] += np.float32(self.lift_m)

    def origin_of(self, x_m: Float64, y_m: Float64) -> tuple[Float64, Float64]:
        """Where places on the ground were before."""
        cos, sin = np.cos(self.angle_rad) / self.scale, np.sin(self.angle_rad) / self.scale
        return cos * x_m + sin * y_m, (cos * y_m - sin * x_m) * (-1 if self.mirrored else 1)


class Varied(NamedTuple):
    """A varied frame: points (N, 4), boxes (M, 7), counted (M,) as in `LabelledFrame`, and how it was moved."""

    points: Float32
    boxes: Float32
    counted: NDArray[np.bool_]
    motion: Motion


def augment(frame: LabelledFrame, objects: list[CutObject], config: AugmentConfig, rng: np.random.Generator) -> Varied:
    """A varied copy of a frame."""
    points, boxes, counted = frame.points.copy(), frame.boxes.copy(), frame.counted
    if config.car_shift_m or config.car_turn_rad:
        points = move_cars(points, boxes, config, rng)
    if objects:
        half_angle_rad = np.pi if frame.surround else VIEW_HALF_ANGLE_RAD
        points, boxes, counted = paste_cars(points, boxes, counted, objects, config.pasted_cars, rng, half_angle_rad)
    motion = Motion.draw(config, rng)
    motion.move(points, boxes)
    if rng.random() < config.beam_dropout:
        points = points[_view(points)[1] % 2 == 0]
    if rng.random() < config.intensity_dropout:
        points[:, 3] = 0
    return Varied(points, boxes, counted, motion)


def mirror(points: Float32, boxes: Float32) -> None:
    """Left becomes right, in place."""
    points[:, 1] *= -1
    boxes[:, 1] *= -1
    boxes[:, 6] *= -1


def turn(points: Float32, boxes: Float32, angle_rad: float) -> None:
    """Rotates points and boxes about the sensor's z axis, in place."""
    _rotate(points, angle_rad)
    _rotate(boxes, angle_rad)
    boxes[:, 6] = wrap_angle(boxes[:, 6] + angle_rad)


def _rotate(rows: Float32, angle_rad: float) -> None:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    rows[:, :2] = rows[:, :2] @ np.array([[cos, sin], [-sin, cos]], np.float32)


def move_cars(points: Float32, boxes: Float32, config: AugmentConfig, rng: np.random.Generator) -> Float32:
    """Shifts and turns every car by itself, with its points, but for those that would touch another.

    Args:
        points: (N, 4) float32; left as they are.
        boxes: (M, 7) float32; changed in place.
        config: how far.
        rng: the only source of randomness.

    Returns:
        The points of the moved scene, (K, 4): without those that stood where a car is now.
    """
    points, gone = points.copy(), np.zeros(len(points), bool)
    for index, box in enumerate(boxes):
        moved = box.copy()
        moved[:2] += rng.normal(0, config.car_shift_m, 2)
        angle_rad = rng.uniform(-config.car_turn_rad, config.car_turn_rad)
        moved[6] = wrap_angle(box[6] + angle_rad)
        room = moved[None, RECTANGLE] + np.float32([0, 0, 4 * EDGE_M, 4 * EDGE_M, 0])
        if rotated_iou(room, np.delete(boxes, index, 0)[:, RECTANGLE]).any():
            continue
        # Whole sweeps hold dozens of cars: only points near one are asked.
        reach_m = np.hypot(*(box[3:5] / 2 + EDGE_M)) + np.hypot(*(moved[:2] - box[:2]))
        near = (np.abs(points[:, 0] - box[0]) <= reach_m) & (np.abs(points[:, 1] - box[1]) <= reach_m)
        near = np.flatnonzero(near & ~gone)
        is_own = points_in_box(points[near], box, EDGE_M)
        own, others = near[is_own], near[~is_own]
        car = points[own]
        car[:, :2] -= box[:2]
        _rotate(car, angle_rad)
        car[:, :2] += moved[:2]
        points[own] = car
        gone[others[points_in_box(points[others], moved, EDGE_M)]] = True
        boxes[index] = moved
    return points[~gone]


def paste_cars(
    points: Float32,
    boxes: Float32,
    counted: NDArray[np.bool_],
    objects: list[CutObject],
    tries: int,
    rng: np.random.Generator,
    half_angle_rad: float = VIEW_HALF_ANGLE_RAD,
) -> tuple[Float32, Float32, NDArray[np.bool_]]:
    """Up to ``tries`` cars of other frames, within an angle of straight ahead, each where it collides with nothing.

    Returns new arrays.
    """
    for choice in rng.integers(0, len(objects), tries):
        pasted, box = objects[choice].points.copy(), objects[choice].box[None].copy()
        if rng.random() < 0.5:
            mirror(pasted, box)
        azimuth = np.arctan2(box[0, 1], box[0, 0])
        turn(pasted, box, rng.uniform(-half_angle_rad, half_angle_rad) - azimuth)
        ground_z = local_ground(points, box[0])
        if ground_z is None or _collides(points, boxes, box[0], ground_z):
            continue
        lift = ground_z - (box[0, 2] - box[0, 5] / 2)
        pasted[:, 2] += lift
        box[0, 2] += lift
        # What stood on the spot (its ground points, mostly) goes, then both hide what lies behind them.
        points = points[~points_in_box(points, box[0], 0.1)]
        background, seen = hide(points, pasted), hide(pasted, points)
        if len(seen) < 5:
            continue
        points = np.concatenate([background, seen])
        boxes = np.concatenate([boxes, box])
        counted = np.append(counted, True)
    return points, boxes, counted


def local_ground(points: Float32, box: Float32, radius_m: float = 3.5) -> float | None:
    """Height [m] of the ground around a box, or None where no ground is seen near it."""
    near = (np.abs(points[:, 0] - box[0]) < radius_m) & (np.abs(points[:, 1] - box[1]) < radius_m)
    if near.sum() < 8:
        return None
    return float(np.percentile(points[near, 2], 10))


def hide(points: Float32, blockers: Float32) -> Float32:
    """The points that no blocker stands before, as the sensor at the origin sees them."""
    azimuth_b, elevation_b, range_b = _view(blockers)
    azimuth, elevation, range_m = _view(points)
    low = max(azimuth.min(), azimuth_b.min()), max(elevation.min(), elevation_b.min())
    high = min(azimuth.max(), azimuth_b.max()), min(elevation.max(), elevation_b.max())

    def in_view_of_both(azimuth: NDArray[np.int64], elevation: NDArray[np.int64]) -> NDArray[np.intp]:
        inside = (azimuth >= low[0]) & (azimuth <= high[0]) & (elevation >= low[1]) & (elevation <= high[1])
        return np.flatnonzero(inside)

    blocking, candidates = in_view_of_both(azimuth_b, elevation_b), in_view_of_both(azimuth, elevation)
    if not len(blocking) or not len(candidates):
        return points
    nearest = np.full((high[0] - low[0] + 1, high[1] - low[1] + 1), np.inf)
    np.minimum.at(nearest, (azimuth_b[blocking] - low[0], elevation_b[blocking] - low[1]), range_b[blocking])
    limit = nearest[azimuth[candidates] - low[0], elevation[candidates] - low[1]]
    hidden = np.zeros(len(points), bool)
    hidden[candidates] = range_m[candidates] > limit + SHADOW_MARGIN_M
    return points[~hidden]


def _view(points: Float32) -> tuple[NDArray[np.int64], NDArray[np.int64], Float32]:
    flat = np.hypot(points[:, 0], points[:, 1])
    azimuth = np.floor(np.arctan2(points[:, 1], points[:, 0]) / AZIMUTH_STEP_RAD).astype(np.int64)
    elevation = np.floor(np.arctan2(points[:, 2], flat) / ELEVATION_STEP_RAD).astype(np.int64)
    return azimuth, elevation, np.hypot(flat, points[:, 2])


def _collides(points: Float32, boxes: Float32, box: Float32, ground_z: float) -> bool:
    """Whether a box stands too near another, or on something that rises from the ground."""
    reach = 0.5 * (np.hypot(boxes[:, 3], boxes[:, 4]) + np.hypot(box[3], box[4]))
    apart = np.hypot(boxes[:, 0] - box[0], boxes[:, 1] - box[1])
    # Parallel neighbours may be nearer than their circumcircles, as on a car park.
    if (apart < np.minimum(reach, 3.0 + 0 * reach)).any() or ((apart < reach) & (apart < 5.0)).any():
        return True
    body = box.copy()
    body[2], body[5] = ground_z + 1.05, 1.5  # from 0.3 m to 1.8 m above the ground
    return int(points_in_box(points, body, 0.2).sum()) > 3
