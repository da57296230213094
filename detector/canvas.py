"""The map of a bird's-eye-view picture: metres to pixels, guides, points, tiles and boxes.

Forward (x) is up and left (y) is left, as seen from above by someone who looks ahead. Everything is drawn
`SUPERSAMPLE` times larger than it is shown and then averaged down, which makes lines smooth.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from detector.boxes import box_corners
from detector.calibration import Calibration
from detector.types import Frame
from kernels.tiles import ActiveTiles
from models.grid import BevSpec

Float64 = NDArray[np.float64]
Colour = tuple[int, int, int]

SUPERSAMPLE = 2
MAP_WIDTH, MAP_HEIGHT = 1000, 1200  # pixels; the map is as large as fits into this
DASH_PIXELS = 8  # a dash and the gap after it, as shown
HEADING_M = 0.8  # how far the heading tick reaches beyond the front
# A grid at its limits has a few hundred dashes per box; a box of absurd size must not take minutes.
MAX_DASHES = 400

BACKGROUND: Colour = (12, 14, 20)
ACTIVE: Colour = (17, 25, 40)
MASKED: Colour = (26, 54, 112)
ACTIVE_BORDER: Colour = (42, 78, 142)
GUIDE: Colour = (44, 50, 62)
VIEW_EDGE: Colour = (70, 80, 98)
FAINT: Colour = (132, 142, 156)
INACTIVE_BRIGHTNESS = 0.45

# Lightness rises evenly with height. The hues stay cold: green, amber and red are left to the boxes.
HEIGHT_COLOURS = np.array(
    [(62, 54, 140), (58, 96, 190), (46, 142, 204), (84, 186, 208), (158, 220, 218), (240, 248, 240)], np.float64
)


@dataclass(frozen=True)
class BoxStyle:
    """How one kind of box is drawn, and its name in the legend."""

    name: str
    colour: Colour
    width: int = 2  # pixels
    dashed: bool = False
    opacity: int = 0  # of the inside, 0 to 255


@dataclass(frozen=True)
class Canvas:
    """How metres become pixels. `Canvas.of` gives pixels as shown, `supersampled` those drawn on."""

    spec: BevSpec
    pixels_per_m: float

    @classmethod
    def of(cls, spec: BevSpec) -> Canvas:
        """The largest map that fits into `MAP_WIDTH` by `MAP_HEIGHT` pixels."""
        width_m, height_m = spec.y_max_m - spec.y_min_m, spec.x_max_m - spec.x_min_m
        return cls(spec, min(MAP_WIDTH / width_m, MAP_HEIGHT / height_m))

    @property
    def supersampled(self) -> Canvas:
        """The same map, `SUPERSAMPLE` times larger."""
        return Canvas(self.spec, self.pixels_per_m * SUPERSAMPLE)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        spec, scale = self.spec, self.pixels_per_m
        return round((spec.y_max_m - spec.y_min_m) * scale), round((spec.x_max_m - spec.x_min_m) * scale)

    def pixels(self, xy_m: NDArray[np.floating]) -> Float64:
        """(N, 2) float64 pixels, right and down, of (N, 2 or more) metres x, y, LiDAR frame."""
        xy_m = np.asarray(xy_m, np.float64)
        right = (self.spec.y_max_m - xy_m[:, 1]) * self.pixels_per_m
        down = (self.spec.x_max_m - xy_m[:, 0]) * self.pixels_per_m
        return np.column_stack([right, down])

    def footprint(self, box: NDArray[np.floating]) -> Float64:
        """(6, 2) float64 pixels of a box (7,): four corners from front left, then the heading tick's two ends."""
        corners = box_corners(box[None])[0, :4, :2]
        front = (corners[0] + corners[3]) / 2
        tip = front + HEADING_M * np.array([np.cos(box[6]), np.sin(box[6])])
        return self.pixels(np.vstack([corners, front, tip]))


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that pictures look the same on every machine."""
    return ImageFont.load_default(size)


def height_colours(z_m: NDArray[np.floating], spec: BevSpec) -> Float64:
    """(N, 3) float64 colours, 0..255, of (N,) heights [m]; the ramp spans the heights of ``spec``."""
    share = (np.asarray(z_m, np.float64) - spec.z_min_m) / (spec.z_max_m - spec.z_min_m)
    knots = np.linspace(0, 1, len(HEIGHT_COLOURS))
    return np.stack([np.interp(share, knots, HEIGHT_COLOURS[:, channel]) for channel in range(3)], axis=-1)


def tile_cells(tiles: ActiveTiles, spec: BevSpec) -> NDArray[np.int64]:
    """(M, 4) int64 cells of every active tile: first row, first column, last row + 1, last column + 1; in the grid."""
    first = tiles.index[:, 1:].astype(np.int64) * tiles.spec.stride + tiles.spec.offset
    return np.clip(np.hstack([first, first + tiles.spec.size]), 0, (spec.rows, spec.cols) * 2)


def active_cells(tiles: ActiveTiles, spec: BevSpec) -> NDArray[np.bool_]:
    """(rows, cols) bool: the cells of the grid that lie in an active tile."""
    cells = np.zeros((spec.rows, spec.cols), bool)
    for top, left, bottom, right in tile_cells(tiles, spec):
        cells[top:bottom, left:right] = True
    return cells


def draw_scene(
    frame: Frame, canvas: Canvas, tiles: ActiveTiles | None, mask: NDArray[np.bool_] | None = None
) -> Image.Image:
    """Everything below the boxes, supersampled: active tiles, rings, the camera's view and the points.

    Args:
        frame: its points are drawn.
        canvas: where.
        tiles: active tiles; None for all.
        mask: (R, C) bool over the whole grid, drawn where tiles are.
    """
    large = canvas.supersampled
    every = np.ones(large.size[::-1], bool)
    active = every if tiles is None else _cell_pixels(large, active_cells(tiles, large.spec))
    masked = ~every if mask is None else _cell_pixels(large, mask)
    pixels = np.empty((*active.shape, 3), np.uint8)
    if active.all():
        pixels[:] = BACKGROUND
    else:
        _draw_tiles(pixels, active, masked & active)
    image = Image.fromarray(pixels)
    _draw_guides(ImageDraw.Draw(image), large, frame.calibration)
    pixels = np.array(image)
    _draw_points(pixels, active, large, frame.points)
    image = Image.fromarray(pixels)
    _draw_distances(ImageDraw.Draw(image), large)
    return image


def draw_box(draw: ImageDraw.ImageDraw, large: Canvas, box: NDArray[np.floating], style: BoxStyle) -> None:
    """The outline of a box (7,), and a tick ahead of its front; ``draw`` must blend ("RGBA" over an RGB image)."""
    footprint, width = large.footprint(box), style.width * SUPERSAMPLE
    outline = np.vstack([footprint[:4], footprint[:1]])
    if style.opacity:
        draw.polygon([*outline.ravel()], fill=(*style.colour, style.opacity))
    if style.dashed:
        for start, end in pairwise(outline):
            for dash in _dashes(start, end):
                draw.line([*dash.ravel()], fill=style.colour, width=width)
    else:
        draw.line([*np.vstack([outline, outline[1:2]]).ravel()], fill=style.colour, width=width, joint="curve")
    draw.line([*footprint[4:].ravel()], fill=style.colour, width=width)


def _dashes(start: Float64, end: Float64) -> Float64:
    """(K, 2, 2) float64 pixels: a line cut into dashes, half a dash at both ends so that corners stay closed."""
    length = float(np.hypot(*(end - start)))
    count = int(np.clip(round(length / (DASH_PIXELS * SUPERSAMPLE)), 1, MAX_DASHES))
    middle = np.arange(count + 1)[:, None]
    share = np.clip((middle + np.array([-0.3, 0.3])) / count, 0, 1)
    dashes: Float64 = start + share[..., None] * (end - start)
    return dashes


def _cell_pixels(large: Canvas, cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(height, width) bool: the pixels whose cell is set; ``cells`` (R, C) cover the whole grid."""
    width, height = large.size
    row = cells.shape[0] - 1 - np.arange(height) * cells.shape[0] // height
    col = cells.shape[1] - 1 - np.arange(width) * cells.shape[1] // width
    pixels: NDArray[np.bool_] = cells[row[:, None], col]
    return pixels


