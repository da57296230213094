"""Pictures of frames, drawn without a display: `render_bev`.

Boxes are coloured by how they fare against the labels, where there are any: a detection is *found* if its overlap
with a label not yet taken by a better one is at least `MATCH_IOU` (IoU, seen from above), a *false alarm* otherwise;
a label that no detection takes is *missed*. Detections that take an ignored label are *ignored* too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detector.boxes import BOX_EDGES, box_corners, segments_in_front
from detector.calibration import Calibration
from detector.canvas import (
    BACKGROUND,
    FAINT,
    GUIDE,
    MAP_WIDTH,
    SUPERSAMPLE,
    BoxStyle,
    Canvas,
    Colour,
    draw_box,
    draw_scene,
    font,
    height_colours,
)
from detector.stages import Stage
from detector.types import Detections, Frame
from kernels.nms import BEV_COLUMNS
from kernels.rotated_iou import rotated_iou
from kernels.tiles import ActiveTiles
from models.grid import BevSpec

Float64 = NDArray[np.float64]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom [pixels]

MATCH_IOU = 0.5
HEADER, FOOTER, MARGIN = 64, 32, 14
TEXT: Colour = (226, 231, 238)

# As a traffic light: amber until a label turns it green. Dashes tell labels from detections without colour.
DETECTION = BoxStyle("detections", (255, 190, 60), opacity=36)
FOUND = BoxStyle("found", (84, 232, 126), opacity=36)
FALSE_ALARM = BoxStyle("false alarms", (255, 190, 60), opacity=36)
MISSED = BoxStyle("missed", (255, 78, 88), dashed=True, opacity=36)
LABEL = BoxStyle("labels", (236, 240, 244), width=1, dashed=True)
IGNORED = BoxStyle("ignored", (150, 156, 168), width=1)
IGNORED_LABEL = BoxStyle("labels ignored", (150, 156, 168), width=1, dashed=True)


class Mark(NamedTuple):
    """One box of the picture; ``score`` is None for labels."""

    box: NDArray[np.floating]
    style: BoxStyle
    score: float | None = None


def render_bev(
    frame: Frame,
    detections: Detections,
    spec: BevSpec,
    *,
    labels: Float64 | None = None,
    ignored_labels: Float64 | None = None,
    tiles: ActiveTiles | None = None,
    mask: NDArray[np.bool_] | None = None,
    display_score: float = 0.3,
    title: str | None = None,
    stage_ms: Mapping[str, float] | None = None,
    camera_image: Image.Image | None = None,
) -> Image.Image:
    """The picture of one frame: camera panel if there is one, and the map, seen from above.

    Args:
        frame: points and, for the edges of the camera's view and the camera panel, calibration.
        detections: boxes, LiDAR frame.
        spec: the grid; its range is the range of the map and of the colours.
        labels: (N, 7) float64 boxes of labelled cars, or None where nothing is known.
        ignored_labels: (N, 7) float64 boxes that count neither way, or None.
        tiles: active tiles over the cells of ``spec``; the points outside of them are dimmed.
        mask: (R, C) bool over the same ground, what made tiles active: blue where there are tiles.
        display_score: only detections from this score on are drawn.
        title: the picture's heading; by default the frame's id.
        stage_ms: milliseconds per stage, for the footer.
        camera_image: what the camera saw; left out if the frame has no calibration to draw boxes by.

    Returns:
        An RGB image.
    """
    shown = detections.above(display_score)
    marks = _marks(shown, labels, ignored_labels)
    panels = []
    if camera_image is not None and frame.calibration is not None:
        panels.append(draw_camera(camera_image, marks, frame.calibration))
    panels.append(_draw_map(frame, spec, tiles, mask, marks))
    facts = [f"{len(frame):,} points", f"scores from {display_score:.2f}"]
    if tiles is not None and tiles.spec.total:
        facts.insert(1, f"{len(tiles) / tiles.spec.total:.0%} of {tiles.spec.total:,} tiles active")
    picture = _stack(panels)
    _draw_header(picture, f"frame {frame.id}" if title is None else title, facts, marks, labels is not None)
    _draw_footer(picture, spec, stage_ms)
    return picture


def match_labels(detections: Detections, labels: Float64 | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Greedy matching, best score first, each label taken once.

    Args:
        detections: N boxes.
        labels: (M, 7) float64 boxes, or None for none.

    Returns:
        (N,) bool: detections that took a label; (M,) bool: labels that none took.
    """
    labels = np.zeros((0, 7)) if labels is None else labels
    found, missed = np.zeros(len(detections), bool), np.ones(len(labels), bool)
    if not len(labels):
        return found, missed
    overlap = rotated_iou(detections.boxes[:, BEV_COLUMNS], labels[:, BEV_COLUMNS])
    for index in np.argsort(-detections.scores, kind="stable"):
        free = np.where(missed, overlap[index], -1)
        if free.max() >= MATCH_IOU:
            found[index] = True
            missed[free.argmax()] = False
    return found, missed


