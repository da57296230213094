"""The solids that a scene is made of, as arrays that the ray caster reads.

Three shapes stand on a base point and turn about the vertical: a convex solid of six planes (boxes, cabins with
sloped windscreens), a vertical cylinder (poles, trunks) and an ellipsoid that beams may enter (crowns of trees).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

POLYHEDRON, CYLINDER, CROWN = 0, 1, 2
NO_OWNER = -1


@dataclass(frozen=True)
class Solids:
    """P solids.

    Attributes:
        shape: (P,) int64, POLYHEDRON, CYLINDER or CROWN.
        base: (P, 3) float64, middle of the lower face [m]; for a crown its centre.
        yaw_rad: (P,) float64.
        planes: (P, 6, 4) float64, normal and offset: inside iff normal · p <= offset, p from the base, unturned.
        size: (P, 3) float64: radius, radius, height of a cylinder; half-axes of a crown [m].
        reach_m: (P,) float64, radius around the base that holds the solid, seen from above.
        reflectance: (P,) float64, 0..1.
        dropout: (P,) float64, share of beams that never come back (glass, black paint).
        owner: (P,) int64, index of the vehicle that it is part of, or NO_OWNER.
    """

    shape: NDArray[np.int64]
    base: Float64
    yaw_rad: Float64
    planes: Float64
    size: Float64
    reach_m: Float64
    reflectance: Float64
    dropout: Float64
    owner: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.shape)

    @classmethod
    def join(cls, parts: list[Solids]) -> Solids:
        """All solids of the parts, in order."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def placed(self, position: Float64, yaw_rad: float, owner: int | None = None) -> Solids:
        """The solids turned by ``yaw_rad`` about the origin, then moved by ``position`` (3,) [m]."""
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        owners = self.owner if owner is None else np.full(len(self), owner)
        return replace(self, base=self.base @ turn.T + position, yaw_rad=self.yaw_rad + yaw_rad, owner=owners)


def frustum(
    base: tuple[float, float, float],
    lower: tuple[float, float],
    upper: tuple[float, float],
    height_m: float,
    reflectance: float,
    *,
    shift_m: float = 0.0,
    dropout: float = 0.0,
    yaw_rad: float = 0.0,
) -> Solids:
    """A solid with a rectangle (length, width) [m] below and another above, moved forward by ``shift_m``."""
    planes = [[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 1.0, height_m]]
    for axis, move in ((0, shift_m), (1, 0.0)):
        for sign in (1.0, -1.0):
            lean = lower[axis] / 2 - (upper[axis] / 2 + sign * move)
            normal = np.zeros(3)
            normal[axis], normal[2] = sign * height_m, lean
            normal /= np.linalg.norm(normal)
            planes.append([*normal, abs(normal[axis]) * lower[axis] / 2])
    reach = max(np.hypot(*lower), np.hypot(upper[0] + 2 * abs(shift_m), upper[1])) / 2
    return _single(POLYHEDRON, base, yaw_rad, np.array(planes), (0, 0, 0), reach, reflectance, dropout)


def box(
    base: tuple[float, float, float],
    size: tuple[float, float, float],
    reflectance: float,
    yaw_rad: float = 0.0,
    dropout: float = 0.0,
) -> Solids:
    """A box of length, width, height [m]."""
    return frustum(base, size[:2], size[:2], size[2], reflectance, yaw_rad=yaw_rad, dropout=dropout)


def cylinder(base: tuple[float, float, float], radius_m: float, height_m: float, reflectance: float) -> Solids:
    """An upright cylinder."""
    size = (radius_m, radius_m, height_m)
    return _single(CYLINDER, base, 0.0, np.zeros((6, 4)), size, radius_m, reflectance, 0.0)


def crown(centre: tuple[float, float, float], radius_m: float, half_height_m: float, reflectance: float) -> Solids:
    """The leaves of a tree: beams come back from a random depth in it."""
    size = (radius_m, radius_m, half_height_m)
    return _single(CROWN, centre, 0.0, np.zeros((6, 4)), size, radius_m, reflectance, 0.1)


def _single(
    shape: int,
    base: tuple[float, float, float],
    yaw_rad: float,
    planes: Float64,
    size: tuple[float, float, float],
    reach_m: float,
    reflectance: float,
    dropout: float,
) -> Solids:
    return Solids(
        shape=np.array([shape]),
        base=np.array([base], np.float64),
        yaw_rad=np.array([yaw_rad]),
        planes=planes[None],
        size=np.array([size], np.float64),
        reach_m=np.array([reach_m], np.float64),
        reflectance=np.array([reflectance]),
        dropout=np.array([dropout]),
        owner=np.array([NO_OWNER]),
    )
