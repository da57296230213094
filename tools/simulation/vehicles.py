"""Vehicles: sizes as KITTI's labels have them; bodies with cabins, glass, wheels and gaps under the sill."""

from __future__ import annotations

import numpy as np

from tools.simulation.materials import Material
from tools.simulation.solids import Solids, box, ellipsoid, frustum

Size = tuple[float, float, float]

# Length, width, height [m]: mean, standard deviation, correlation (length-width, length-height, width-height) over the
# labels of 7,363 training frames of KITTI's object set: 28,347 cars, 2,873 vans, 1,072 trucks.
SIZES_M = {
    "Car": ((3.885, 1.628, 1.526), (0.425, 0.102, 0.137), (0.35, 0.18, 0.31)),
    "Van": ((5.081, 1.902, 2.207), (0.833, 0.173, 0.325), (0.65, 0.82, 0.67)),
    "Truck": ((10.084, 2.584, 3.254), (2.865, 0.217, 0.449), (0.41, 0.22, 0.38)),
}
TAILS = 2.3  # sizes beyond so many standard deviations are drawn in
# Shade of the paint against a mean one, and how common: black, blue and dark grey, silver, red, white.
PAINTS = ((0.08, 0.25), (0.3, 0.27), (0.9, 0.25), (0.7, 0.08), (2.2, 0.15))
CLEARANCE, NOSE, SHOULDER = 0.13, 0.44, 0.60  # heights of sill, bonnet's front edge, windows, as share of the height
ROOF_M = 0.05
# Along the roof line, as shares of the length from the front: foot of the windscreen, front and rear of the roof, foot
# of the rear window.
ROOF_LINES = {
    "saloon": (0.28, 0.45, 0.70, 0.86),
    "estate": (0.27, 0.42, 0.92, 0.985),
    "hatchback": (0.24, 0.42, 0.86, 0.97),
    "suv": (0.26, 0.40, 0.90, 0.97),
}


def correlated_size(
    mean: Size, spread: Size, correlation: tuple[float, float, float], rng: np.random.Generator
) -> Size:
    """A random length, width, height [m] of given statistics; the tails are cut off at TAILS deviations."""
    lw, lh, wh = correlation
    root = np.linalg.cholesky(np.array([[1, lw, lh], [lw, 1, wh], [lh, wh, 1]]))
    draw = np.clip(root @ rng.standard_normal(3), -TAILS, TAILS)
    length, width, height = np.array(mean) + np.array(spread) * draw
    return float(length), float(width), float(height)


def random_size(kind: str, rng: np.random.Generator) -> Size:
    """Length, width, height [m] of a vehicle of KITTI's class ``kind``."""
    return correlated_size(*SIZES_M[kind], rng)


def body(kind: str, size_m: Size, rng: np.random.Generator) -> tuple[str, Solids]:
    """A body for a size: its name, and its parts around the origin, standing on the ground, heading along +x."""
    shades, shares = np.array(PAINTS).T
    paint = float(rng.choice(shades, p=shares) * rng.uniform(0.8, 1.2))
    if kind == "Truck":
        return "lorry", _lorry(size_m, paint, rng)
    if kind == "Van":
        windows = bool(rng.random() < 0.5)
        return "minibus" if windows else "van", _van(size_m, paint, windows)
    name = _car_body(size_m, rng)
    return name, _car(size_m, paint, ROOF_LINES[name])


def _car_body(size_m: Size, rng: np.random.Generator) -> str:
    """The kind of body that goes with a size: high ones are SUVs, short ones hatchbacks."""
    length, _, height = size_m
    if height > 1.66:
        return "suv"
    if length < 3.9:
        return "hatchback"
    return str(rng.choice(["saloon", "estate", "hatchback"], p=[0.45, 0.35, 0.2]))


class _Shell:
    """Makes parts from shares of a vehicle's length, 0 at the front, and of its width.

    The whole lies within the vehicle's size.
    """

    def __init__(self, size_m: Size, paint: float) -> None:
        self.length, self.width, self.height = size_m
        self.paint = paint

    def slab(
        self,
        heights_m: tuple[float, float],
        lower: tuple[float, float],
        upper: tuple[float, float],
        widths: tuple[float, float],
        material: Material,
    ) -> Solids:
        """A frustum between two heights that reaches from, to (shares of the length) below and above."""
        low, high = ((0.5 - sum(ends) / 2) * self.length for ends in (lower, upper))
        sizes = [
            ((ends[1] - ends[0]) * self.length, wide * self.width)
            for ends, wide in zip((lower, upper), widths, strict=True)
        ]
        shade = self.paint if material == Material.PAINT else 1.0
        bottom, top = heights_m
        return frustum((low, 0, bottom), sizes[0], sizes[1], top - bottom, material, shade, shift_m=high - low)

    def wheels(self, radius_m: float, axles: tuple[float, ...]) -> list[Solids]:
        """Wheels on axles at shares of the length."""
        half = (radius_m, 0.12, radius_m)
        return [
            ellipsoid(((0.5 - axle) * self.length, side * (self.width / 2 - 0.12), radius_m), half, Material.RUBBER)
            for axle in axles
            for side in (1, -1)
        ]

    def plates(self, lamp_m: float, plate_m: float) -> list[Solids]:
        """Number plates and lamps, front and rear, at heights."""
        parts = []
        for end in (1, -1):
            x = end * (self.length / 2 - 0.02)
            parts.append(box((x, 0, plate_m), (0.04, 0.5, 0.11), Material.PLATE))
            for side in (1, -1):
                parts.append(box((x, side * 0.38 * self.width, lamp_m), (0.04, 0.2, 0.12), Material.PLATE, 0.3))
        return parts

    def mirrors(self, place: float, height_m: float) -> list[Solids]:
        """Outside mirrors; KITTI's boxes leave them out."""
        x, y = (0.5 - place) * self.length, self.width / 2 + 0.07
        size = (0.1, 0.18, 0.13)
        return [box((x, side * y, height_m), size, Material.PAINT, self.paint) for side in (1, -1)]