def draw_camera(image: Image.Image, marks: Sequence[Mark], calibration: Calibration) -> Image.Image:
    """The camera's picture, as wide as the map, with the edges of detections and missed labels; nearest on top."""
    scale = MAP_WIDTH * SUPERSAMPLE / image.width
    size = MAP_WIDTH * SUPERSAMPLE, round(image.height * scale)
    panel = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(panel)
    drawn = [mark for mark in marks if mark.score is not None or mark.style is MISSED]
    for mark in sorted(drawn, key=lambda mark: -float(np.hypot(*mark.box[:2]))):
        edges = calibration.to_camera(box_corners(mark.box[None])[0])[BOX_EDGES]
        for segment in segments_in_front(edges):
            ends = calibration.project(segment) * scale
            draw.line([*ends.ravel()], fill=mark.style.colour, width=mark.style.width * SUPERSAMPLE)
    return panel.reduce(SUPERSAMPLE)


def _marks(shown: Detections, labels: Float64 | None, ignored_labels: Float64 | None) -> list[Mark]:
    """Every box of the picture with its fate, those to be drawn on top last."""
    found, missed = match_labels(shown, labels)
    ignored, _ = match_labels(shown, ignored_labels)
    otherwise = DETECTION if labels is None else FALSE_ALARM
    marks = [Mark(box, IGNORED_LABEL) for box in ([] if ignored_labels is None else ignored_labels)]
    labelled = zip([] if labels is None else labels, missed, strict=True)
    marks += [Mark(box, MISSED if is_missed else LABEL) for box, is_missed in labelled]
    for box, score, hit, passed_over in zip(shown.boxes, shown.scores, found, ignored, strict=True):
        marks.append(Mark(box, FOUND if hit else IGNORED if passed_over else otherwise, float(score)))
    return marks


def _draw_map(
    frame: Frame,
    spec: BevSpec,
    tiles: ActiveTiles | None,
    mask: NDArray[np.bool_] | None,
    marks: Sequence[Mark],
) -> Image.Image:
    canvas = Canvas.of(spec)
    scene = draw_scene(frame, canvas, tiles, mask)
    draw = ImageDraw.Draw(scene, "RGBA")
    for mark in marks:
        draw_box(draw, canvas.supersampled, mark.box, mark.style)
    image = scene.reduce(SUPERSAMPLE)
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, image.width - 1, image.height - 1], outline=GUIDE)
    _draw_scores(draw, canvas, marks)
    return image


def _draw_scores(draw: ImageDraw.ImageDraw, canvas: Canvas, marks: Sequence[Mark]) -> None:
    """The score of every detection beside its box, where it covers no box and no other score."""
    footprints = [canvas.footprint(mark.box) for mark in marks]
    boxes: list[Rectangle] = [(*points.min(axis=0), *points.max(axis=0)) for points in footprints]
    taken = list(boxes)
    for mark, box in zip(marks, boxes, strict=True):
        if mark.score is not None and _overlap(box, (0, 0, *canvas.size)) > 0:
            text = f"{mark.score:.2f}"
            place = _free_place(box, draw.textlength(text, font=font(13)), 13, taken, canvas.size)
            taken.append(place)
            middle = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
            draw.text(middle, text, mark.style.colour, font(13), "mm", stroke_width=2, stroke_fill=BACKGROUND)


