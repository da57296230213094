"""Bird's-eye-view pictures, drawn without a display.

Forward (x) is up and left (y) is left, as seen from above by someone who looks ahead. Points are coloured by height.
Boxes are coloured by how they fare against the labels, where there are any; a detection counts as right if it
overlaps an unclaimed label with a BEV IoU of at least `MATCH_IOU`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from detector.boxes import BOX_EDGES, box_corners, segments_in_front
from detector.calibration import Calibration
from detector.types import Detections, Frame
from kernels.rotated_iou import rotated_iou
from kernels.tiles import ActiveTiles
from models.grid import BevSpec

Float64 = NDArray[np.float64]
Colour = tuple[int, int, int]

MATCH_IOU = 0.5
MAP_PIXELS = 1000  # longer side of the map
SUPERSAMPLE = 2  # drawn larger, then scaled down: smooth lines
POINT_PIXELS = 3  # supersampled
HEADER, FOOTER, MARGIN = 34, 30, 10

BACKGROUND: Colour = (13, 16, 22)
GUIDE: Colour = (52, 60, 72)
TEXT: Colour = (214, 220, 228)
FAINT: Colour = (128, 138, 150)
FOUND: Colour = (255, 196, 64)  # a detection, nothing to compare with
RIGHT: Colour = (88, 224, 128)
FALSE_ALARM: Colour = (255, 96, 88)
MISSED: Colour = (232, 120, 255)
LABEL: Colour = (236, 240, 244)
IGNORED: Colour = (120, 128, 140)
ROAD_TILE: Colour = (64, 128, 255)

# Height [m] to colour, dark blue through green and yellow to red; LiDAR frame of a car roof.
HEIGHTS_M = (-2.2, -1.6, -1.0, -0.4, 0.4, 1.2)
HEIGHT_COLOURS = np.array(
    [(66, 84, 190), (62, 140, 220), (48, 178, 166), (150, 208, 92), (240, 190, 70), (232, 92, 66)], np.float64
)
RING_STEP_M = 10


@dataclass(frozen=True)
class Canvas:
    """The map part of a picture: how metres become (supersampled) pixels."""

    spec: BevSpec
    pixels_per_m: float

    @classmethod
    def of(cls, spec: BevSpec) -> Canvas:
        """The canvas whose longer side has `MAP_PIXELS`."""
        longer = max(spec.x_max_m - spec.x_min_m, spec.y_max_m - spec.y_min_m)
        return cls(spec, MAP_PIXELS * SUPERSAMPLE / longer)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), supersampled pixels."""
        spec, scale = self.spec, self.pixels_per_m
        return round((spec.y_max_m - spec.y_min_m) * scale), round((spec.x_max_m - spec.x_min_m) * scale)

    def pixels(self, xy: NDArray[np.floating]) -> Float64:
        """(N, 2) pixels, right and down, of (N, 2 or more) metres, LiDAR frame."""
        xy = np.asarray(xy, np.float64)
        right = (self.spec.y_max_m - xy[:, 1]) * self.pixels_per_m
        down = (self.spec.x_max_m - xy[:, 0]) * self.pixels_per_m
        return np.column_stack([right, down])


