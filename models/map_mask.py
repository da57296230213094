"""Mask source ``map:FILE``: a raster that tells where vehicles can be, a map of the world or of what the sensor faces.

`read_map` reads it, `MapCells` looks it up; docs/maps.md describes the files. Whatever a map does not tell is computed:
cells beyond the raster, pixels without data, and frames of which nobody knows where they were taken.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.errors import RoadblocksError
from models.grid import BevSpec
from models.mask_network import MASK_STRIDE

log = logging.getLogger("roadblocks")

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

MAX_PIXELS = 80_000_000  # 3.2 km² in pixels of 0.2 m; more is a mistake, or meant to exhaust memory
MAX_TEXT_BYTES = 100_000
FRAMES = ("ego", "world")
SIDECAR_NUMBERS = ("x_min_m", "y_min_m", "cell_m")
SIDECAR_KEYS = ("frame", *SIDECAR_NUMBERS, "values")
WORLD_FILES = {
    ".png": (".pgw", ".pngw", ".wld"),
    ".tif": (".tfw", ".tifw", ".wld"),
    ".tiff": (".tfw", ".tiffw", ".wld"),
}
# GeoTIFF 1.1 (OGC 19-008r4) and GDAL's own tag.
PIXEL_SCALE, TIE_POINT, TRANSFORMATION, GEO_KEYS, NODATA = 33550, 33922, 34264, 34735, 42113
MODEL_TYPE_KEY, RASTER_TYPE_KEY = 1024, 1025
GEOGRAPHIC, PIXEL_IS_POINT = 2, 2


class MapError(RoadblocksError):
    """A map that is missing, is no image, or does not say where it lies."""


@dataclass(frozen=True)
class RoadMap:
    """A raster and where it lies.

    Attributes:
        drivable: (R, C) bool: vehicles can be there, or nobody knows.
        place_from_pixel: (2, 3) float64: x and y [m] = matrix @ (column, row, 1), where (0, 0) is the outer corner of
            the first pixel and (1, 1) the one diagonally across it.
        frame: "ego", the frame of the points, or "world", that of the poses.
    """

    drivable: Bool
    place_from_pixel: Float64
    frame: str


class MapCells:
    """Where a map says that vehicles can be.

    Args:
        spec: the detector's grid.
        path: the map.

    Raises:
        MapError: see `read_map`.
    """

    ranks = False

    def __init__(self, spec: BevSpec, path: Path) -> None:
        road = read_map(path)
        self._path, self._frame, self._warned = path, road.frame, False
        cells = replace(spec, cell_m=spec.cell_m * MASK_STRIDE)
        lengths_m = np.hypot(*road.place_from_pixel[:, :2])  # of a step along the columns, along the rows
        pooled = np.maximum(np.ceil(cells.cell_m / 2 / lengths_m - 1e-6), 1).astype(int)
        self._pixel_from_place = _inverse(road.place_from_pixel) / pooled[:, None]
        self._drivable = _spread(_pooled(road.drivable, int(pooled[1]), int(pooled[0])))
        # Points no farther apart than pixels are: with a pixel more on all sides nothing can slip between them.
        self._parts = int(np.ceil(cells.cell_m / (lengths_m * pooled).min() - 1e-6))
        step_m = cells.cell_m / self._parts
        self._x_m = cells.x_min_m + (np.arange(cells.rows * self._parts) + 0.5) * step_m
        self._y_m = cells.y_min_m + (np.arange(cells.cols * self._parts) + 0.5) * step_m
        self._everything = np.ones((cells.rows, cells.cols), np.float32)
        self._ego = self._look_up(np.eye(4)) if road.frame == "ego" else None

    def __call__(self, points: Float32, pose: Float64 | None = None) -> Float32:
        """1 where vehicles can be and where nobody knows, else 0.

        Every pixel that touches a cell counts for it, and none that is farther off than a pixel, or than a cell where
        pixels are smaller. The sensor is taken as level: tilted by 5 degrees, a map of the world is off by 0.15 m.

        Args:
            points: of the frame; the map does not look at them.
            pose: (4, 4) float64, world_from_lidar. Without it, everything is computed with a map of the world.

        Returns:
            (rows / 4, cols / 4) float32.
        """
        if self._ego is not None:
            return self._ego
        if pose is None or not np.isfinite(pose).all():
            if not self._warned:
                log.warning(
                    "%s is a map of the world, and frames come without a pose: all of the grid is computed for them; "
                    "poses are read as docs/maps.md says",
                    self._path,
                )
            self._warned = True
            return self._everything
        return self._look_up(np.asarray(pose, np.float64))

    def _look_up(self, place_from_lidar: Float64) -> Float32:
        turn = self._pixel_from_place[:, :2] @ place_from_lidar[:2, :2]
        start = self._pixel_from_place @ [*place_from_lidar[:2, 3], 1]
        col, row = (np.add.outer(a * self._x_m + c, b * self._y_m) for (a, b), c in zip(turn, start, strict=True))
        rows, cols = self._drivable.shape  # with a border, which stands for all that is outside
        row, col = (np.clip(np.floor(v) + 1, 0, n - 1).astype(np.intp) for v, n in ((row, rows), (col, cols)))
        found = _pooled(self._drivable[row, col], self._parts, self._parts)
        return found.astype(np.float32)


def read_map(path: Path) -> RoadMap:
    """The map in a PNG or TIFF, placed by ``FILE.json``, by its world file, or by its GeoTIFF tags, in this order.

    Raises:
        MapError: if a file is missing or broken, the raster is too large, or nothing says where it lies.
    """
    _check_file(path)
    sidecar = path.with_name(f"{path.name}.json")
    values = _read_sidecar(sidecar) if sidecar.is_file() else None
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MapError(f"{path}: {image.width} x {image.height} pixels, expected at most {MAX_PIXELS}")
            tags = dict(getattr(image, "tag_v2", {}))
            pixels = np.array(image)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise MapError(f"{path}: {error}; expected a PNG or TIFF of at most {MAX_PIXELS} pixels") from error
    place = values["place"] if values else _placed(path, tags)
    if not np.isfinite(place).all() or abs(np.linalg.det(place[:, :2])) < 1e-12:
        raise MapError(f"{path}: placed by {place.tolist()}, expected finite numbers and pixels with an area")
    drivable = _drivable(path, pixels, values["values"] if values else None, tags)
    return RoadMap(drivable, place, values["frame"] if values else "world")


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in WORLD_FILES:
        raise MapError(f"{path}: unknown kind of map, expected {', '.join(WORLD_FILES)}")
    if not path.is_file():
        raise MapError(f"{path}: no such file; expected a map, a PNG or TIFF, as docs/maps.md describes it")


def _drivable(path: Path, pixels: NDArray[Any], values: list[int] | None, tags: dict[int, Any]) -> Bool:
    """(R, C) bool of an image: listed values, by default all but 0; and what has no data."""
    if pixels.ndim == 3:  # colours; transparency, the last of an even number of bands, says nothing
        pixels = pixels[:, :, : pixels.shape[2] - (pixels.shape[2] % 2 == 0)].max(axis=2)
    if pixels.ndim != 2 or pixels.size == 0:
        raise MapError(f"{path}: pixels of shape {pixels.shape}, expected rows and columns")
    found = np.isin(pixels, values) if values is not None else pixels != 0
    try:
        nodata = float(str(tags[NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        nodata = np.nan
    return np.asarray(found | (pixels == nodata) | ~np.isfinite(pixels), np.bool_)


def _read_sidecar(path: Path) -> dict[str, Any]:
    """Place, frame and values of ``FILE.json``."""
    expected = f"expected keys {', '.join(SIDECAR_KEYS)}, the last if wanted"
    try:
        found = json.loads(_text(path))
        unknown = sorted(set(found) - set(SIDECAR_KEYS))
        x_min_m, y_min_m, cell_m = (float(found[key]) for key in SIDECAR_NUMBERS)
        frame, values = found["frame"], found.get("values")
    except (ValueError, TypeError, KeyError) as error:
        raise MapError(f"{path}: {error!r}; {expected}") from error
    if unknown or frame not in FRAMES or cell_m <= 0:
        raise MapError(f"{path}: frame {frame!r}, cell_m {cell_m}, unknown keys {unknown}; {expected}")
    if values is not None and not (isinstance(values, list) and all(isinstance(value, int) for value in values)):
        raise MapError(f"{path}: values {values!r}, expected a list of the pixel values that vehicles can be on")
    return {"place": np.array([[0, cell_m, x_min_m], [cell_m, 0, y_min_m]]), "frame": frame, "values": values}


def _placed(path: Path, tags: dict[int, Any]) -> Float64:
    """``place_from_pixel`` from the world file or the tags of a GeoTIFF."""
    for suffix in WORLD_FILES[path.suffix.lower()]:
        if path.with_suffix(suffix).is_file():
            return _read_world_file(path.with_suffix(suffix))
    keys = np.array(tags.get(GEO_KEYS, ()), int)
    geo = {int(key): int(value) for key, _, _, value in keys[4 : len(keys) // 4 * 4].reshape(-1, 4)}
    if geo.get(MODEL_TYPE_KEY) == GEOGRAPHIC:
        raise MapError(f"{path}: lies in degrees, expected metres; project it, with gdalwarp for instance")
    if len(tags.get(TRANSFORMATION, ())) == 16:
        place = np.array(tags[TRANSFORMATION], np.float64).reshape(4, 4)[:2, [0, 1, 3]]
    elif len(tags.get(PIXEL_SCALE, ())) >= 2 and len(tags.get(TIE_POINT, ())) >= 6:
        (right, down), (col, row, _, x, y, _) = tags[PIXEL_SCALE][:2], tags[TIE_POINT][:6]
        place = np.array([[right, 0, x - right * col], [0, -down, y + down * row]], np.float64)
    else:
        raise MapError(
            f"{path}: nothing says where it lies; expected {path.name}.json, a world file "
            f"({', '.join(WORLD_FILES[path.suffix.lower()])}) or the tags of a GeoTIFF"
        )
    return _from_middles(place) if geo.get(RASTER_TYPE_KEY) == PIXEL_IS_POINT else place


def _read_world_file(path: Path) -> Float64:
    try:
        a, d, b, e, c, f = (float(word) for word in _text(path).split())
    except ValueError as error:
        raise MapError(f"{path}: {error}; expected a world file, six numbers") from error
    return _from_middles(np.array([[a, b, c], [d, e, f]]))


def _from_middles(place: Float64) -> Float64:
    """The matrix for corners of pixels, from one whose (0, 0) is the middle of the first pixel."""
    return np.column_stack([place[:, :2], place[:, 2] - place[:, :2] @ [0.5, 0.5]])


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise MapError(f"{path}: {path.stat().st_size} bytes, expected at most {MAX_TEXT_BYTES}")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror}); expected text") from error


def _inverse(place: Float64) -> Float64:
    """(2, 3) float64 inverse of an affine map."""
    return np.asarray(np.linalg.inv(np.vstack([place, [0, 0, 1]]))[:2], np.float64)


def _pooled(mask: Bool, down: int, across: int) -> Bool:
    """Any of ``down`` x ``across`` pixels; what the last ones lack lies outside and is set."""
    if down == across == 1:
        return mask
    rows, cols = -(-mask.shape[0] // down) * down, -(-mask.shape[1] // across) * across
    whole = np.ones((rows, cols), bool)
    whole[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(whole.reshape(rows // down, down, cols // across, across).any(axis=(1, 3)), np.bool_)


def _spread(mask: Bool) -> Bool:
    """A mask grown by a pixel on all sides, inside a border of pixels that are set."""
    grown: Bool = ndimage.maximum_filter(mask, size=3, mode="constant", cval=True)
    return np.pad(grown, 1, constant_values=True)
