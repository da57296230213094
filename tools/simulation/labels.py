"""What a sweep shows of each actor, and the KITTI labels that annotators would make of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.boxes import image_boxes, labels_from_boxes, wrap_angle
from detector.calibration import Calibration
from detector.labels import KittiLabels
from tools.simulation.sensor import Sensor
from tools.simulation.sweep import Sweep, actor_poses, lateness_s, lidar_from_world
from tools.simulation.world import World

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

# Share of an actor's beams that nothing blocks, down to which it counts as visible, as partly occluded. With these
# bounds 60, 23 and 17 % of simulated cars have the levels 0, 1 and 2; of KITTI's 47, 28 and 22 %.
VISIBLE, PARTLY = 0.8, 0.4
# An actor with fewer points in the camera's view is not labelled. KITTI's annotators labelled a car with 5 points near
# by, but left out much of what is far: with these numbers labels of cars thin out with range about as KITTI's do.
FAR_M = 40.0
MIN_POINTS, MIN_POINTS_FAR = 5, 12
MAX_TRUNCATED = 0.95


@dataclass(frozen=True)
class Objects:
    """The actors within a sensor's range in a sweep, seen or not, all round.

    Attributes:
        kinds: V class names, KITTI's.
        track_ids: (V,) int64, the same for an actor in all frames of a world, and for no other.
        index: (V,) int64, which of the world's actors each is.
        boxes: (V, 7) float64 in the frame of the sensor, around the points; columns are those of `detector.types`.
        hits: (V,) int64, points on each.
        visible: (V,) float64, share of the beams that would meet it if it stood alone, and do; 0 where none would.
    """

    kinds: tuple[str, ...]
    track_ids: Int64
    index: Int64
    boxes: Float64
    hits: Int64
    visible: Float64

    def __len__(self) -> int:
        return len(self.kinds)

    def select(self, keep: NDArray[np.bool_]) -> Objects:
        """Only those where ``keep`` (V,) bool is true."""
        kinds = tuple(kind for kind, kept in zip(self.kinds, keep, strict=True) if kept)
        arrays = (self.track_ids, self.index, self.boxes, self.hits, self.visible)
        return Objects(kinds, *(array[keep] for array in arrays))

    @property
    def occluded(self) -> Int64:
        """(V,) int64, KITTI's levels: 0 visible, 1 partly, 2 largely occluded.

        They count beams, not echoes: glass and distance lose echoes without hiding anything.
        """
        return np.select([self.visible > VISIBLE, self.visible > PARTLY], [0, 1], 2)


def find_objects(sweep: Sweep, sensor: Sensor, world: World, time_s: float) -> Objects:
    """The objects of a sweep of ``sensor`` through ``world`` at ``time_s``; their hits are all its points on them."""
    boxes = met_boxes(sensor, world, time_s)
    near = np.nonzero(np.hypot(boxes[:, 0], boxes[:, 1]) < sensor.max_range_m)[0]
    actors = [world.actors[index] for index in near]
    hits = count_hits(sweep, world)
    visible = sweep.met / np.maximum(sweep.possible, 1)
    return Objects(
        kinds=tuple(actor.kind for actor in actors),
        track_ids=np.array([actor.track_id for actor in actors], np.int64),
        index=near,
        boxes=boxes[near],
        hits=hits[near],
        visible=visible[near],
    )


def count_hits(sweep: Sweep, world: World) -> Int64:
    """(V,) int64, points of a sweep on each of the world's actors."""
    return np.bincount(sweep.owner[sweep.owner >= 0], minlength=len(world.actors))


def met_boxes(sensor: Sensor, world: World, time_s: float) -> Float64:
    """(V, 7) float64 boxes around the points that a sweep stamped ``time_s`` has on actors, as annotators draw them.

    The beam comes by before the stamp or after it, from another place of the ego: each box is that of the moment when
    it looks at the middle. Within half a turn boxes move on linearly in the sensor's frame, to a few centimetres.
    """
    half_s = 0.5 / sensor.rate_hz
    before, now, after = (actor_boxes(sensor, world, time_s + late_s) for late_s in (-half_s, 0.0, half_s))
    share = lateness_s(sensor, np.arctan2(now[:, 1], now[:, 0])) / half_s
    step = np.where(share[:, None] < 0, now - before, after - now)
    step[:, 6] = wrap_angle(step[:, 6])
    boxes: Float64 = now + share[:, None] * step
    boxes[:, 6] = wrap_angle(boxes[:, 6])
    return boxes


def actor_boxes(sensor: Sensor, world: World, time_s: float) -> Float64:
    """(V, 7) float64 boxes of all actors in the frame of the sensor; columns are those of `detector.types`."""
    sizes = np.array([actor.size_m for actor in world.actors]).reshape(-1, 3)
    poses = actor_poses(world, time_s)
    centre = poses[:, :3] + np.array([0, 0, 0.5]) * sizes
    ahead = np.column_stack([np.cos(poses[:, 3]), np.sin(poses[:, 3]), np.zeros(len(poses))])
    here, there = (lidar_from_world(sensor, world, time_s, points) for points in (centre, centre + ahead))
    heading = there - here
    return np.column_stack([here, sizes, np.arctan2(heading[:, 1], heading[:, 0])])


def label_objects(objects: Objects, calibration: Calibration) -> KittiLabels:
    """Labels of what the camera sees: truncation from the image, occlusion from the blocked beams.

    Args:
        objects: whose hits are those in the camera's view.
        calibration: of the camera.
    """
    objects = _with_enough_points(objects)
    labels, seen = labels_from_boxes(objects.boxes, calibration, objects.kinds)
    whole, _ = image_boxes(objects.boxes, calibration, clip=False)
    area, whole_area = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (labels.boxes_2d, whole))
    truncated = np.round(1 - area / np.maximum(whole_area, 1e-9), 2)
    known = replace(labels, truncated=truncated, occluded=objects.occluded.astype(np.float64))
    return known.select(seen & (truncated < MAX_TRUNCATED))


def label_all_round(objects: Objects, calibration: Calibration) -> KittiLabels:
    """Labels of everything around the sensor: nothing is truncated; what the camera does not see has an empty 2D box.

    Args:
        objects: whose hits are those of the whole sweep.
        calibration: in whose camera's frame the labels are.
    """
    objects = _with_enough_points(objects)
    labels, _ = labels_from_boxes(objects.boxes, calibration, objects.kinds)
    return replace(labels, truncated=np.zeros(len(labels)), occluded=objects.occluded.astype(np.float64))


def _with_enough_points(objects: Objects) -> Objects:
    """Those on which annotators would find points enough."""
    far = np.hypot(objects.boxes[:, 0], objects.boxes[:, 1]) > FAR_M
    return objects.select(objects.hits >= np.where(far, MIN_POINTS_FAR, MIN_POINTS))