def render_bev(
    frame: Frame,
    detections: Detections,
    spec: BevSpec,
    *,
    labels: Float64 | None = None,
    ignored_labels: Float64 | None = None,
    tiles: ActiveTiles | None = None,
    display_score: float = 0.0,
    stage_ms: Mapping[str, float] | None = None,
    camera_image: Image.Image | None = None,
) -> Image.Image:
    """The picture of one frame.

    Args:
        frame: points and, for the edges of the camera's view and the camera panel, calibration.
        detections: boxes, LiDAR frame.
        spec: the grid; its range is the range of the map.
        labels: (N, 7) boxes of labelled cars, or None where nothing is known.
        ignored_labels: (N, 7) boxes that count neither way, drawn in grey.
        tiles: active tiles, over the cells of ``spec``; cells outside of them are dimmed.
        display_score: only detections from this score on are drawn.
        stage_ms: milliseconds per stage, for the footer.
        camera_image: the camera's picture of the frame; goes on top, with the boxes in it.
    """
    shown = detections.above(display_score)
    right, missed = match_labels(shown, labels)
    box_colours = [FOUND if labels is None else (RIGHT if hit else FALSE_ALARM) for hit in right]
    bev = _draw_map(frame, spec, tiles)
    draw, canvas = ImageDraw.Draw(bev), Canvas.of(spec)
    for box in np.zeros((0, 7)) if ignored_labels is None else ignored_labels:
        _draw_box(draw, canvas, box, IGNORED, 1)
    for box, is_missed in zip([] if labels is None else labels, missed, strict=True):
        _draw_box(draw, canvas, box, MISSED if is_missed else LABEL, 2 if is_missed else 1)
    for box, score, colour in zip(shown.boxes, shown.scores, box_colours, strict=True):
        _draw_box(draw, canvas, box, colour, 2)
        _draw_score(draw, canvas, box, score, colour)
    bev = bev.resize((bev.width // SUPERSAMPLE, bev.height // SUPERSAMPLE), Image.Resampling.LANCZOS)
    panels = [bev]
    if camera_image is not None and frame.calibration is not None:
        panels.insert(0, draw_camera(camera_image, shown.boxes, box_colours, frame.calibration, bev.width))
    counts = _counts(len(shown), right, missed, labels is not None)
    return _compose(panels, f"frame {frame.id}", counts, _legend(labels is not None), stage_ms)


def match_labels(detections: Detections, labels: Float64 | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections are right (N,) and which labels are missed (M,), best score first, each label once."""
    right = np.zeros(len(detections), bool)
    missed = np.ones(0 if labels is None else len(labels), bool)
    if labels is None or not len(labels) or not len(detections):
        return right, missed
    bev = [0, 1, 3, 4, 6]
    overlap = rotated_iou(detections.boxes[:, bev].astype(np.float64), np.ascontiguousarray(labels[:, bev]))
    for index in np.argsort(-detections.scores, kind="stable"):
        free = np.where(missed, overlap[index], -1)
        if free.max() >= MATCH_IOU:
            right[index] = True
            missed[free.argmax()] = False
    return right, missed


def draw_camera(
    image: Image.Image, boxes: NDArray[np.floating], colours: Sequence[Colour], calibration: Calibration, width: int
) -> Image.Image:
    """The camera picture, ``width`` pixels wide, with (N, 7) LiDAR boxes projected into it."""
    scale = width * SUPERSAMPLE / image.width
    panel = image.convert("RGB").resize((width * SUPERSAMPLE, round(image.height * scale)), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(panel)
    for corners, colour in zip(box_corners(boxes), colours, strict=True):
        for segment in segments_in_front(calibration.to_camera(corners)[BOX_EDGES]):
            start, end = calibration.project(segment) * scale
            draw.line([*start, *end], fill=colour, width=2 * SUPERSAMPLE)
    return panel.resize((width, panel.height // SUPERSAMPLE), Image.Resampling.LANCZOS)


def height_colours(z_m: NDArray[np.floating]) -> Float64:
    """(N, 3) float64 colours, 0..255, of (N,) heights [m]."""
    return np.stack([np.interp(z_m, HEIGHTS_M, HEIGHT_COLOURS[:, channel]) for channel in range(3)], axis=-1)


def _draw_map(frame: Frame, spec: BevSpec, tiles: ActiveTiles | None) -> Image.Image:
    """Guides, points, tiles."""
    canvas = Canvas.of(spec)
    image = Image.new("RGB", canvas.size, BACKGROUND)
    _draw_guides(ImageDraw.Draw(image), canvas, frame.calibration)
    pixels = np.asarray(image).copy()
    _draw_points(pixels, canvas, frame.points)
    if tiles is not None and len(tiles) < tiles.spec.total:
        _draw_tiles(pixels, canvas, tiles)
    return Image.fromarray(pixels)


def _draw_guides(draw: ImageDraw.ImageDraw, canvas: Canvas, calibration: Calibration | None) -> None:
    spec = canvas.spec
    (centre,) = canvas.pixels(np.zeros((1, 2)))
    reach = max(abs(spec.x_min_m), spec.x_max_m, abs(spec.y_min_m), spec.y_max_m) * 1.5
    for ring_m in range(RING_STEP_M, int(reach), RING_STEP_M):
        radius = ring_m * canvas.pixels_per_m
        draw.ellipse([*(centre - radius), *(centre + radius)], outline=GUIDE, width=SUPERSAMPLE)
        (place,) = canvas.pixels(np.array([[ring_m + 0.3, -0.4]]))
        if ring_m + 2 < spec.x_max_m:
            draw.text(tuple(place), f"{ring_m} m", fill=FAINT, font=_font(11), anchor="lb")
    if calibration is not None:
        for edge in _view_edges(calibration):
            draw.line([*centre, *canvas.pixels(edge[None] * reach)[0]], fill=GUIDE, width=SUPERSAMPLE)


def _view_edges(calibration: Calibration) -> list[Float64]:
    """Unit vectors x, y (LiDAR frame) along the left and right edge of the camera's view."""
    focal, centre = calibration.image_from_camera[0, 0], calibration.image_from_camera[0, 2]
    edges = []
    for column in (0, calibration.image_size[0]):
        ray = np.array([(column - centre) / focal, 0.0, 1.0]) @ calibration.lidar_from_camera[:3, :3].T
        edges.append(ray[:2] / np.hypot(*ray[:2]))
    return edges


def _draw_points(pixels: NDArray[np.uint8], canvas: Canvas, points: NDArray[np.float32]) -> None:
    """One point is a square of supersampled pixels; higher points are drawn over lower ones."""
    points = points[np.argsort(points[:, 2], kind="stable")]
    column, row = np.floor(canvas.pixels(points)).astype(int).T
    inside = (row >= 0) & (row < pixels.shape[0] - POINT_PIXELS) & (column >= 0)
    inside &= column < pixels.shape[1] - POINT_PIXELS
    points, row, column = points[inside], row[inside], column[inside]
    brightness = 0.75 + 0.25 * np.clip(points[:, 3:], 0, 1)
    colours = (height_colours(points[:, 2]) * brightness).astype(np.uint8)
    for down in range(POINT_PIXELS):
        for right in range(POINT_PIXELS):
            pixels[row + down, column + right] = colours


def _draw_tiles(pixels: NDArray[np.uint8], canvas: Canvas, tiles: ActiveTiles) -> None:
    """Dims what is not computed and outlines what is."""
    spec, cell = canvas.spec, canvas.spec.cell_m
    active = np.zeros(pixels.shape[:2], bool)
    for row, col in tiles.index[:, 1:]:
        first = np.array([row, col]) * tiles.spec.stride + tiles.spec.offset
        corners = np.array([spec.x_min_m, spec.y_min_m]) + np.array([first, first + tiles.spec.size]) * cell
        (right, bottom), (left, top) = np.clip(np.round(canvas.pixels(corners)).astype(int), 0, None)
        active[top:bottom, left:right] = True
    pixels[~active] = (pixels[~active] * 0.4).astype(np.uint8)
    border = np.zeros_like(active)
    border[1:] |= active[1:] != active[:-1]
    border[:, 1:] |= active[:, 1:] != active[:, :-1]
    pixels[border] = ROAD_TILE


def _draw_box(draw: ImageDraw.ImageDraw, canvas: Canvas, box: NDArray[np.floating], colour: Colour, width: int) -> None:
    """Outline, and a line from the middle through the front that shows the heading."""
    corners = box_corners(box[None])[0, :4]
    outline = [tuple(point) for point in canvas.pixels(corners)]
    draw.line([*outline, outline[0]], fill=colour, width=width * SUPERSAMPLE, joint="curve")
    front = (corners[0] + corners[3]) / 2
    beyond = front + (front - corners.mean(axis=0)) * 0.3
    draw.line([tuple(p) for p in canvas.pixels(np.stack([front, beyond]))], fill=colour, width=width * SUPERSAMPLE)


def _draw_score(
    draw: ImageDraw.ImageDraw, canvas: Canvas, box: NDArray[np.floating], score: float, colour: Colour
) -> None:
    """The score to the right of the box, clear of it."""
    outline = canvas.pixels(box_corners(box[None])[0, :4])
    place = outline[:, 0].max() + 3 * SUPERSAMPLE, outline[:, 1].mean()
    draw.text(place, f"{score:.2f}", fill=colour, font=_font(11), anchor="lm")


def _font(size: int, supersample: int = SUPERSAMPLE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size * supersample)


def _counts(num_shown: int, right: NDArray[np.bool_], missed: NDArray[np.bool_], compared: bool) -> str:
    if not compared:
        return f"{num_shown} cars"
    return f"{right.sum()} right, {(~right).sum()} false, {missed.sum()} missed"


def _legend(compared: bool) -> list[tuple[str, Colour]]:
    if not compared:
        return [("detection", FOUND)]
    return [
        (f"right (IoU {MATCH_IOU} or more)", RIGHT),
        ("false", FALSE_ALARM),
        ("missed label", MISSED),
        ("label", LABEL),
        ("not counted", IGNORED),
    ]


def _compose(
    panels: list[Image.Image],
    title: str,
    counts: str,
    legend: list[tuple[str, Colour]],
    stage_ms: Mapping[str, float] | None,
) -> Image.Image:
    """Panels below each other, between a header (title, legend) and a footer (heights, times)."""
    width = panels[0].width
    height = HEADER + sum(panel.height for panel in panels) + FOOTER
    picture = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, HEADER / 2), f"{title}   {counts}", fill=TEXT, font=_font(15, 1), anchor="lm")
    right = float(width - MARGIN)
    for name, colour in reversed(legend):
        draw.text((right, HEADER / 2), name, fill=FAINT, font=_font(12, 1), anchor="rm")
        right -= draw.textlength(name, font=_font(12, 1)) + 6
        draw.rectangle([right - 12, HEADER / 2 - 5, right, HEADER / 2 + 5], outline=colour, width=2)
        right -= 26
    top = HEADER
    for panel in panels:
        picture.paste(panel, (0, top))
        top += panel.height
    _draw_height_bar(picture, draw, top + FOOTER // 2)
    if stage_ms:
        times = "   ".join(f"{name} {value:.1f}" for name, value in stage_ms.items())
        draw.text((width - MARGIN, top + FOOTER / 2), f"ms:  {times}", fill=FAINT, font=_font(12, 1), anchor="rm")
    return picture


def _draw_height_bar(picture: Image.Image, draw: ImageDraw.ImageDraw, middle: int) -> None:
    low, high = HEIGHTS_M[0], HEIGHTS_M[-1]
    bar = height_colours(np.linspace(low, high, 120)).astype(np.uint8)
    picture.paste(Image.fromarray(np.tile(bar, (10, 1, 1))), (MARGIN + 42, middle - 5))
    draw.text((MARGIN, middle), f"z {low:.1f}", fill=FAINT, font=_font(12, 1), anchor="lm")
    draw.text((MARGIN + 168, middle), f"{high:.1f} m", fill=FAINT, font=_font(12, 1), anchor="lm")
