"""What surfaces are made of, and what a LiDAR's light at 905 nm does there: one table.

Reflectances are in units of KITTI's intensity before the receiver takes off its floor and a ring's gain, some 0.1 of a
road. The medians of the train frames decide where they can (ground ahead reads 0.25 at 5 to 20 m, vegetation 0.3, cars
mostly below 0.05), rough values from spectral libraries elsewhere.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Material(IntEnum):
    """Materials of solids and of the ground."""

    ASPHALT = 0
    MARKING = 1
    PAVING = 2
    KERB = 3
    GRASS = 4
    EARTH = 5
    PLASTER = 6
    BRICK = 7
    CONCRETE = 8
    LEAVES = 9
    BARK = 10
    METAL = 11
    SIGN = 12  # retro-reflecting
    PAINT = 13  # of a vehicle's body
    GLASS = 14
    RUBBER = 15
    PLATE = 16  # retro-reflecting: number plates, lamps
    CLOTH = 17


@dataclass(frozen=True)
class Optics:
    """A material's answer to a beam.

    Attributes:
        reflectance: diffuse, at normal incidence, 0..1.
        specular: share of the light that is mirrored, and so comes back near normal incidence only.
        transmits: share of beams that pass as if nothing stood there.
        retro: how many times stronger the echo is than a diffuse surface's, less one.
        dropout: share of beams that never come back, whatever the range.
        roughness_m: spread of ranges within a beam's footprint, standard deviation.
    """

    reflectance: float
    specular: float = 0.0
    transmits: float = 0.0
    retro: float = 0.0
    dropout: float = 0.0
    roughness_m: float = 0.0


OPTICS = {
    Material.ASPHALT: Optics(0.42, specular=0.05),
    Material.MARKING: Optics(0.55, retro=0.5),
    Material.PAVING: Optics(0.42),
    Material.KERB: Optics(0.45),
    Material.GRASS: Optics(0.45, roughness_m=0.02),
    Material.EARTH: Optics(0.40, roughness_m=0.01),
    Material.PLASTER: Optics(0.55),
    Material.BRICK: Optics(0.42),
    Material.CONCRETE: Optics(0.46),
    Material.LEAVES: Optics(0.52, dropout=0.05, roughness_m=0.05),
    Material.BARK: Optics(0.38, roughness_m=0.01),
    Material.METAL: Optics(0.35, specular=0.5, dropout=0.05),
    Material.SIGN: Optics(0.60, retro=20.0),
    Material.PAINT: Optics(0.36, specular=0.7, dropout=0.05),
    Material.GLASS: Optics(0.10, specular=0.9, transmits=0.55, dropout=0.5),
    Material.RUBBER: Optics(0.08, dropout=0.15),
    Material.PLATE: Optics(0.60, retro=20.0),
    Material.CLOTH: Optics(0.30, roughness_m=0.01),
}

REFLECTANCE, SPECULAR, TRANSMITS, RETRO, DROPOUT, ROUGHNESS = range(6)  # columns of the table


def optics_table() -> NDArray[np.float64]:
    """(materials, 6) float64: one row per material, columns in the order of the fields of `Optics`."""
    return np.array([astuple(OPTICS[material]) for material in Material])
