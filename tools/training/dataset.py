"""Labelled frames in memory, and the objects cut out of them for ground-truth sampling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.boxes import boxes_from_labels, points_in_box
from detector.calibration import Calibration
from detector.errors import LabelError
from detector.labels import CAR, NEIGHBOUR, KittiLabels, read_labels
from detector.sources import FrameFile, open_sources

MIN_POINTS_TO_LEARN = 3  # fewer, and nothing in the grid tells the car from noise
MIN_POINTS_TO_PASTE = 10


@dataclass(frozen=True)
class LabelledFrame:
    """One frame, cropped to the camera's view, where the labels are complete.

    Attributes:
        id: frame name.
        points: (N, 4) float32, x, y, z [m, LiDAR], intensity.
        boxes: (M, 7) float32 boxes of cars and their neighbour class.
        counted: (M,) bool: cars to learn; the others are left out of the loss.
        labels: everything the label file says.
        calibration: camera calibration.
    """

    id: str
    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    labels: KittiLabels
    calibration: Calibration


@dataclass(frozen=True)
class CutObject:
    """A car cut out of a frame: its box (7,) float32 and its points (N, 4) float32, LiDAR frame."""

    box: NDArray[np.float32]
    points: NDArray[np.float32]


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from: recorded frames, simulated ones, and the cars to paste into either."""

    real: list[LabelledFrame]
    simulated: list[LabelledFrame]
    objects: list[CutObject]

    @classmethod
    def of(cls, real: list[LabelledFrame], simulated: list[LabelledFrame]) -> TrainingData:
        """Cars are cut out of the recorded frames, and out of the simulated ones only where there are no others."""
        return cls(real, simulated, cut_objects(real or simulated))


def parse_data(text: str) -> tuple[Path, Path | None]:
    """FOLDER or FOLDER@SPLIT to its two paths."""
    folder, _, split = text.partition("@")
    return Path(folder), Path(split) if split else None


def load_frames(folder: Path, split: Path | None = None) -> list[LabelledFrame]:
    """The labelled frames of a KITTI object folder; ``split`` lists the ids to take.

    Raises:
        RoadblocksError: if the folder, a frame or a label cannot be read, or a listed id is missing.
    """
    labelled = {file.id: file for source in open_sources([folder]) for file in source.frames if file.label_path}
    if not labelled:
        raise LabelError(f"{folder}: no frame has a label_2/ID.txt; training needs KITTI's object layout")
    wanted = list(labelled)
    if split:
        try:
            wanted = split.read_text(encoding="utf-8", errors="replace").split()
        except OSError as error:
            raise LabelError(f"{split}: cannot be read ({error.strerror}); expected a list of frame ids") from error
    missing = set(wanted) - set(labelled)
    if missing or not wanted:
        found = f"lists {sorted(missing)[0]}, which is unlabelled in {folder}" if missing else "lists no frame"
        raise LabelError(f"{split}: {found}; expected ids of labelled frames")
    return [_load_frame(file) for name, file in labelled.items() if name in set(wanted)]


def _load_frame(file: FrameFile) -> LabelledFrame:
    frame = file.load()
    if frame.calibration is None:
        raise LabelError(f"{file.path}: no calibration; training needs KITTI's object layout")
    assert file.label_path, "load_frames takes labelled frames only"
    labels = read_labels(file.label_path)
    kept = labels.select(np.isin(labels.types, (CAR, NEIGHBOUR)))
    points = frame.points[frame.calibration.in_view(frame.points)]
    boxes = boxes_from_labels(kept, frame.calibration).astype(np.float32)
    hits = np.array([points_in_box(points, box, 0.1).sum() for box in boxes], int)
    counted = (np.array(kept.types) == CAR) & (hits >= MIN_POINTS_TO_LEARN)
    return LabelledFrame(frame.id, points, boxes, counted, labels, frame.calibration)


def cut_objects(frames: list[LabelledFrame]) -> list[CutObject]:
    """Every car with enough points, for pasting into other frames."""
    objects = []
    for frame in frames:
        for box in frame.boxes[frame.counted]:
            inside = frame.points[points_in_box(frame.points, box, 0.05)]
            if len(inside) >= MIN_POINTS_TO_PASTE:
                objects.append(CutObject(box, inside))
    return objects
