"""What the ground of a frame is, seen from above: ground truth for networks that find the road.

A raster lies on a `BevSpec` in the frame of the sensor at the stamp: row = x, row 0 at ``x_min_m``; column = y, column
0 at ``y_min_m``; a cell holds the `Ground` under its middle, whether the sensor saw it or not, and whatever stands
there. So a raster of 0.2 m cells is the detector's grid of 0.1 m cells at half its resolution, cell by cell.

On disk it is an indexed PNG whose pixel in row r and column c is that cell (as a picture: up is backward, right is
left), beside ``grid.json`` with the grid and the names of the values.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector.errors import LabelError, RoadblocksError
from detector.files import write_json, write_whole
from models.grid import BevSpec
from tools.simulation.sensor import Sensor
from tools.simulation.surface import Ground
from tools.simulation.sweep import lidar_from_world, world_from_lidar
from tools.simulation.world import World

FRONT = BevSpec(cell_m=0.2)
SURROUND = BevSpec(x_min_m=-70.4, cell_m=0.2)
GRID_FILE = "grid.json"
COLOURS = {
    Ground.ROAD: (90, 90, 96),
    Ground.MARKING: (240, 240, 240),
    Ground.PAVEMENT: (190, 160, 140),
    Ground.GRASS: (90, 150, 70),
    Ground.EARTH: (130, 100, 70),
}


@dataclass(frozen=True)
class RoadRaster:
    """The ground around a sensor.

    Attributes:
        kind: (R, C) uint8, of `Ground`.
        spec: where its cells are; heights mean nothing.
    """

    kind: NDArray[np.uint8]
    spec: BevSpec

    @property
    def road(self) -> NDArray[np.bool_]:
        """(R, C) bool: road, painted or not, parking bays included."""
        return np.isin(self.kind, (Ground.ROAD, Ground.MARKING))


def find_road(sensor: Sensor, world: World, time_s: float, spec: BevSpec) -> RoadRaster:
    """The raster of a frame of ``sensor`` in ``world`` at ``time_s``.

    Kerbs are taken as level: under a sensor that is tilted by 5 degrees one of 0.12 m is off by 1 cm.
    """
    below = world_from_lidar(sensor, world, time_s)[:3, 3] - [0, 0, sensor.height_m]
    # Ground of one height maps to the sensor's x and y affinely: three places tell how.
    steps = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    there = lidar_from_world(sensor, world, time_s, below + steps)[:, :2]
    lidar_from_ground = (there[1:] - there[0]).T
    x = spec.x_min_m + (np.arange(spec.rows)[:, None] + 0.5) * spec.cell_m - there[0, 0]
    y = spec.y_min_m + (np.arange(spec.cols) + 0.5) * spec.cell_m - there[0, 1]
    (xx, xy), (yx, yy) = np.linalg.inv(lidar_from_ground)
    return RoadRaster(world.surface.kind_at(below[0] + xx * x + xy * y, below[1] + yx * x + yy * y), spec)


def write_road(folder: Path, frame_id: str, raster: RoadRaster) -> None:
    """Writes ``ID.png``, and ``grid.json`` where there is none yet."""
    image = Image.fromarray(raster.kind)
    image.putpalette([channel for kind in Ground for channel in COLOURS[kind]])
    png = io.BytesIO()
    image.save(png, "PNG")
    write_whole(folder / f"{frame_id}.png", png.getvalue())
    if not (folder / GRID_FILE).exists():
        names = {kind.name.lower(): int(kind) for kind in Ground}
        write_json(folder / GRID_FILE, {"rows": "x", "columns": "y", "grid": raster.spec.to_dict(), "kinds": names})


def read_road(path: Path) -> RoadRaster:
    """The raster of one PNG.

    Raises:
        LabelError: if it or ``grid.json`` beside it cannot be read, or one does not fit the other.
    """
    try:
        spec = BevSpec.from_dict(json.loads((path.parent / GRID_FILE).read_text(encoding="utf-8"))["grid"])
        with Image.open(path) as image:
            kind = np.array(image)
    except (OSError, ValueError, KeyError, TypeError, RoadblocksError) as error:
        raise LabelError(f"{path}: {error}; expected a PNG of a road raster, {GRID_FILE} beside it") from error
    if kind.shape != (spec.rows, spec.cols) or kind.dtype != np.uint8:
        raise LabelError(
            f"{path}: {kind.dtype} of shape {kind.shape}, expected uint8 of shape {(spec.rows, spec.cols)}, "
            f"as {GRID_FILE} says"
        )
    return RoadRaster(kind, spec)