def _draw_tiles(pixels: NDArray[np.uint8], active: NDArray[np.bool_], masked: NDArray[np.bool_]) -> None:
    pixels[:] = np.where(active[..., None], ACTIVE, BACKGROUND)
    pixels[masked] = MASKED
    down, right = active[1:] != active[:-1], active[:, 1:] != active[:, :-1]
    for first, last in ((1, None), (0, -1)):  # both sides of a border: two supersampled pixels
        pixels[first:last][down] = ACTIVE_BORDER
        pixels[:, first:last][right] = ACTIVE_BORDER


def _draw_guides(draw: ImageDraw.ImageDraw, large: Canvas, calibration: Calibration | None) -> None:
    """Range rings, the edges of the camera's view, and the sensor."""
    (sensor,) = large.pixels(np.zeros((1, 2)))
    for ring_m in _rings_m(large):
        radius = ring_m * large.pixels_per_m
        draw.ellipse([*(sensor - radius), *(sensor + radius)], outline=GUIDE, width=SUPERSAMPLE)
    if calibration is not None:
        for edge in _view_edges(calibration):
            draw.line([*large.pixels(edge).ravel()], fill=VIEW_EDGE, width=SUPERSAMPLE)
    triangle = large.pixels(np.array([[1.4, 0.0], [0.0, 0.6], [0.0, -0.6]]))
    draw.polygon([*triangle.ravel()], fill=FAINT)


