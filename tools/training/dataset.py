"""Labelled frames in memory, and the objects cut out of them for ground-truth sampling."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.boxes import boxes_from_labels, points_in_box
from detector.calibration import Calibration
from detector.errors import LabelError
from detector.labels import CAR, NEIGHBOUR, KittiLabels, read_labels
from detector.poses import TRACKS_FILE
from detector.sources import FrameFile, open_sources
from detector.types import Frame
from tools.simulate import MARKER
from tools.training.tracks import TrackRecord, read_track_records

MIN_POINTS_TO_LEARN = 3  # fewer, and nothing in the grid tells the car from noise
MIN_POINTS_TO_PASTE = 10


@dataclass(frozen=True)
class LabelledFrame:
    """One frame with its labels.

    Attributes:
        id: frame name.
        points: (N, 4) float32, x, y, z [m, LiDAR], intensity.
        boxes: (M, 7) float32 boxes of cars and their neighbour class.
        counted: (M,) bool: cars to learn; the others are left out of the loss.
        labels: everything the label file says.
        calibration: camera calibration.
        surround: whether the boxes are complete all round, or where the camera looks only.
    """

    id: str
    points: NDArray[np.float32]
    boxes: NDArray[np.float32]
    counted: NDArray[np.bool_]
    labels: KittiLabels
    calibration: Calibration
    surround: bool = False


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


def load_frames(folder: Path, split: Path | None = None, cropped: bool = True) -> list[LabelledFrame]:
    """The labelled frames of a KITTI object folder.

    Args:
        folder: as `detector.sources.open_sources` takes it.
        split: lists the ids to take; None: all.
        cropped: only the points that the camera sees, which is where the labels are.

    Raises:
        RoadblocksError: if the folder, a frame or a label cannot be read, or a listed id is missing.
    """
    return [_load_front(file, cropped) for file in _labelled_files(folder, split)]


def load_simulated(folder: Path, split: Path | None = None) -> list[LabelledFrame]:
    """The frames of a folder of `roadblocks sample`: as `load_frames`, but whole sweeps stay whole.

    Their boxes are those of the tracks, all round, because label files tell only what the camera sees.

    Raises:
        RoadblocksError: as `load_frames`, or if the tracks cannot be read or lack a frame.
    """
    files = _labelled_files(folder, split)
    root = files[0].path.parents[1]
    if not _is_full(root.parent / MARKER):
        return [_load_front(file) for file in files]
    records = read_track_records(root / TRACKS_FILE)
    missing = {file.id for file in files} - set(records)
    if missing:
        raise LabelError(f"{root / TRACKS_FILE}: lacks frame {min(missing)}; simulate the folder again")
    return [_load_sweep(file, records[file.id]) for file in files]


def _is_full(marker: Path) -> bool:
    """Whether a simulated drive is one of whole sweeps."""
    try:
        return bool(json.loads(marker.read_text(encoding="utf-8"))["full"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LabelError(f"{marker}: {error!r}; expected the marker of a folder of `roadblocks sample`") from error


def _labelled_files(folder: Path, split: Path | None) -> list[FrameFile]:
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
    return [file for name, file in labelled.items() if name in set(wanted)]


def _load(file: FrameFile) -> tuple[Frame, KittiLabels, Calibration]:
    frame = file.load()
    if frame.calibration is None:
        raise LabelError(f"{file.path}: no calibration; training needs KITTI's object layout")
    assert file.label_path, "only labelled frames are loaded"
    return frame, read_labels(file.label_path), frame.calibration


def _load_front(file: FrameFile, cropped: bool = True) -> LabelledFrame:
    frame, labels, calibration = _load(file)
    points = frame.points[calibration.in_view(frame.points)] if cropped else frame.points
    return front_frame(frame.id, points, labels, calibration)


def front_frame(
    frame_id: str, points: NDArray[np.float32], labels: KittiLabels, calibration: Calibration
) -> LabelledFrame:
    """A frame of the camera's view, with the boxes of its labels."""
    kept = labels.select(np.isin(labels.types, (CAR, NEIGHBOUR)))
    boxes = boxes_from_labels(kept, calibration).astype(np.float32)
    hits = np.array([points_in_box(points, box, 0.1).sum() for box in boxes], int)
    counted = (np.array(kept.types) == CAR) & (hits >= MIN_POINTS_TO_LEARN)
    return LabelledFrame(frame_id, points, boxes, counted, labels, calibration)


def _load_sweep(file: FrameFile, record: TrackRecord) -> LabelledFrame:
    frame, labels, calibration = _load(file)
    kept = np.isin(record.kinds, (CAR, NEIGHBOUR))
    counted = (record.kinds == CAR) & (record.hits >= MIN_POINTS_TO_LEARN)
    boxes = record.boxes.astype(np.float32)[kept]
    return LabelledFrame(frame.id, frame.points, boxes, counted[kept], labels, calibration, surround=True)


def cut_objects(frames: list[LabelledFrame]) -> list[CutObject]:
    """Every car with enough points, for pasting into other frames."""
    objects = []
    for frame in frames:
        for box in frame.boxes[frame.counted]:
            inside = frame.points[points_in_box(frame.points, box, 0.05)]
            if len(inside) >= MIN_POINTS_TO_PASTE:
                objects.append(CutObject(box, inside))
    return objects
