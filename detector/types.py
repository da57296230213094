"""The values that travel between stages. They check themselves once, at construction.

LiDAR frame (metres, right-handed)::

            x forward
            |
            |      yaw: radians about +z, 0 along +x, growing from x towards y (counter-clockwise
            |      seen from above)
    y ------+      z up, out of the page
    left

A box is ``x, y, z`` of its *centre*, then length (along its heading), width, height, then yaw.
In grids, row = x and column = y (see `models.grid`). Transforms are named destination first:
``camera_from_lidar @ point_in_lidar`` is a point in the camera frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration
from detector.errors import FrameError, FrameFault
from detector.frame_checks import FrameWarning, check_points
from kernels.tiles import ActiveTiles

Float32 = NDArray[np.float32]

BOX_COLUMNS = ("x_m", "y_m", "z_m", "length_m", "width_m", "height_m", "yaw_rad")


@dataclass(frozen=True)
class Frame:
    """One LiDAR sweep. The door of the pipeline: whoever makes a frame, its points are checked here.

    Attributes:
        points: (N, 4) float32, columns x, y, z [m, LiDAR frame] and intensity [0, 1]; N may be 0. Those given, without
            the few that hold NaN or infinity, intensities of 8 or 16 bits scaled to 0..1.
        id: name of the frame, the stem of its output files.
        stamp_ns: time of the sweep, nanoseconds, or None.
        calibration: camera calibration, or None: then there is no camera to project into.
        pose: (4, 4) float64, world_from_lidar, or None.
        origin: file that it comes from, for messages, or None.
        warnings: what is doubtful about the points (see `detector.frame_checks`).

    Raises:
        FrameError: if points or pose have another shape or dtype, or the values of the points make no sense.
    """

    points: Float32
    id: str = "0"
    stamp_ns: int | None = None
    calibration: Calibration | None = None
    pose: NDArray[np.float64] | None = None
    origin: str | None = None
    warnings: tuple[FrameWarning, ...] = field(default=(), init=False)

    def __post_init__(self) -> None:
        points, warnings = check_points(self.points, self.where)
        object.__setattr__(self, "points", points)  # frozen, but not before it is made
        object.__setattr__(self, "warnings", warnings)
        if self.pose is not None and np.shape(self.pose) != (4, 4):
            raise FrameError(f"{self.where}: pose has shape {np.shape(self.pose)}, expected (4, 4)", FrameFault.ARRAY)

    @property
    def where(self) -> str:
        """How messages name it."""
        return self.origin or f"frame {self.id}"

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True)
class Detections:
    """Boxes found in one frame, best score first.

    Attributes:
        boxes: (N, 7) float32, columns x, y, z of the centre, length, width, height [m], yaw [rad].
        scores: (N,) float32 in [0, 1].
        labels: N class names.

    Raises:
        ValueError: if the lengths differ or a shape is wrong.
    """

    boxes: Float32
    scores: Float32
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != len(BOX_COLUMNS):
            raise ValueError(f"boxes have shape {self.boxes.shape}, expected (N, {len(BOX_COLUMNS)})")
        if self.scores.shape != (len(self.boxes),) or len(self.labels) != len(self.boxes):
            raise ValueError(
                f"{len(self.boxes)} boxes with scores of shape {self.scores.shape} and "
                f"{len(self.labels)} labels; expected one score and one label per box"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    @classmethod
    def empty(cls) -> Detections:
        """No boxes: an ordinary value, not an error."""
        return cls(np.zeros((0, len(BOX_COLUMNS)), np.float32), np.zeros(0, np.float32), ())

    def above(self, score: float) -> Detections:
        """Only the boxes whose score is at least ``score``."""
        keep = self.scores >= score
        labels = tuple(label for label, kept in zip(self.labels, keep, strict=True) if kept)
        return Detections(self.boxes[keep], self.scores[keep], labels)


@dataclass(frozen=True)
class FrameResult:
    """What the pipeline found in one frame, and what it cost.

    Attributes:
        frame: the frame as given (its points included).
        detections: boxes, LiDAR frame.
        stage_ms: milliseconds per stage name, in the order of `detector.stages.STAGES`.
        tiles_run: active tiles computed.
        tiles_total: tiles of the grid.
        tiles_left_out: active tiles that a budget did not let run.
        dropped_before: frames of a stream that came too late to be processed, since the last result.
        latency_ms: of a stream, from the moment when the frame was available until its boxes were [ms]; else None.
        tiles: active tiles that the network ran on, over the cells of the grid; None where they are not known.
        mask: (rows / 4, cols / 4) bool, where the computation mask was set, before its margin; None where not known.
        warnings: what is doubtful about the frame.
    """

    frame: Frame
    detections: Detections
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    tiles_run: int = 0
    tiles_total: int = 0
    tiles_left_out: int = 0
    dropped_before: int = 0
    latency_ms: float | None = None
    tiles: ActiveTiles | None = None
    mask: NDArray[np.bool_] | None = None
    warnings: tuple[FrameWarning, ...] = ()

    @property
    def frame_id(self) -> str:
        """Name of the frame."""
        return self.frame.id

    def to_json(self) -> dict[str, Any]:
        """The detections as one JSON Lines record, numbers rounded to what the sensor can mean (0.1 mm)."""
        return {
            "frame": self.frame.id,
            "stamp_ns": self.frame.stamp_ns,
            "boxes": [[round(float(value), 4) for value in box] for box in self.detections.boxes],
            "scores": [round(float(score), 4) for score in self.detections.scores],
            "labels": list(self.detections.labels),
        }
