"""`estimate_sensor`: how the LiDAR of a recording is mounted and scaled, from a few of its frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.config import SensorConfig
from detector.frame_checks import INTENSITY_SCALES
from detector.ground import GroundPlane, ground_plane

Float32 = NDArray[np.float32]

# Within this the ground is where the network learned it: less than a height bin of KITTI's grid, and what ten frames in
# a row may be off by, where the vehicle brakes or leaves a slope (0.13 m once in KITTI's drive 0005).
SAME_HEIGHT_M = 0.15
MOST_TILT_DEG = 2.5  # roads slope less, as a median over frames
HIGH_SHARE = 0.999  # of all points: the highest intensities are those of signs and number plates, and of errors
LEAST_REACH = 0.4  # of a full scale: the frames of KITTI that shine least reach 0.6
STRUCTURE_M = (0.4, 2.5)  # above the ground: walls, fences, parked cars
STRUCTURE_RANGE_M = 40.0
STRIP_M = 0.5
LEAST_STRUCTURE = 500  # points
ALONG_Y = 1.4  # from here on the road is said to run along y; recordings that look along x give 0.1 to 1.3
LEAST_BEHIND = 0.02  # of the points, in the quadrant behind: fewer are a camera's view, whose shape says nothing


@dataclass(frozen=True)
class SensorEstimate:
    """How a LiDAR is mounted and scaled.

    Attributes:
        frames: that were looked at.
        height_m: of the LiDAR frame's origin above the ground, median over frames; None where no ground was found.
        height_spread_m: median distance of a frame's height from it.
        tilt_deg: of the ground in the LiDAR frame: how the sensor is tilted, if the roads are level.
        intensity_high: what one point in a thousand reaches.
        intensity_scale: factor that makes the intensities span 0..1; None where they say nothing.
        along_y: how much more what stands beside the road lines up along y than along x; 0 where it cannot be told.
    """

    frames: int
    height_m: float | None
    height_spread_m: float
    tilt_deg: float
    intensity_high: float
    intensity_scale: float | None
    along_y: float

    def settings(self, trained_height_m: float) -> dict[str, float]:
        """The keys of `SensorConfig` that differ from what the network was trained with, and what to set them to.

        Args:
            trained_height_m: of the training LiDAR above the ground.
        """
        found: dict[str, float] = {}
        if self.height_m is not None and abs(self.height_m - trained_height_m) > SAME_HEIGHT_M:
            found["height_m"] = round(self.height_m, 2)
        if self.intensity_scale not in (None, 1.0):
            found["intensity_scale"] = float(f"{self.intensity_scale:.4g}")
        return found

    def applied_to(self, sensor: SensorConfig, trained_height_m: float) -> SensorConfig:
        """A configuration with what was measured; what could not be measured stays."""
        measured = {
            **({} if self.height_m is None else {"height_m": None}),
            **({} if self.intensity_scale is None else {"intensity_scale": 1.0}),
        }
        return replace(sensor, **{**measured, **self.settings(trained_height_m)})  # type: ignore[arg-type]

    @property
    def warnings(self) -> list[str]:
        """What no setting can put right, and what to do about it."""
        found = []
        if self.height_m is None:
            found.append("no ground found within 3 to 20 m: check that z points up and coordinates are metres")
        elif self.height_spread_m > SAME_HEIGHT_M:
            found.append(
                f"the height above the ground scatters by {self.height_spread_m:.2f} m between frames: check that the "
                "points are in the frame of the sensor or the vehicle, not of a map"
            )
        if self.tilt_deg > MOST_TILT_DEG:
            found.append(f"the ground is tilted by {self.tilt_deg:.1f} degrees: rotate the points until it is level")
        if self.intensity_scale is None:
            found.append("all intensities are the same: the network learned from them and finds less without")
        if self.along_y > ALONG_Y:
            found.append(
                "the road seems to run along y: if x points right and y forward, as in nuScenes, rotate the points by "
                "-90 degrees (x, y = y, -x), since the network looks along x"
            )
        return found


def estimate_sensor(frames: Sequence[Float32]) -> SensorEstimate:
    """Height, tilt, intensities and axes of a recording.

    Args:
        frames: points of some frames, (N, 4) float32, columns x, y, z [m, LiDAR frame] and intensity; N may be 0.
    """
    planes = [ground_plane(points) for points in frames]
    good = [plane for plane in planes if plane is not None]
    heights_m = np.array([plane.height_m for plane in good])
    height_m = float(np.median(heights_m)) if good else None
    slopes = np.median([(plane.slope_x, plane.slope_y) for plane in good], axis=0) if good else np.zeros(2)
    high, scale = _intensities([points[:, 3] for points in frames])
    ratios = [_along_y(points, plane) for points, plane in zip(frames, planes, strict=True) if plane is not None]
    return SensorEstimate(
        frames=len(frames),
        height_m=height_m,
        height_spread_m=float(np.median(np.abs(heights_m - height_m))) if height_m is not None else 0.0,
        tilt_deg=math.degrees(math.atan(math.hypot(*slopes))),
        intensity_high=high,
        intensity_scale=scale,
        along_y=float(np.median(ratios)) if ratios else 0.0,
    )


def _intensities(columns: Sequence[Float32]) -> tuple[float, float | None]:
    """What the highest intensities are, and the factor that brings them to 1."""
    values = np.concatenate([*columns, np.zeros(0, np.float32)])
    values = values[np.isfinite(values)]
    if not len(values) or values.min() == values.max():
        return float(values[0]) if len(values) else 0.0, None
    high = float(np.quantile(values, HIGH_SHARE))
    full = next((scale for scale in INTENSITY_SCALES if high <= scale), high)
    if high <= 0:
        return high, None
    return high, 1 / (full if high >= LEAST_REACH * full else high)


def _along_y(points: Float32, plane: GroundPlane) -> float:
    """How much better what stands above the ground fills few strips along y than along x.

    0 where little stands, and where the frame is cropped.

    Fronts of houses, fences and parked cars stand in rows along the road. The points' share in strips along an axis,
    squared and summed, is 1 if one strip holds them all.
    """
    height_m = plane.above(points)
    x, y = points[:, 0], points[:, 1]
    standing = (height_m > STRUCTURE_M[0]) & (height_m < STRUCTURE_M[1])
    standing &= np.maximum(np.abs(x), np.abs(y)) < STRUCTURE_RANGE_M
    if np.count_nonzero(standing) < LEAST_STRUCTURE or np.mean(x < -np.abs(y)) < LEAST_BEHIND:
        return 0.0
    strips = np.arange(-STRUCTURE_RANGE_M, STRUCTURE_RANGE_M + STRIP_M, STRIP_M)
    along_y, along_x = (np.sum(np.square(np.histogram(axis[standing], strips)[0], dtype=float)) for axis in (x, y))
    return float(along_y / along_x)
