"""What moves or could: actors, their motions, and the test that keeps them apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.simulation.roads import Road
from tools.simulation.solids import Solids

Float64 = NDArray[np.float64]

SIGHT_M = 110.0  # actors that never come this near to the ego are left out
CHECK_S = 0.1  # between the times at which actors must keep apart
EGO_SIZE_M = (4.8, 1.9, 1.6)


@dataclass(frozen=True)
class Motion:
    """Where something is over time.

    Attributes:
        times_s: (T,) float64, ascending.
        poses: (T, 3) float64 x, y [m] and yaw [rad, unwrapped] in the world.
    """

    times_s: Float64
    poses: Float64

    @classmethod
    def standing(cls, pose: Float64) -> Motion:
        """A motion that stays at one pose (3,)."""
        return cls(np.zeros(1), np.asarray(pose, np.float64).reshape(1, 3))

    @property
    def moves(self) -> bool:
        """Whether it ever changes."""
        return len(self.times_s) > 1

    def at(self, time_s: float | Float64) -> Float64:
        """(..., 3) float64 x, y, yaw at times; linear between samples, constant outside them."""
        return np.stack([np.interp(time_s, self.times_s, column) for column in self.poses.T], axis=-1)

    def velocity_at(self, time_s: float) -> Float64:
        """(3,) float64 x and y velocity [m/s] and yaw rate [rad/s]; 0 where the motion is constant."""
        after = int(np.searchsorted(self.times_s, time_s, side="right"))
        if after in (0, len(self.times_s)):
            return np.zeros(3)
        step = self.poses[after] - self.poses[after - 1]
        velocity: Float64 = step / (self.times_s[after] - self.times_s[after - 1])
        return velocity


@dataclass(frozen=True)
class Actor:
    """Somebody or something with a label.

    Attributes:
        kind: KITTI's class name.
        body: what it looks like ("saloon", "lorry", "walker", …).
        size_m: length, width, height of its box.
        solids: its parts around the middle of its footprint, heading +x, standing on z = 0.
        motion: where it is.
        track_id: its number in the world, from 0.
    """

    kind: str
    body: str
    size_m: tuple[float, float, float]
    solids: Solids
    motion: Motion
    track_id: int = -1


def in_sight(motion: Motion, ego: Motion) -> bool:
    """Whether something comes near to the ego during its drive."""
    times = ego.times_s[::5] if motion.moves else ego.times_s[::10]
    gap = motion.at(times)[:, :2] - ego.at(times)[:, :2]
    return bool((np.hypot(gap[:, 0], gap[:, 1]) < SIGHT_M).any())


def along_road(road: Road, times_s: Float64, along_m: Float64, left_m: float, direction: int = 1) -> Motion:
    """The motion along a road at a constant distance to its left; ``direction`` -1 heads against the path."""
    poses = road.path.at(along_m, left_m)
    poses[:, 2] += np.pi * (direction < 0)
    return Motion(times_s, poses)


def overlapping(a: Float64, b: Float64) -> NDArray[np.bool_]:
    """(K,) whether rectangles (K, 5) of x, y, length, width, yaw overlap, pair by pair (separating axes)."""
    apart = np.zeros(len(a), bool)
    offset = b[:, :2] - a[:, :2]
    axes = [np.stack([np.cos(r[:, 4] + t), np.sin(r[:, 4] + t)], axis=1) for r in (a, b) for t in (0, np.pi / 2)]
    for axis in axes:
        reach = np.zeros(len(a))
        for r, (forward, left) in ((a, axes[:2]), (b, axes[2:])):
            reach += (
                np.abs((forward * axis).sum(axis=1)) * r[:, 2] / 2 + np.abs((left * axis).sum(axis=1)) * r[:, 3] / 2
            )
        apart |= np.abs((offset * axis).sum(axis=1)) > reach
    return ~apart


def keep_apart(actors: list[Actor], ego: Motion, margin_m: float = 0.2) -> list[Actor]:
    """Leaves out actors that touch the ego or an earlier actor at any time; standing ones are apart from each other."""
    times = np.arange(0.0, ego.times_s[-1] + CHECK_S, CHECK_S)
    motions = [ego, *(actor.motion for actor in actors)]
    sizes = np.array([EGO_SIZE_M, *(actor.size_m for actor in actors)])[:, :2] + margin_m
    reach = np.hypot(sizes[:, 0], sizes[:, 1]) / 2
    poses = np.stack([np.broadcast_to(m.at(times if m.moves else times[0]), (len(times), 3)) for m in motions])
    low, high = poses[..., :2].min(axis=1) - reach[:, None], poses[..., :2].max(axis=1) + reach[:, None]
    kept = np.ones(len(motions), bool)
    for index in range(1, len(motions)):
        near = kept[:index] & (low[:index] < high[index]).all(axis=1) & (high[:index] > low[index]).all(axis=1)
        if not motions[index].moves:
            near &= np.array([motion.moves for motion in motions[:index]])
        others = np.nonzero(near)[0]
        gap = poses[others, :, :2] - poses[index, :, :2]
        close = np.hypot(gap[..., 0], gap[..., 1]) < (reach[others] + reach[index])[:, None]
        who, when = np.nonzero(close)
        rows = [
            np.column_stack([poses[of, when, :2], np.broadcast_to(sizes[of], (len(when), 2)), poses[of, when, 2]])
            for of in (others[who], np.full(len(who), index))
        ]
        kept[index] = not overlapping(*rows).any()
    return [actor for actor, keep in zip(actors, kept[1:], strict=True) if keep]
