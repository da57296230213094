"""What is checked of a frame's points before anything is computed: by `Frame`, so for files and the API alike.

A frame that makes no sense is refused with a `FrameError`. One that can be used, but not as it is or with doubt, is
used with a `FrameWarning`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration
from detector.errors import FrameError, FrameFault
from models.grid import BevSpec

Float32 = NDArray[np.float32]

# A rotating LiDAR gives a few hundred thousand points a turn: more is a map, or a header that lies.
MAX_POINTS = 5_000_000
MAX_NONFINITE_SHARE = 0.05
# Highest values of the intensity scales in use: already 0..1, 8 bit, 16 bit.
INTENSITY_SCALES = (1.0, 255.0, 65535.0)
PLAINLY_SCALED = 2.0  # an intensity up to here is one of 0..1 with some noise
# Half of a sweep's points are some 4 to 25 m away, whatever the sensor: 500 are half a metre told in millimetres.
MAX_MEDIAN_RANGE_M = 500.0
# On 305 sweeps of KITTI, Argoverse and nuScenes z spreads at most 0.25 times as far as the narrower of x and y, and
# with z swapped for one of them at least 4 times.
MAX_HEIGHT_SPREAD = 1.5
MIN_SPREAD_M = 2.0
NUM_SAMPLES = 2048  # points that the doubts are judged by
MIN_SAMPLES = 100


@dataclass(frozen=True)
class FrameWarning:
    """Something doubtful about a frame that is used all the same.

    Attributes:
        fault: its kind.
        text: one line: the frame, what was found, what was expected or done.
    """

    fault: FrameFault
    text: str


def check_count(where: str, count: int) -> None:
    """Refuses absurd numbers of points, before memory is taken for them.

    Raises:
        FrameError: if there are more than `MAX_POINTS`.
    """
    if count > MAX_POINTS:
        raise FrameError(
            f"{where}: {count} points, expected at most {MAX_POINTS}; split it into single sweeps", FrameFault.TOO_MANY
        )


def check_points(points: Any, where: str) -> tuple[Float32, tuple[FrameWarning, ...]]:
    """The points, fit for the pipeline, and what is doubtful about them.

    Points with NaN or infinity are dropped if they are few, intensities of 8 or 16 bits are scaled; ``points`` itself
    is never changed.

    Args:
        points: expected (N, 4) float32, columns x, y, z [m, LiDAR frame] and intensity [0, 1]; N may be 0.
        where: the frame's name or file, for messages.

    Raises:
        FrameError: if it is another array, too large, or its values make no sense.
    """
    if not isinstance(points, np.ndarray) or points.ndim != 2 or points.shape[1] != 4:
        found = f"shape {points.shape}" if isinstance(points, np.ndarray) else type(points).__name__
        raise FrameError(
            f"{where}: points are {found}, expected an array of shape (N, 4): x, y, z in metres and intensity in 0..1",
            FrameFault.ARRAY,
        )
    if points.dtype != np.float32:
        raise FrameError(
            f"{where}: points are {points.dtype}, expected float32; convert with points.astype(numpy.float32)",
            FrameFault.ARRAY,
        )
    check_count(where, len(points))
    warnings: list[FrameWarning] = []
    points = _finite(points, where, warnings)
    if len(points):
        points = _scaled(points, where, warnings)
        warnings += _doubts(points, where)
    else:
        warnings.append(FrameWarning(FrameFault.EMPTY, f"{where}: holds no points; a frame without boxes"))
    return points, tuple(warnings)


def _finite(points: Float32, where: str, warnings: list[FrameWarning]) -> Float32:
    """The points without NaN and infinity, if those are few."""
    finite = np.isfinite(points).all(axis=1)
    num_bad = len(points) - int(np.count_nonzero(finite))
    if num_bad == 0:
        return points
    if num_bad > MAX_NONFINITE_SHARE * len(points):
        raise FrameError(
            f"{where}: {num_bad} of {len(points)} points hold NaN or infinity, expected at most "
            f"{MAX_NONFINITE_SHARE:.0%}: check the recorder, or drop them before",
            FrameFault.NOT_FINITE,
        )
    text = f"{where}: dropped {num_bad} of {len(points)} points that hold NaN or infinity"
    warnings.append(FrameWarning(FrameFault.DROPPED, text))
    return points[finite]


def _scaled(points: Float32, where: str, warnings: list[FrameWarning]) -> Float32:
    """The points with intensities in 0..1."""
    low, high = float(points[:, 3].min()), float(points[:, 3].max())
    scale = next((scale for scale in INTENSITY_SCALES if high <= scale), None)
    if low < 0 or scale is None:
        raise FrameError(
            f"{where}: intensities run from {low:g} to {high:g}, expected 0..1 (or 0..255, 0..65535): "
            "the columns must be x, y, z, intensity",
            FrameFault.INTENSITY,
        )
    if scale == 1:
        return points
    points = points.copy()
    if high <= PLAINLY_SCALED:
        np.minimum(points[:, 3], 1, out=points[:, 3])
        text = f"{where}: intensities reach {high:g}, expected 0..1; those above 1 are taken as 1"
        warnings.append(FrameWarning(FrameFault.CLIPPED, text))
    else:
        points[:, 3] /= scale
        text = f"{where}: intensities reach {high:g}; taken as 0..{scale:g} and scaled to 0..1"
        warnings.append(FrameWarning(FrameFault.SCALED, text))
    return points


def _doubts(points: Float32, where: str) -> list[FrameWarning]:
    """What the coordinates say about their unit and axes, from a sample that is the same every time."""
    sample = points[:: -(-len(points) // NUM_SAMPLES), :3].astype(np.float64)
    range_m = float(np.median(np.linalg.norm(sample, axis=1)))
    if range_m > MAX_MEDIAN_RANGE_M:
        return [
            FrameWarning(
                FrameFault.NOT_METRES,
                f"{where}: half of the points are more than {range_m:.0f} m away: these look like millimetres or map "
                "coordinates; expected metres from the LiDAR",
            )
        ]
    low, high = np.percentile(sample, [10, 90], axis=0)
    x_m, y_m, z_m = high - low
    if len(sample) >= MIN_SAMPLES and z_m > max(MIN_SPREAD_M, MAX_HEIGHT_SPREAD * min(x_m, y_m)):
        return [
            FrameWarning(
                FrameFault.AXES,
                f"{where}: points spread over {x_m:.1f} m in x, {y_m:.1f} m in y and {z_m:.1f} m in z: the axes look "
                "swapped; expected x forward, y left, z up",
            )
        ]
    return []


def check_seen(points: Float32, where: str, spec: BevSpec, calibration: Calibration | None) -> tuple[FrameWarning, ...]:
    """A warning if no point is where the network looks: then there is nothing to find, and probably a mistake.

    Args:
        points: (N, 4) float32, of a frame.
        where: its name, for messages.
        spec: the grid.
        calibration: of the camera that the points are cropped to, or None.
    """
    # A sample answers for nearly all frames.
    for some in (points[:: -(-len(points) // NUM_SAMPLES) or 1], points):
        x_m, y_m = some[:, 0], some[:, 1]
        seen = (x_m >= spec.x_min_m) & (x_m < spec.x_max_m) & (y_m >= spec.y_min_m) & (y_m < spec.y_max_m)
        if calibration is not None:
            seen &= calibration.in_view(some)
        if seen.any():
            return ()
    if not len(points):  # which has a warning of its own
        return ()
    grid = f"x {spec.x_min_m:g} to {spec.x_max_m:g} m, y {spec.y_min_m:g} to {spec.y_max_m:g} m"
    view = "" if calibration is None else ", in the camera's view"
    text = f"{where}: none of {len(points)} points lies in the grid ({grid}{view}); check units, axes and calibration"
    return (FrameWarning(FrameFault.OUTSIDE, text),)


class WarningLog:
    """Counts the warnings of a run, and tells the first few of each kind: a recording repeats them in every frame.

    Args:
        tell: prints a line.

    Attributes:
        counts: frames by kind, in the order in which kinds came up.
    """

    TOLD = 3

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self.counts: dict[str, int] = {}

    def count(self, kinds: Iterable[str]) -> None:
        """What is known already of one frame."""
        for kind in kinds:
            self.counts[str(kind)] = self.counts.get(str(kind), 0) + 1

    def add(self, warnings: Iterable[FrameWarning]) -> None:
        """The warnings of one frame."""
        for warning in warnings:
            self.count([warning.fault])
            count = self.counts[str(warning.fault)]
            if count <= self.TOLD:
                self._tell(warning.text)
            elif count == self.TOLD + 1:
                self._tell(f"more frames with '{warning.fault}' are counted and not told")
