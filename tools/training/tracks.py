"""The objects in ``tracks.jsonl``, which simulated drives have beside their label files: all of them, all round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.errors import LabelError


class TrackRecord(NamedTuple):
    """The objects of a frame, as a line of ``tracks.jsonl`` tells them.

    Attributes:
        kinds: (V,) str, class names, KITTI's.
        boxes: (V, 7) float64 in the frame of the sensor; columns are those of `detector.types`.
        hits: (V,) int64, points on each.
    """

    kinds: NDArray[np.str_]
    boxes: NDArray[np.float64]
    hits: NDArray[np.int64]


def read_track_records(path: Path) -> dict[str, TrackRecord]:
    """The objects of every frame of a drive, from the lines that `tools.simulation.layouts.track_record` makes.

    Raises:
        LabelError: if the file cannot be read, or a line holds anything else.
    """
    records = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                values = json.loads(line)
                boxes = np.array(values["boxes"], np.float64).reshape(-1, 7)
                record = TrackRecord(np.array(values["labels"], np.str_), boxes, np.array(values["hits"], np.int64))
                if {len(column) for column in record} != {len(boxes)} or not np.isfinite(boxes).all():
                    raise ValueError(f"{[len(column) for column in record]} labels, boxes and hits")
                records[str(values["frame"])] = record
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                reason = f"{error!r:.100}; expected frame, boxes, labels and hits as `roadblocks sample` writes them"
                raise LabelError(f"{path}, line {number}: {reason}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path}: {error}; expected the tracks of a folder of `roadblocks sample`") from error
    return records
