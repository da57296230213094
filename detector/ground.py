"""`ground_plane`: the height of a LiDAR above the ground, from the points of one frame.

A method of our own. The ring from 3 to 20 m around the sensor is cut into azimuth sectors and range rings. In each of
these patches the ground is the lowest dense layer of points: the lowest layer of 0.1 m that holds a share of what the
fullest holds. A plane is fitted through the patches with Cauchy's loss (Huber and Ronchetti, "Robust Statistics",
2009), so that patches on pavements, walls and vehicles, which lie higher, and mirror images, which lie lower, hardly
pull at it. It is a plane, and not a height, because a LiDAR that is tilted by half a degree, as KITTI's is, sees the
road 10 m ahead 9 cm too high, and cropped frames hold nothing but the road ahead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Float64 = NDArray[np.float64]

RINGS_M = (3.0, 5.0, 7.5, 11.0, 15.0, 20.0)  # nearer is the own vehicle, farther the ground is thin and no plane
SECTORS = 24
LAYER_M = 0.1  # the scatter of a LiDAR on a road, and its slope within a patch
LAYER_SHARE = 0.25  # of the fullest layer: a wall's may be fuller than the ground's at its foot
LEAST_POINTS = 10  # of a patch
LEAST_PATCHES = 12
LOSS_SCALE_M = 0.05  # patches of plain road lie this near to their plane
ON_PLANE_M = 0.15  # a kerb's height
LEAST_SUPPORT = 0.5


@dataclass(frozen=True)
class GroundPlane:
    """The ground of one frame, ``z = slope_x * x + slope_y * y - height_m`` in the LiDAR frame.

    Attributes:
        slope_x: metres up per metre ahead.
        slope_y: metres up per metre to the left.
        height_m: of the frame's origin above it.
    """

    slope_x: float
    slope_y: float
    height_m: float

    @property
    def tilt_deg(self) -> float:
        """Angle between its normal and the z axis."""
        return math.degrees(math.atan(math.hypot(self.slope_x, self.slope_y)))

    def above(self, points: NDArray[np.floating]) -> Float64:
        """(N,) float64: height of points (N, 3 or more) over it [m]."""
        x, y, z = np.asarray(points[:, :3], np.float64).T
        height_m: Float64 = z + self.height_m - self.slope_x * x - self.slope_y * y
        return height_m


def ground_plane(points: NDArray[np.floating]) -> GroundPlane | None:
    """The plane that most of the ground near the sensor lies on; None where there is none.

    Args:
        points: (N, 3 or more) [m, LiDAR frame], z up; N may be 0.
    """
    patches = ground_patches(points)
    if len(patches) < LEAST_PATCHES:
        return None
    x, y, z = patches.T
    design = np.column_stack([x, y, np.ones(len(x))])
    start = np.array([0.0, 0.0, np.median(z)])
    fit = least_squares(lambda plane: design @ plane - z, start, loss="cauchy", f_scale=LOSS_SCALE_M).x
    support = np.mean(np.abs(design @ fit - z) <= ON_PLANE_M)
    return GroundPlane(float(fit[0]), float(fit[1]), -float(fit[2])) if support >= LEAST_SUPPORT else None


def ground_patches(points: NDArray[np.floating]) -> Float64:
    """(M, 3) float64: x, y, z [m] of the lowest dense layer in every patch that has points enough."""
    x, y, z = np.asarray(points[:, :3], np.float64).T
    ring = np.digitize(np.hypot(x, y), RINGS_M) - 1
    inside = (ring >= 0) & (ring < len(RINGS_M) - 1) & np.isfinite(z)
    x, y, z, ring = x[inside], y[inside], z[inside], ring[inside]
    sector = np.floor((np.arctan2(y, x) / (2 * np.pi) % 1) * SECTORS).astype(int)
    patch = ring * (SECTORS + 1) + sector  # an azimuth just below 0 may round to a whole turn
    order = np.lexsort((z, patch))
    x, y, z = x[order], y[order], z[order]
    starts = np.flatnonzero(np.diff(patch[order], prepend=-1))
    found = []
    for start, stop in zip(starts, np.append(starts, len(z))[1:], strict=True):
        if stop - start >= LEAST_POINTS:
            layer = slice(start, stop)
            low = lowest_layer(z[layer])
            layer = slice(start + low.start, start + low.stop)
            found.append((x[layer].mean(), y[layer].mean(), float(np.median(z[layer]))))
    return np.array(found).reshape(-1, 3)


def lowest_layer(z: Float64) -> slice:
    """Which of the sorted heights [m] are the lowest dense layer."""
    count = np.searchsorted(z, z + LAYER_M, side="right") - np.arange(len(z))  # in the layer that begins at each
    first = int(np.argmax(count >= LAYER_SHARE * count.max()))
    # It is dense enough at its lower edge; where it is densest is a little higher.
    best = first + int(np.argmax(count[first : first + count[first]]))
    return slice(best, best + int(count[best]))
