"""The solids that a scene is made of, as arrays that the ray caster reads.

Four shapes stand on a base point and turn about the vertical: a convex solid of six planes (boxes, roofs, cabins with
sloped windscreens), an upright cylinder (poles, trunks), a crown that beams enter (trees, bushes) and a hard ellipsoid
(heads, limbs, domes).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from tools.simulation.materials import Material

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Point = tuple[float, float, float]

POLYHEDRON, CYLINDER, CROWN, ELLIPSOID = range(4)
NO_OWNER = -1
_NO_PLANES = np.zeros((6, 4))


@dataclass(frozen=True)
class Solids:
    """P solids.

    Attributes:
        shape: (P,) int64, POLYHEDRON, CYLINDER, CROWN or ELLIPSOID.
        base: (P, 3) float64, middle of the lower face [m]; of a crown or an ellipsoid its centre.
        yaw_rad: (P,) float64.
        planes: (P, 6, 4) float64, normal and offset: inside iff normal · p <= offset, p from the base, unturned.
        size: (P, 3) float64 [m]: length, width, height of a polyhedron; radius, radius, height of a cylinder;
            half-axes of a crown or an ellipsoid.
        reach_m: (P,) float64, radius around the base that holds the solid, seen from above.
        material: (P,) int64, of `Material`.
        shade: (P,) float64, factor on the material's reflectance.
        owner: (P,) int64, index of the actor that it is part of, or NO_OWNER.
    """

    shape: Int64
    base: Float64
    yaw_rad: Float64
    planes: Float64
    size: Float64
    reach_m: Float64
    material: Int64
    shade: Float64
    owner: Int64

    def __len__(self) -> int:
        return len(self.shape)

    @classmethod
    def join(cls, parts: list[Solids]) -> Solids:
        """All solids of the parts, in order; of no parts, none."""
        parts = parts or [box((0, 0, 0), (1, 1, 1), Material.CONCRETE).take(np.zeros(0, np.int64))]
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def take(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Solids:
        """The solids of some indices, or where a mask holds."""
        return Solids(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def placed(self, position: Float64, yaw_rad: float | Float64, owner: int | Int64 | None = None) -> Solids:
        """The solids turned about the origin, then moved.

        Args:
            position: (3,) or, for each its own, (P, 3) float64 [m].
            yaw_rad: one angle, or (P,) float64.
            owner: the actor that they belong to, or (P,) int64; None leaves owners as they are.
        """
        cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
        x, y, z = self.base.T
        base = np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=1) + position
        owners = self.owner if owner is None else np.broadcast_to(owner, len(self)).astype(np.int64)
        return replace(self, base=base, yaw_rad=self.yaw_rad + yaw_rad, owner=owners)

    def height_span_m(self) -> tuple[Float64, Float64]:
        """Lowest and highest point of each solid (P,), above its base [m]."""
        height = self.size[:, 2]
        return np.where(np.isin(self.shape, (CROWN, ELLIPSOID)), -height, 0.0), height


def frustum(
    base: Point,
    lower: tuple[float, float],
    upper: tuple[float, float],
    height_m: float,
    material: Material,
    shade: float = 1.0,
    yaw_rad: float = 0.0,
    shift_m: float = 0.0,
) -> Solids:
    """A solid with a rectangle (length, width) [m] below and another above, which is moved forward by ``shift_m``."""
    planes = [[0.0, 0.0, -1.0, 0.0], [0.0, 0.0, 1.0, height_m]]
    for axis, move in ((0, shift_m), (1, 0.0)):
        for sign in (1.0, -1.0):
            lean = lower[axis] / 2 - (upper[axis] / 2 + sign * move)
            normal = np.zeros(3)
            normal[axis], normal[2] = sign * height_m, lean
            normal /= np.linalg.norm(normal)
            planes.append([*normal, abs(normal[axis]) * lower[axis] / 2])
    length = max(lower[0], upper[0] + 2 * abs(shift_m))
    reach = max(np.hypot(*lower), np.hypot(upper[0] + 2 * abs(shift_m), upper[1])) / 2
    size = (length, max(lower[1], upper[1]), height_m)
    return _single(POLYHEDRON, base, size, reach, material, shade, yaw_rad, np.array(planes))


def box(base: Point, size: Point, material: Material, shade: float = 1.0, yaw_rad: float = 0.0) -> Solids:
    """A box of length, width, height [m]."""
    return frustum(base, size[:2], size[:2], size[2], material, shade, yaw_rad)


def cylinder(base: Point, radius_m: float, height_m: float, material: Material, shade: float = 1.0) -> Solids:
    """An upright cylinder with a lid."""
    return _single(CYLINDER, base, (radius_m, radius_m, height_m), radius_m, material, shade)


def crown(
    centre: Point,
    radius_m: float,
    half_height_m: float,
    material: Material = Material.LEAVES,
    shade: float = 1.0,
) -> Solids:
    """The leaves of a tree or a bush: beams come back from a random depth in it, or pass."""
    return _single(CROWN, centre, (radius_m, radius_m, half_height_m), radius_m, material, shade)


def ellipsoid(
    centre: Point, half_axes_m: Point, material: Material, shade: float = 1.0, yaw_rad: float = 0.0
) -> Solids:
    """A hard ellipsoid with half-axes along its heading, across it and up."""
    return _single(ELLIPSOID, centre, half_axes_m, max(half_axes_m[:2]), material, shade, yaw_rad)


def _single(
    shape: int,
    base: Point,
    size: Point,
    reach_m: float,
    material: Material,
    shade: float,
    yaw_rad: float = 0.0,
    planes: Float64 = _NO_PLANES,
) -> Solids:
    return Solids(
        shape=np.array([shape]),
        base=np.array([base], np.float64),
        yaw_rad=np.array([yaw_rad], np.float64),
        planes=planes[None],
        size=np.array([size], np.float64),
        reach_m=np.array([reach_m], np.float64),
        material=np.array([material], np.int64),
        shade=np.array([shade], np.float64),
        owner=np.array([NO_OWNER]),
    )