def _draw_distances(draw: ImageDraw.ImageDraw, large: Canvas) -> None:
    for ring_m in _rings_m(large):
        # To the right, where the camera does not look and few points are; at the map's edge for the far rings.
        y_m = max(-0.8 * ring_m, large.spec.y_min_m + 2.5)
        (place,) = large.pixels(np.array([[np.sqrt(max(ring_m**2 - y_m**2, 0)), y_m]]))
        stroke = 2 * SUPERSAMPLE
        text_font = font(12 * SUPERSAMPLE)
        draw.text(tuple(place), f"{ring_m} m", FAINT, text_font, "mb", stroke_width=stroke, stroke_fill=BACKGROUND)


def _rings_m(large: Canvas) -> range:
    """Radii of the range rings [m], up to the farthest corner of the map."""
    spec = large.spec
    reach_m = np.hypot(max(abs(spec.x_min_m), abs(spec.x_max_m)), max(abs(spec.y_min_m), abs(spec.y_max_m)))
    step_m = 10 if large.pixels_per_m >= 6 * SUPERSAMPLE else 20
    return range(step_m, int(reach_m) + 1, step_m)


def _view_edges(calibration: Calibration) -> list[Float64]:
    """From the camera along the left and the right edge of its view: (2, 2) float64 x, y [m] each, LiDAR frame."""
    projection = calibration.image_from_camera
    edges = []
    for column in (0, calibration.image_size[0]):
        depths = np.array([[0.0], [200.0]])
        pixels = np.array([column, projection[1, 2], 1.0])
        camera = (depths * pixels - projection[:, 3]) @ np.linalg.inv(projection[:, :3]).T
        edges.append(calibration.to_lidar(camera)[:, :2])
    return edges


def _draw_points(
    pixels: NDArray[np.uint8], active: NDArray[np.bool_], large: Canvas, points: NDArray[np.float32]
) -> None:
    """A point is a square of three supersampled pixels: hue by height, brightness by intensity."""
    right, down = large.pixels(points).T
    width, height = large.size
    points = points[(right >= 1) & (right < width - 1) & (down >= 1) & (down < height - 1)]
    points = points[np.argsort(points[:, 2], kind="stable")]  # what is higher hides what is below
    col, row = large.pixels(points).astype(int).T
    # The square root brings out lane markings and plates without losing asphalt, most of which is below 0.3.
    brightness = 0.6 + 0.4 * np.sqrt(np.clip(points[:, 3], 0, 1))
    brightness *= np.where(active[row, col], 1.0, INACTIVE_BRIGHTNESS)
    colours = (height_colours(points[:, 2], large.spec) * brightness[:, None]).astype(np.uint8)
    for down_by in (-1, 0, 1):
        for right_by in (-1, 0, 1):
            pixels[row + down_by, col + right_by] = colours
