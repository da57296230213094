"""`BevSpec`: where the bird's-eye-view grid lies in the world, and how metres become cells.

Axes: row = x, row 0 at ``x_min_m``; column = y, column 0 at ``y_min_m``. Cells are half-open:
``row = floor((x - x_min_m) / cell_m)``, so a point exactly on a cell's lower edge belongs to that cell.

Channels, after SBNet (CVPR 2018, section 4.1): one per height bin, then "below the lowest bin",
"above the highest bin", and intensity.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from kernels.voxelize import EXTRA_CHANNELS
from models.errors import ModelError

MAX_VALUES = 500_000_000  # of a map; SBNet's largest have a hundred million


@dataclass(frozen=True)
class BevSpec:
    """A BEV grid: half-open ranges in metres of the LiDAR frame (x forward, y left, z up) and cell sizes.

    Raises:
        ModelError: if a range is inverted, or is no whole number of cells, or the grid is beyond any memory.
    """

    x_min_m: float = 0.0
    x_max_m: float = 70.4
    y_min_m: float = -40.0
    y_max_m: float = 40.0
    z_min_m: float = -3.0
    z_max_m: float = 1.0
    cell_m: float = 0.1
    z_bin_m: float = 0.2

    def __post_init__(self) -> None:
        for axis, step in (("x", self.cell_m), ("y", self.cell_m), ("z", self.z_bin_m)):
            low, high = getattr(self, f"{axis}_min_m"), getattr(self, f"{axis}_max_m")
            if not (math.isfinite(low) and math.isfinite(high) and high > low and step > 0):
                raise ModelError(
                    f"BEV grid: {axis} runs from {low} to {high} m in steps of {step} m; "
                    "expected a finite, rising range and a positive step"
                )
            cells = (high - low) / step
            if not math.isfinite(cells) or round(cells) < 1 or abs(cells - round(cells)) > 1e-3:
                raise ModelError(
                    f"BEV grid: {axis} from {low} to {high} m is {cells:.3f} steps of {step} m; "
                    "expected a whole number: change the range or the step"
                )
        if math.prod(self.shape) > MAX_VALUES:
            raise ModelError(f"BEV grid: {self.rows}×{self.cols}×{self.channels} cells, expected at most {MAX_VALUES}")

    @property
    def all_round(self) -> bool:
        """Whether the grid goes on behind the sensor."""
        return self.x_min_m < 0

    @property
    def rows(self) -> int:
        """Cells along x."""
        return round((self.x_max_m - self.x_min_m) / self.cell_m)

    @property
    def cols(self) -> int:
        """Cells along y."""
        return round((self.y_max_m - self.y_min_m) / self.cell_m)

    @property
    def z_bins(self) -> int:
        """Height bins between ``z_min_m`` and ``z_max_m``."""
        return round((self.z_max_m - self.z_min_m) / self.z_bin_m)

    @property
    def channels(self) -> int:
        """Height bins, below, above, intensity."""
        return self.z_bins + EXTRA_CHANNELS

    @property
    def shape(self) -> tuple[int, int, int]:
        """(rows, cols, channels) of the grid array."""
        return self.rows, self.cols, self.channels

    def to_dict(self) -> dict[str, float]:
        """The spec as plain numbers, for JSON and network metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BevSpec:
        """The spec from `to_dict`'s numbers.

        Raises:
            ModelError: if a key is unknown or a value is no number.
        """
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ModelError(f"BEV grid: unknown keys {sorted(unknown)}; expected {sorted(cls.__dataclass_fields__)}")
        try:
            return cls(**{key: float(value) for key, value in values.items()})
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"BEV grid: {error}; expected numbers in metres") from error
