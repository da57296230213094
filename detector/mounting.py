"""`Mounting`: from the recording's LiDAR to the one that the network was trained with, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.config import SensorConfig
from models.network import NetworkInfo

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Mounting:
    """What has to be done to the points of a LiDAR that is mounted or scaled in another way.

    Attributes:
        shift_m: added to heights, so that the ground lies where the network learned it [m].
        intensity_scale: factor of intensities, which then end at 1.
    """

    shift_m: float = 0.0
    intensity_scale: float = 1.0

    @classmethod
    def of(cls, sensor: SensorConfig, info: NetworkInfo) -> Mounting:
        """The mounting that a configuration names, for a network."""
        shift_m = 0.0 if sensor.height_m is None else sensor.height_m + info.ground_z_m
        return cls(shift_m, sensor.intensity_scale)

    def to_network(self, points: Float32) -> Float32:
        """The points as the network's LiDAR would give them; the same array where nothing is to be done.

        Args:
            points: (N, 4) float32, columns x, y, z [m, LiDAR frame] and intensity; left as they are.
        """
        if self == Mounting():
            return points
        moved = points.copy()
        moved[:, 2] += np.float32(self.shift_m)
        moved[:, 3] = np.minimum(moved[:, 3] * np.float32(self.intensity_scale), 1)
        return moved

    def from_network(self, boxes: Float32) -> Float32:
        """(N, 7) boxes that the network found, at the height where the recording has them."""
        if not self.shift_m:
            return boxes
        moved = boxes.copy()
        moved[:, 2] -= np.float32(self.shift_m)
        return moved
