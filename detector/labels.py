"""KITTI label files: the one place that knows their columns.

A line is ``type truncated occluded alpha left top right bottom height width length x y z rotation_y [score]``:
2D box in pixels, sizes and location in metres, the location being the middle of the box's *bottom* face in
the rectified camera frame (x right, y down, z forward), rotation_y in radians about camera y.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.errors import LabelError
from detector.files import read_text

Float64 = NDArray[np.float64]

# A car's label line is about 90 bytes; a file this long is no label file, whatever its name says.
MAX_FILE_BYTES = 4_000_000
NUMBERS_WITHOUT_SCORE = 14
MAX_NUMBER = 1e6  # pixels, metres, radians: beyond is nonsense whose products overflow

# What we detect, and the class that KITTI's evaluation neither asks for nor counts as false.
CAR, NEIGHBOUR = "Car", "Van"


@dataclass(frozen=True)
class KittiLabels:
    """The objects of one frame, as columns. N may be 0.

    Attributes:
        types: N class names ("Car", "Van", "DontCare", …).
        truncated: (N,) float64 in 0..1, -1 unknown.
        occluded: (N,) float64, 0 visible, 1 partly, 2 largely, 3 unknown; -1 in results.
        alpha_rad: (N,) float64, observation angle.
        boxes_2d: (N, 4) float64, left, top, right, bottom [pixels].
        dimensions_m: (N, 3) float64, height, width, length.
        locations_m: (N, 3) float64, bottom centre in the camera frame.
        rotation_y_rad: (N,) float64.
        scores: (N,) float64; NaN where the file has none.
    """

    types: tuple[str, ...]
    truncated: Float64
    occluded: Float64
    alpha_rad: Float64
    boxes_2d: Float64
    dimensions_m: Float64
    locations_m: Float64
    rotation_y_rad: Float64
    scores: Float64

    def __post_init__(self) -> None:
        count = len(self.types)
        for name, width in (("boxes_2d", 4), ("dimensions_m", 3), ("locations_m", 3)):
            if getattr(self, name).shape != (count, width):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {(count, width)}")
        for name in ("truncated", "occluded", "alpha_rad", "rotation_y_rad", "scores"):
            if getattr(self, name).shape != (count,):
                raise ValueError(f"{name} has shape {getattr(self, name).shape}, expected {(count,)}")

    def __len__(self) -> int:
        return len(self.types)

    def select(self, keep: NDArray[np.bool_]) -> KittiLabels:
        """The objects where ``keep`` (N,) bool is set."""
        types = tuple(name for name, kept in zip(self.types, keep, strict=True) if kept)
        columns = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "types"}
        return KittiLabels(types, **columns)

    @classmethod
    def from_table(cls, types: tuple[str, ...], numbers: Float64) -> KittiLabels:
        """Labels from class names and (N, 15) float64 numbers in the file's column order, score last."""
        table = np.asarray(numbers, np.float64).reshape(len(types), NUMBERS_WITHOUT_SCORE + 1)
        return cls(
            types=types,
            truncated=table[:, 0],
            occluded=table[:, 1],
            alpha_rad=table[:, 2],
            boxes_2d=table[:, 3:7],
            dimensions_m=table[:, 7:10],
            locations_m=table[:, 10:13],
            rotation_y_rad=table[:, 13],
            scores=table[:, 14],
        )

    @classmethod
    def empty(cls) -> KittiLabels:
        """A frame without objects."""
        return cls.from_table((), np.zeros((0, NUMBERS_WITHOUT_SCORE + 1)))


def read_labels(path: Path) -> KittiLabels:
    """The objects of one label or result file; an empty file has none.

    Raises:
        LabelError: if the file cannot be read, or a line has another number of columns or numbers beyond sense.
    """
    try:
        text = read_text(path, MAX_FILE_BYTES)
    except OSError as error:
        raise LabelError(f"{path}: cannot be read ({error.strerror}); expected a KITTI label file") from error
    return parse_labels(text, str(path))


def parse_labels(text: str, where: str) -> KittiLabels:
    """The objects in the text of a label file; ``where`` names it in errors.

    Raises:
        LabelError: as `read_labels`.
    """
    types: list[str] = []
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) - 1 not in (NUMBERS_WITHOUT_SCORE, NUMBERS_WITHOUT_SCORE + 1):
            raise LabelError(f"{where}, line {number}: {len(words)} columns, expected 15, or 16 with a score")
        try:
            row = [float(word) for word in words[1:]]
        except ValueError as error:
            raise LabelError(f"{where}, line {number}: {str(error)[:100]}; expected a name and numbers") from error
        if not np.isfinite(row).all():
            raise LabelError(f"{where}, line {number}: holds NaN or infinity; expected finite numbers")
        if max(map(abs, row)) > MAX_NUMBER:
            raise LabelError(f"{where}, line {number}: holds {max(row, key=abs):g}; expected at most {MAX_NUMBER:g}")
        types.append(words[0])
        rows.append(row if len(row) > NUMBERS_WITHOUT_SCORE else [*row, np.nan])
    return KittiLabels.from_table(tuple(types), np.array(rows, np.float64))


def format_labels(labels: KittiLabels) -> str:
    """The text of a label file, one line per object; the score column is left out where it is NaN."""
    lines = []
    for index, name in enumerate(labels.types):
        pixels = " ".join(f"{value:.2f}" for value in labels.boxes_2d[index])
        metres = " ".join(f"{value:.4f}" for value in (*labels.dimensions_m[index], *labels.locations_m[index]))
        line = (
            f"{name} {labels.truncated[index]:g} {labels.occluded[index]:g} {labels.alpha_rad[index]:.4f} "
            f"{pixels} {metres} {labels.rotation_y_rad[index]:.4f}"
        )
        if not np.isnan(labels.scores[index]):
            line += f" {labels.scores[index]:.4f}"
        lines.append(line + "\n")
    return "".join(lines)
