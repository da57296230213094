"""Labelled frames in one small file, to take them to another machine: a NumPy archive (.npz).

It holds three arrays: ``coordinates`` (N, 3) int16 and ``intensities`` (N,) uint8 of the points of all frames, one
frame after the other, and ``frames``, the bytes of a JSON list with one record for each: id, number of points, label
file, calibration.

What is lost: coordinates are rounded to 1/256 m, so a point moves by 2 mm at most along each axis, intensities to
1/255, and numbers in labels to 4 decimals. KITTI tells 1 mm, 1/100 and 2 decimals, and its LiDAR measures to 2 cm.
Points beyond 128 m, which no grid of ours holds, are left out. Calibrations are kept as they are.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.calibration import Calibration
from detector.errors import LabelError
from detector.files import read_small, write_whole
from detector.labels import format_labels, parse_labels
from tools.training.dataset import LabelledFrame, front_frame

SUFFIX = ".npz"
STEPS_PER_M = 256  # of coordinates: int16 reach 128 m
INTENSITY_STEPS = 255
MAX_FILE_BYTES = 1_000_000_000
MAX_UNPACKED_BYTES = 4_000_000_000  # a few bytes of an archive unfold into any size
FORM = {"coordinates": (np.dtype("<i2"), 2), "intensities": (np.dtype("u1"), 1), "frames": (np.dtype("u1"), 1)}


def write_pack(path: Path, frames: list[LabelledFrame]) -> None:
    """Packs frames of the camera's view; the same frames give the same bytes. See the module for what is lost."""
    limits = np.iinfo(np.int16)
    coordinates, intensities, records = [], [], []
    for frame in frames:
        steps = np.rint(frame.points[:, :3] * np.float32(STEPS_PER_M))
        kept = ((steps >= limits.min) & (steps <= limits.max)).all(1)
        coordinates.append(steps[kept].astype("<i2"))
        intensities.append(np.rint(frame.points[kept, 3] * INTENSITY_STEPS).astype("u1"))
        records.append(_record(frame, int(kept.sum())))
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        coordinates=np.concatenate(coordinates),
        intensities=np.concatenate(intensities),
        frames=np.frombuffer(json.dumps(records).encode(), np.uint8),
    )
    write_whole(path, packed.getvalue())


def _record(frame: LabelledFrame, num_points: int) -> dict[str, Any]:
    calibration = frame.calibration
    return {
        "id": frame.id,
        "num_points": num_points,
        "labels": format_labels(frame.labels),
        "camera_from_lidar": calibration.camera_from_lidar.tolist(),
        "image_from_camera": calibration.image_from_camera.tolist(),
        "image_size": list(calibration.image_size),
    }


def read_pack(path: Path) -> list[LabelledFrame]:
    """The frames of `write_pack`.

    Raises:
        LabelError: if the file cannot be read, or is none of these.
    """
    try:
        coordinates, intensities, text = _read_arrays(path)
        records = json.loads(text.tobytes())
        ends = np.cumsum([record["num_points"] for record in records])
        if min(np.diff(ends, prepend=0)) < 0 or not len(coordinates) == len(intensities) == ends[-1]:
            raise ValueError(f"{len(coordinates)} coordinates and {len(intensities)} intensities of {ends[-1]} points")
        points = np.empty((len(coordinates), 4), np.float32)
        points[:, :3], points[:, 3] = coordinates, intensities
        points /= np.array([STEPS_PER_M, STEPS_PER_M, STEPS_PER_M, INTENSITY_STEPS], np.float32)
        parts = np.split(points, ends[:-1])
        return [_frame(record, part) for record, part in zip(records, parts, strict=True)]
    except Exception as error:  # zipfile, zlib, NumPy and json raise as it comes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LabelError(
            f"{path}: {reason}; expected a file of `tools.train pack`: pack it, or copy it, again"
        ) from error


def _read_arrays(path: Path) -> list[NDArray[Any]]:
    content = io.BytesIO(read_small(path, MAX_FILE_BYTES))
    with zipfile.ZipFile(content) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > MAX_UNPACKED_BYTES:
        raise ValueError(f"unfolds into {size} bytes, which is more than {MAX_UNPACKED_BYTES}")
    with np.load(content, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in FORM}
    found = {name: (array.dtype, array.ndim) for name, array in arrays.items()}
    if found != FORM or arrays["coordinates"].shape[1] != 3:
        raise ValueError(f"holds {', '.join(f'{name} {a.dtype} {a.shape}' for name, a in arrays.items())}")
    return list(arrays.values())


def _frame(record: dict[str, Any], points: NDArray[np.float32]) -> LabelledFrame:
    matrices = (np.array(record[key], np.float64) for key in ("camera_from_lidar", "image_from_camera"))
    width, height = record["image_size"]
    labels = parse_labels(str(record["labels"]), f"frame {record['id']}")
    return front_frame(str(record["id"]), points, labels, Calibration(*matrices, (int(width), int(height))))
