"""Roads: curves, cross-sections, and the network around one drive.

A road is a path and a cross-section that is swept along it. Places on a road are metres along its path and metres to
the left of it. Traffic keeps to the right, as where KITTI was recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tools.simulation.settings import Setting

Float64 = NDArray[np.float64]

STEP_M = 0.5  # between the points of a path
MARGIN_M = 130.0  # how far the world goes on before and after the drive
ARM_M = 95.0  # length of a side street
FILLET_M = 4.0  # radius of the kerb at the corners of a junction
STEEPEST_RAD = 1.1  # of a main road's heading against the x axis: so it never meets itself
EASING_M = 6.0  # length over which the curvature changes
NARROW_M = 3.0  # roads of narrower lanes often have no painted lines
CROSSFALL = 0.015  # of a road, from its middle outwards


@dataclass(frozen=True)
class Path:
    """A curve.

    Attributes:
        points_m: (n, 2) float64 x, y in the world, STEP_M apart along the curve.
        yaw_rad: (n,) float64 heading at the points, unwrapped.
    """

    points_m: Float64
    yaw_rad: Float64

    @classmethod
    def from_curvature(cls, start: tuple[float, float, float], curvature: Float64) -> Path:
        """The path from x, y, yaw with a curvature (n,) [1/m] in every step, positive to the left."""
        x, y, yaw = start
        headings = yaw + np.concatenate([[0.0], np.cumsum(curvature * STEP_M)])
        middle = (headings[1:] + headings[:-1]) / 2
        steps = STEP_M * np.stack([np.cos(middle), np.sin(middle)], axis=1)
        return cls(np.concatenate([[[x, y]], np.cumsum(steps, axis=0) + np.array([x, y])]), headings)

    @property
    def length_m(self) -> float:
        """Length of the curve."""
        return STEP_M * (len(self.points_m) - 1)

    def at(self, along_m: ArrayLike, left_m: ArrayLike = 0.0) -> Float64:
        """(..., 3) float64 x, y, yaw at places on the path or beside it; the path goes on straight past its ends."""
        along, left = np.broadcast_arrays(np.asarray(along_m, np.float64), np.asarray(left_m, np.float64))
        place = along / STEP_M
        index = np.clip(place.astype(np.int64), 0, len(self.points_m) - 2)
        share = (place - index)[..., None]
        point = self.points_m[index] + share * (self.points_m[index + 1] - self.points_m[index])
        turned = np.clip(share[..., 0], 0, 1) * (self.yaw_rad[index + 1] - self.yaw_rad[index])
        yaw = self.yaw_rad[index] + turned
        normal = np.stack([-np.sin(yaw), np.cos(yaw)], axis=-1)
        return np.concatenate([point + left[..., None] * normal, yaw[..., None]], axis=-1)

    def curvature_at(self, along_m: ArrayLike) -> Float64:
        """Curvature [1/m] at places on the path, positive to the left."""
        index = np.clip((np.asarray(along_m) / STEP_M).astype(np.int64), 0, len(self.points_m) - 2)
        curvature: Float64 = np.diff(self.yaw_rad)[index] / STEP_M
        return curvature


class Use(IntEnum):
    """What a part of the cross-section is for. Where roads meet, the greater use wins."""

    OPEN = 0
    VERGE = 1
    PAVEMENT = 2
    PARKING = 3
    LANE = 4


@dataclass(frozen=True)
class Section:
    """A cross-section. Pairs are (right, left) of the path.

    Attributes:
        lanes: number of lanes; those on the left are oncoming.
        lane_m: width of a lane.
        parking_m: width of the parking bays; 0 without.
        pavement_m: width of the pavement, or of the verge if there is no kerb.
        kerb_m: height of the kerb, 0 for a soft verge.
        median_m: width of the strip between the directions.
        shoulder_m: paved strip outside the lanes.
        marked: has painted lines.
    """

    lanes: tuple[int, int]
    lane_m: float
    parking_m: tuple[float, float] = (0.0, 0.0)
    pavement_m: tuple[float, float] = (2.0, 2.0)
    kerb_m: float = 0.12
    median_m: float = 0.0
    shoulder_m: float = 0.0
    marked: bool = True

    def lane_left_m(self, direction: int, index: int) -> float:
        """Where the middle of a lane is, left of the path; direction 1 or -1 (oncoming), 0 is the innermost lane."""
        return -direction * (self.median_m / 2 + (index + 0.5) * self.lane_m)

    def lane_edge_m(self, side: int) -> float:
        """Distance from the path to the outer edge of the lanes, on the right (side -1) or the left (1)."""
        return self.median_m / 2 + self.lanes[side > 0] * self.lane_m + self.shoulder_m

    def kerb_edge_m(self, side: int) -> float:
        """Distance to the kerb, parking bays included."""
        return self.lane_edge_m(side) + self.parking_m[side > 0]

    def outer_edge_m(self, side: int) -> float:
        """Distance to the outer edge of the pavement."""
        return self.kerb_edge_m(side) + self.pavement_m[side > 0]

    def bands(self) -> tuple[Float64, NDArray[np.uint8]]:
        """Edges (8,) [m left of the path, ascending] and the `Use` (7,) between them; a band may have no width."""
        half = self.median_m / 2
        right = [-self.outer_edge_m(-1), -self.kerb_edge_m(-1), -self.lane_edge_m(-1), -half]
        left = [half, self.lane_edge_m(1), self.kerb_edge_m(1), self.outer_edge_m(1)]
        side = Use.PAVEMENT if self.kerb_m > 0 else Use.VERGE
        uses = [side, Use.PARKING, Use.LANE, Use.VERGE, Use.LANE, Use.PARKING, side]
        return np.array(right + left), np.array(uses, np.uint8)

    def height_m(self, left_m: Float64) -> Float64:
        """Height of the cross-section at distances left of the path: falls from the middle, steps up at the kerbs."""
        distance, side = np.abs(left_m), left_m > 0
        kerb = np.where(side, self.kerb_edge_m(1), self.kerb_edge_m(-1))
        height: Float64 = -CROSSFALL * np.minimum(distance, kerb) + np.where(distance > kerb, self.kerb_m, 0.0)
        return height


@dataclass(frozen=True)
class Road:
    """A path with a cross-section.

    Attributes:
        path: the curve.
        section: what is swept along it.
        junctions: stretches (from, to) [m along] that junctions take, ascending.
    """

    path: Path
    section: Section
    junctions: tuple[tuple[float, float], ...] = ()

    def free_stretches(self, shortest_m: float = 4.0) -> list[tuple[float, float]]:
        """Stretches [m along] between the junctions."""
        edges = [0.0, *(edge for junction in self.junctions for edge in junction), self.path.length_m]
        return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > shortest_m]

    def in_junction(self, along_m: Float64) -> NDArray[np.bool_]:
        """Whether places along the road are in a junction."""
        inside = np.zeros(np.shape(along_m), bool)
        for start, end in self.junctions:
            inside |= (along_m > start) & (along_m < end)
        return inside


@dataclass(frozen=True)
class Network:
    """The roads of a drive: the main one, which the ego follows, and the side streets (arms)."""

    setting: Setting
    main: Road
    arms: tuple[Road, ...]

    @property
    def roads(self) -> tuple[Road, ...]:
        """All roads, the main one first."""
        return (self.main, *self.arms)


def lay_roads(drive_m: float, setting: Setting, rng: np.random.Generator) -> Network:
    """A random network around a drive of ``drive_m`` along its main road, which begins MARGIN_M before the drive."""
    path, crossings = _main_path(drive_m + 2 * MARGIN_M, setting, rng)
    section = _section(setting, setting.lanes[rng.integers(len(setting.lanes))], rng)
    arms: list[Road] = []
    zones = []
    for start, end in crossings:
        heads = _turn_off(path, start, end, rng) if end > start else _crossing(path, start, rng)
        widest = 0.0
        for head in heads:
            arm = _section(setting, (1, 1), rng)
            clear = max(section.kerb_edge_m(-1), section.kerb_edge_m(1)) + FILLET_M + 2 + (end - start) / 2
            curvature = np.full(int(ARM_M / STEP_M), rng.normal(0, 0.003))
            arms.append(Road(Path.from_curvature(head, curvature), arm, ((0.0, clear),)))
            widest = max(widest, arm.kerb_edge_m(-1), arm.kerb_edge_m(1))
        if heads:
            zones.append((start - widest - FILLET_M - 1, end + widest + FILLET_M + 1))
    return Network(setting, Road(path, section, tuple(zones)), tuple(arms))


def _section(setting: Setting, lanes: tuple[int, int], rng: np.random.Generator) -> Section:
    bays = np.where(rng.random(2) < 0.12, 5.0, rng.uniform(2.0, 2.3))
    parking = np.where(rng.random(2) < setting.parking, bays, 0.0)
    pavement = rng.uniform(*setting.pavement_m, 2)
    lane = rng.uniform(*setting.lane_m)
    marked = setting.lane_m[0] > NARROW_M or rng.random() < 0.3
    return Section(
        lanes,
        lane,
        (parking[0], parking[1]),
        (pavement[0], pavement[1]),
        setting.kerb_m,
        setting.median_m,
        setting.shoulder_m,
        bool(marked),
    )


def _main_path(length_m: float, setting: Setting, rng: np.random.Generator) -> tuple[Path, list[tuple[float, float]]]:
    """A path with bends, and where junctions are: (from, to) along it, equal where it goes straight over."""
    first = heading = rng.uniform(-0.5, 0.5)
    pieces: list[tuple[float, float]] = []  # length, angle
    crossings, along = [], 0.0
    while along < length_m:
        stretch = rng.uniform(*setting.junction_m)
        turn = np.clip(heading + rng.normal(0, setting.bend_rad), -STEEPEST_RAD, STEEPEST_RAD) - heading
        arc = min(abs(turn) * rng.uniform(*setting.radius_m), stretch)
        turn = np.sign(turn) * arc / max(arc / max(abs(turn), 1e-9), setting.radius_m[0])
        before = rng.uniform(0, stretch - arc)
        pieces += [(before, 0.0), (arc, turn), (stretch - before - arc, 0.0)]
        along, heading = along + stretch, heading + turn
        if rng.random() < setting.corner:
            away = -1.0 if heading > 0 else 1.0
            turn = np.clip(heading + away * rng.uniform(1.0, 1.5), -STEEPEST_RAD, STEEPEST_RAD) - heading
            arc = abs(turn) * rng.uniform(9.0, 12.0)
            pieces.append((arc, turn))
            crossings.append((along, along + arc))
            along, heading = along + arc, heading + turn
        elif rng.random() < setting.arms:
            crossings.append((along, along))
    bounds = np.cumsum([0.0, *(piece[0] for piece in pieces)])
    rates = np.array([angle / size if size > 0 else 0.0 for size, angle in pieces])
    middle = (np.arange(round(length_m / STEP_M)) + 0.5) * STEP_M
    curvature = rates[np.searchsorted(bounds, middle, side="right") - 1]
    box = np.full(round(EASING_M / STEP_M), STEP_M / EASING_M)
    path = Path.from_curvature((0.0, 0.0, first), np.convolve(curvature, box, mode="same"))
    return path, [(a, b) for a, b in crossings if a > 20 and b < length_m - 20]


def _crossing(path: Path, along_m: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Where the arms of a T- or X-junction start: x, y, heading."""
    x, y, yaw = path.at(along_m)
    sides = ((-1,), (1,), (-1, 1))[rng.integers(3)]
    skew = rng.normal(0, 0.1)
    return [(x, y, yaw + side * np.pi / 2 + skew) for side in sides]


def _turn_off(path: Path, start_m: float, end_m: float, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """The arms where the main road turns off: straight on, and opposite to where the main road goes."""
    (x, y, yaw), leaving = path.at(start_m - EASING_M), path.at(end_m + EASING_M)
    ahead, away = np.array([np.cos(yaw), np.sin(yaw)]), np.array([np.cos(leaving[2]), np.sin(leaving[2])])
    distance = np.linalg.solve(np.stack([ahead, away], axis=1), leaving[:2] - [x, y])[0]
    x, y = np.array([x, y]) + distance * ahead
    heads = [(x, y, yaw), (x, y, leaving[2] + np.pi)]
    return heads[: 1 + int(rng.random() < 0.6)]
