"""What stands along the roads: buildings, fences, hedges, trees, poles, boxes, guard rails."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tools.simulation.materials import Material
from tools.simulation.plot import ANYWHERE, Plot
from tools.simulation.roads import Network, Road, Use
from tools.simulation.settings import Setting
from tools.simulation.solids import Solids, box, crown, cylinder, frustum

Float64 = NDArray[np.float64]

BACKGROUND_M = 10.0  # of road per group of trees or house of the second row, on either side
SUNK_M = 0.15  # below the ground, so that nothing floats where the ground is uneven


def build_scenery(network: Network, plot: Plot, rng: np.random.Generator) -> Solids:
    """Everything that stands still and is no actor, on the free ground of the plot."""
    parts: list[Solids] = []
    for road in network.roads:
        for side in (-1, 1):
            for start, end in road.free_stretches():
                stand = _Stand(plot, road, side, rng)
                if road.section.median_m > 0:
                    stand.guard_rail(start, end)
                stand.furniture(start, end, network.setting)
                stand.frontage(start, end, network.setting)
                stand.background(start, end, network.setting)
                parts += stand.parts
    return Solids.join(parts)


class _Stand:
    """Puts things beside one side of a road; places are metres along it and metres outwards from its path."""

    def __init__(self, plot: Plot, road: Road, side: int, rng: np.random.Generator) -> None:
        self.plot, self.road, self.side, self.rng = plot, road, side, rng
        self.kerb, self.outer = road.section.kerb_edge_m(side), road.section.outer_edge_m(side)
        self.parts: list[Solids] = []

    def place(
        self,
        along: float,
        out: float,
        length: float = 0.3,
        width: float = 0.3,
        allowed: tuple[Use, ...] = ANYWHERE,
    ) -> tuple[float, float, float, float] | None:
        """x, y, z (the lowest ground, less SUNK_M) and yaw of a footprint, which is taken; None if it is not free."""
        x, y, yaw = self.road.path.at(along, self.side * out)
        if not self.plot.claim(np.array([x, y, length, width, yaw]), allowed):
            return None
        cos, sin = np.cos(yaw) * length / 2, np.sin(yaw) * length / 2
        ground = self.plot.surface.height_at(x + cos * np.array([-1, 0, 1]), y + sin * np.array([-1, 0, 1])).min()
        return float(x), float(y), float(ground) - SUNK_M, float(yaw)

    def furniture(self, start: float, end: float, setting: Setting) -> None:
        """Along the kerb: trees in rows, lamp posts, signs, boxes; delineators outside towns."""
        rng, town = self.rng, setting.kerb_m > 0
        trees = rng.random() < 0.5
        along, lamp = start + rng.uniform(0, 10), rng.uniform(15, 35)
        while along < end:
            out, pick = self.kerb + rng.uniform(0.35, 0.6), rng.random()
            if not town:
                self.tree(along, out + rng.uniform(1.5, 3)) if trees else self.delineator(along, self.kerb + 0.6)
                along += rng.uniform(8, 15) if trees else rng.uniform(20, 30)
                continue
            if trees and pick < 0.65:
                self.tree(along, out + 0.2)
            elif pick < 0.75:
                self.pole(along, out, rng.uniform(0.06, 0.1), rng.uniform(5, 8))
            elif pick < 0.9:
                self.sign(along, out)
            else:
                self.cabinet(along, self.outer - 0.4)
            along += rng.uniform(6, 14) if trees else lamp * rng.uniform(0.4, 1.2)
        for end_of in (start, end):  # the corners of junctions have a sign or a light
            if town and rng.random() < 0.6:
                self.sign(end_of, self.kerb + 0.5)

    def tree(self, along: float, out: float) -> None:
        """A trunk and one to three crowns."""
        rng = self.rng
        trunk = rng.uniform(0.08, 0.28)
        at = self.place(along, out, 2 * trunk, 2 * trunk)
        if at is None:
            return
        x, y, z, _ = at
        clear, radius = rng.uniform(1.8, 3.2), rng.uniform(1.0, 2.8)
        tall, shade = radius * rng.uniform(0.8, 1.5), rng.uniform(0.7, 1.2)
        self.parts.append(cylinder((x, y, z), trunk, clear + SUNK_M + 0.4 * tall, Material.BARK, shade))
        self.parts.append(crown((x, y, z + clear + tall), radius, tall, shade=shade))
        for _ in range(rng.integers(0, 3)):
            dx, dy = rng.uniform(-0.7, 0.7, 2) * radius
            lift = rng.uniform(0.6, 1.8) * tall
            self.parts.append(crown((x + dx, y + dy, z + clear + lift), 0.6 * radius, 0.6 * tall, shade=shade))

    def bush(self, along: float, out: float, radius: float) -> None:
        """Leaves down to the ground."""
        at = self.place(along, out, 1.6 * radius, 1.6 * radius)
        if at is not None:
            tall = radius * self.rng.uniform(0.7, 1.3)
            self.parts.append(crown((at[0], at[1], at[2] + 0.8 * tall), radius, tall, shade=self.rng.uniform(0.7, 1.2)))

    def pole(self, along: float, out: float, radius: float, height: float) -> tuple[float, float, float, float] | None:
        """A lamp post or mast."""
        at = self.place(along, out)
        if at is not None:
            self.parts.append(cylinder(at[:3], radius, height, Material.METAL))
        return at

    def sign(self, along: float, out: float) -> None:
        """A traffic sign: a pole with a retro-reflecting plate across the road."""
        rng = self.rng
        at = self.pole(along, out, 0.035, rng.uniform(2.3, 3.2))
        if at is None:
            return
        x, y, z, yaw = at
        size, height = rng.uniform(0.4, 0.8), rng.uniform(1.7, 2.3)
        yaw += np.pi * (self.side > 0)  # towards the traffic of this side
        ahead = -0.06 * np.array([np.cos(yaw), np.sin(yaw)])
        self.parts.append(box((x + ahead[0], y + ahead[1], z + height), (0.03, size, size), Material.SIGN, 1.0, yaw))

    def delineator(self, along: float, out: float) -> None:
        """The white post beside a country road."""
        at = self.place(along, out)
        if at is not None:
            self.parts.append(box(at[:3], (0.12, 0.1, 1.0 + SUNK_M), Material.PLASTER, 1.5, at[3]))
            self.parts.append(box((at[0], at[1], at[2] + 0.85), (0.13, 0.05, 0.15), Material.SIGN, 0.5, at[3]))

    def cabinet(self, along: float, out: float) -> None:
        """A bin, a switch box or a letter box."""
        size = tuple(self.rng.uniform((0.4, 0.35, 0.8), (1.2, 0.6, 1.5)))
        at = self.place(along, out, size[0], size[1])
        if at is not None:
            self.parts.append(box(at[:3], size, Material.CONCRETE, self.rng.uniform(0.3, 1.5), at[3]))

    def guard_rail(self, start: float, end: float) -> None:
        """A steel rail on posts beside the median and, at times, outside."""
        outside = self.rng.random() < 0.6
        for out in (self.road.section.median_m / 2 - 0.4, *((self.kerb + 0.6,) if outside else ())):
            for along in np.arange(start + 2, end - 2, 4.0):
                at = self.place(along, out, 3.9, 0.2)
                if at is not None:
                    x, y, z, yaw = at
                    self.parts.append(box((x, y, z + 0.45 + SUNK_M), (4.0, 0.08, 0.31), Material.METAL, 1.0, yaw))
                    self.parts.append(box((x, y, z), (0.1, 0.1, 0.6 + SUNK_M), Material.METAL, 1.0, yaw))

    def frontage(self, start: float, end: float, setting: Setting) -> None:
        """Lot by lot: a building near or far from the pavement, or a garden; a fence, wall or hedge in front."""
        rng, along = self.rng, start + _passage(self.rng)
        line = rng.choice([0.2, rng.uniform(2, 9)], p=[0.3, 0.7])  # houses of a street stand in line
        while along < end - 5:
            width = min(rng.uniform(8, 24), end - along)
            setback = max(0.2, line + rng.normal(0, 0.4))
            built = rng.random() < setting.built
            if built:
                self.building(along + width / 2, setback, width)
            if (not built and setting.kerb_m > 0) or (setback > 1.2 and rng.random() < 0.7):
                self.boundary(along, along + width)
                for _ in range(rng.poisson(4.0 if built else 7.0)):
                    out = self.outer + rng.uniform(1.0, setback if built else 14.0)
                    self.plant(rng.uniform(along, along + width), out, setting)
            along += width + _passage(rng)

    def plant(self, along: float, out: float, setting: Setting) -> None:
        """A tree or a bush."""
        if self.rng.random() < setting.wooded:
            self.tree(along, out)
        else:
            self.bush(along, out, self.rng.uniform(0.4, 1.5))

    def building(self, middle: float, setback: float, lot_m: float) -> None:
        """A house with a pitched or flat roof, a porch or a shop window."""
        rng = self.rng
        width, depth, height = lot_m * rng.uniform(0.8, 1.0), rng.uniform(7, 13), rng.uniform(3.5, 13)
        at = None
        while at is None and width > 4:  # where the road bends, or something stands there, a smaller house may fit
            at = self.place(middle, self.outer + setback + depth / 2, width, depth)
            width, depth = (width, depth) if at else (0.7 * width, 0.9 * depth)
        if at is None:
            return
        x, y, z, yaw = at
        material = Material.BRICK if rng.random() < 0.25 else Material.PLASTER
        shade = rng.uniform(0.5, 1.4)
        self.parts.append(box((x, y, z), (width, depth, height + SUNK_M), material, shade, yaw))
        if rng.random() < 0.7:
            roof = ((width + 0.4, depth + 0.6), (width, 0.2))
            self.parts.append(frustum((x, y, z + height + SUNK_M), *roof, rng.uniform(2, 4), Material.BRICK, 0.8, yaw))
        for _ in range(rng.integers(0, 4)):  # porches, bays, shop windows: what is not flat about a front
            bay = (rng.uniform(0.8, 3), rng.uniform(0.1, 0.5), rng.uniform(1.0, 3))
            forward = rng.uniform(-0.4, 0.4) * width
            left = -self.side * (depth + bay[1]) / 2
            place = (x + np.cos(yaw) * forward - np.sin(yaw) * left, y + np.sin(yaw) * forward + np.cos(yaw) * left)
            if setback > 0.8:
                glass = rng.random() < 0.4
                ground = float(self.plot.surface.height_at(*place)) - SUNK_M
                self.parts.append(box((*place, ground), bay, Material.GLASS if glass else material, 1.0, yaw))

    def boundary(self, start: float, end: float) -> None:
        """A wall, a hedge or a fence along the pavement, with a gate."""
        rng = self.rng
        kind, height, shade = rng.random(), rng.uniform(0.5, 1.9), rng.uniform(0.6, 1.3)
        thick = 0.7 if kind < 0.4 else 0.2
        gate = rng.uniform(start, end)
        for along in np.arange(start + 1.5, end - 1, 3.0):
            at = None if abs(along - gate) < 2.5 else self.place(along, self.outer + thick / 2 + 0.1, 2.5, thick)
            if at is None:
                continue
            x, y, z, yaw = at
            if kind < 0.7:
                material = Material.LEAVES if kind < 0.4 else Material.CONCRETE
                self.parts.append(box((x, y, z), (3.0, thick, height + SUNK_M), material, shade, yaw))
            else:
                for lift in (0.25, 0.9):
                    rail = (3.0, 0.04, 0.1)
                    self.parts.append(box((x, y, z + SUNK_M + lift * height), rail, Material.METAL, shade, yaw))
                self.parts.append(box((x, y, z), (0.09, 0.09, height + SUNK_M), Material.METAL, shade, yaw))

    def background(self, start: float, end: float, setting: Setting) -> None:
        """What is farther away: groups of trees and bushes, and houses of the second row."""
        rng = self.rng
        for _ in range(rng.poisson((end - start) / BACKGROUND_M)):
            along, out = rng.uniform(start, end), self.outer + rng.uniform(6, 40)
            if rng.random() < setting.built:
                self.building(along, out - self.outer, rng.uniform(8, 20))
            else:
                for _ in range(rng.integers(2, 8)):
                    self.plant(along + rng.normal(0, 3), out + rng.normal(0, 3), setting)


def _passage(rng: np.random.Generator) -> float:
    """Metres between two lots: often none, at times a passage."""
    return float(rng.uniform(1, 6)) if rng.random() < 0.5 else 0.3