def _free_place(
    box: Rectangle, width: float, height: float, taken: Sequence[Rectangle], size: tuple[int, int]
) -> Rectangle:
    """The place around ``box`` for a text of that size that overlaps least with what is taken and what is outside."""
    left, top, right, bottom = box
    middle_x, middle_y, gap = (left + right - width) / 2, (top + bottom - height) / 2, 4
    beside = (right + gap, left - gap - width)
    above = (top - gap - height, bottom + gap)
    corners = [(x, middle_y) for x in beside] + [(middle_x, y) for y in above] + [(x, y) for x in beside for y in above]
    places = [(x, y, x + width, y + height) for x, y in corners]

    def cost(place: Rectangle) -> float:
        outside = width * height - _overlap(place, (0, 0, *size))
        return outside + sum(_overlap(place, other) for other in taken)

    return min(places, key=cost)


def _overlap(a: Rectangle, b: Rectangle) -> float:
    """Shared area of two rectangles, square pixels."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _stack(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels below each other, between an empty header and an empty footer."""
    height = HEADER + sum(panel.height for panel in panels) + FOOTER
    picture = Image.new("RGB", (MAP_WIDTH, height), BACKGROUND)
    top = HEADER
    for panel in panels:
        picture.paste(panel, ((picture.width - panel.width) // 2, top))
        top += panel.height
    return picture


def _draw_header(picture: Image.Image, title: str, facts: Sequence[str], marks: Sequence[Mark], compared: bool) -> None:
    """Title, facts of the frame, and the legend, which counts the boxes of every kind."""
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 20), title, fill=TEXT, font=font(19), anchor="lm")
    draw.text((picture.width - MARGIN, 20), "   ·   ".join(facts), fill=FAINT, font=font(13), anchor="rm")
    counts = Counter(mark.style for mark in marks)
    always = (FOUND, FALSE_ALARM, MISSED) if compared else (DETECTION,)
    left = float(MARGIN)
    for style in (*always, LABEL, IGNORED, IGNORED_LABEL):
        if style in always or counts[style]:
            rule = f" (IoU from {MATCH_IOU:g})" if style is FOUND else ""
            count = counts[LABEL] + counts[MISSED] if style is LABEL else counts[style]
            text = f"{style.name}{rule}: {count}"
            _draw_swatch(draw, left, 46, style)
            draw.text((left + 30, 46), text, fill=TEXT, font=font(14), anchor="lm")
            left += 30 + draw.textlength(text, font=font(14)) + 26


def _draw_swatch(draw: ImageDraw.ImageDraw, left: float, middle: float, style: BoxStyle) -> None:
    """A small box in the style of the large ones."""
    if not style.dashed:
        draw.rectangle([left, middle - 6, left + 22, middle + 6], outline=style.colour, width=style.width)
        return
    for start in (0, 9, 18):
        for y in (middle - 6, middle + 6):
            draw.line([left + start, y, left + start + 4, y], fill=style.colour, width=style.width)
    for x in (left, left + 22):
        draw.line([x, middle - 2, x, middle + 2], fill=style.colour, width=style.width)


def _draw_footer(picture: Image.Image, spec: BevSpec, stage_ms: Mapping[str, float] | None) -> None:
    """The height of every colour, and the time of every stage."""
    draw, middle = ImageDraw.Draw(picture), picture.height - FOOTER // 2
    low = f"height {spec.z_min_m:g} m"
    draw.text((MARGIN, middle), low, fill=FAINT, font=font(12), anchor="lm")
    left = MARGIN + round(draw.textlength(low, font=font(12))) + 8
    bar = height_colours(np.linspace(spec.z_min_m, spec.z_max_m, 110), spec).astype(np.uint8)
    picture.paste(Image.fromarray(np.tile(bar, (10, 1, 1))), (left, middle - 5))
    draw.text((left + 118, middle), f"{spec.z_max_m:g} m", fill=FAINT, font=font(12), anchor="lm")
    if stage_ms:
        # Like everywhere, the total is what detecting takes: writing is not part of it.
        total = sum(value for name, value in stage_ms.items() if name != Stage.WRITE.value)
        times = [f"{name} {value:.1f}" for name, value in stage_ms.items()]
        text = "   ".join([*times, f"total {total:.1f} ms"])
        draw.text((picture.width - MARGIN, middle), text, fill=FAINT, font=font(12), anchor="rm")