def _car(size_m: Size, paint: float, roof_line: tuple[float, float, float, float]) -> Solids:
    shell, height = _Shell(size_m, paint), size_m[2]
    foot, front, rear, tail = roof_line
    sill, nose, shoulder, roof = CLEARANCE * height, NOSE * height, SHOULDER * height, height - ROOF_M
    hull = shell.slab((sill, nose), (0.012, 0.988), (0.004, 0.996), (0.90, 0.99), Material.PAINT)
    bonnet = shell.slab((nose, shoulder), (0.01, 0.99), (foot - 0.03, max(tail, 0.985)), (0.99, 0.95), Material.PAINT)
    cabin = shell.slab((shoulder, roof), (foot, tail), (front, rear), (0.93, 0.76), Material.GLASS)
    top = shell.slab((roof, height), (front, rear), (front + 0.02, rear - 0.01), (0.77, 0.72), Material.PAINT)
    pillars = []
    for place in (0.5, 0.93):  # the second one closes the rear, with the bench behind it
        below, above = foot + place * (tail - foot), front + place * (rear - front)
        ends = [(middle - 0.012, middle + 0.012) for middle in (below, above)]
        pillars.append(shell.slab((shoulder, roof), ends[0], ends[1], (0.94, 0.77), Material.PAINT))
    seats = shell.slab(
        (shoulder - 0.1, shoulder + 0.17 * height), (0.46, 0.54), (0.49, 0.54), (0.75, 0.6), Material.CLOTH
    )
    parts = [hull, bonnet, cabin, top, *pillars, seats]
    parts += shell.wheels(0.205 * height, (0.19, 0.81)) + shell.mirrors(foot + 0.07, shoulder)
    return Solids.join(parts + shell.plates(nose - 0.13, 0.26 * height))


def _van(size_m: Size, paint: float, windows: bool) -> Solids:
    shell, height = _Shell(size_m, paint), size_m[2]
    sill, shoulder, roof = 0.11 * height, 0.5 * height, height - 0.1
    hull = shell.slab((sill, 0.4 * height), (0.01, 0.995), (0.004, 0.997), (0.92, 0.99), Material.PAINT)
    bonnet = shell.slab((0.4 * height, shoulder), (0.005, 0.997), (0.1, 0.997), (0.99, 0.98), Material.PAINT)
    cab = shell.slab((shoulder, roof), (0.11, 0.4), (0.25, 0.4), (0.95, 0.84), Material.GLASS)
    seats = shell.slab((shoulder - 0.1, 0.72 * height), (0.3, 0.36), (0.32, 0.36), (0.8, 0.7), Material.CLOTH)
    rear = shell.slab(
        (shoulder, roof), (0.38, 0.997), (0.38, 0.985), (0.97, 0.87), Material.GLASS if windows else Material.PAINT
    )
    top = shell.slab((roof, height), (0.25, 0.985), (0.28, 0.975), (0.87, 0.8), Material.PAINT)
    parts = [hull, bonnet, cab, seats, rear, top]
    if windows:
        for place in (0.39, 0.68, 0.97):
            ends = (place - 0.012, place + 0.012)
            parts.append(shell.slab((shoulder, roof), ends, ends, (0.98, 0.88), Material.PAINT))
    parts += shell.wheels(0.33, (0.17, 0.79)) + shell.mirrors(0.2, shoulder + 0.05)
    return Solids.join(parts + shell.plates(0.36 * height, 0.2 * height))


def _lorry(size_m: Size, paint: float, rng: np.random.Generator) -> Solids:
    """A lorry with a cab and a box, or with a low platform behind the cab."""
    shell = _Shell(size_m, paint)
    length, _, height = size_m
    cab = min(2.2, 0.3 * length) / length
    low = rng.random() < 0.2
    cab_top = height if low else rng.uniform(0.82, 0.97) * height
    glass = (0.52 * cab_top, 0.82 * cab_top)
    front = shell.slab((0.4, cab_top), (0.006, cab), (0.012, cab), (0.95, 0.93), Material.PAINT)
    screen = box((length / 2 - 0.02, 0, glass[0]), (0.04, 0.85 * shell.width, glass[1] - glass[0]), Material.GLASS)
    chassis = shell.slab((0.65, 0.95), (cab, 0.98), (cab, 0.98), (0.4, 0.4), Material.METAL)
    cargo_top = rng.uniform(1.3, 1.7) if low else height
    load = box(
        ((0.5 - (cab + 0.03 + 1) / 2) * length, 0, 0.95),
        ((0.97 - cab) * length, shell.width, cargo_top - 0.95),
        Material.METAL if low else Material.PLASTER,
        rng.uniform(0.3, 1.5),
    )
    axles = (0.13, 0.74, 0.88) if length > 8 else (0.16, 0.8)
    parts = [front, screen, chassis, load, *shell.wheels(0.48, axles), *shell.mirrors(0.02, glass[0] + 0.2)]
    return Solids.join(parts + shell.plates(0.7, 0.5))
