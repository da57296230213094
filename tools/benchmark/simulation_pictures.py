"""Sheets of bird's-eye-view pictures: simulated frames alone, or beside real ones for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from detector.boxes import boxes_from_labels
from detector.canvas import BACKGROUND, GUIDE, SUPERSAMPLE, Canvas, draw_box, draw_scene, font
from detector.labels import CAR, read_labels
from detector.sources import FrameFile
from detector.view import FOUND, TEXT
from models.grid import BevSpec

PICTURES = 10
# Nearer than the detector's grid: single cars are to be seen, and the camera sees little to the sides.
CANVAS = Canvas(BevSpec(x_max_m=60.0, y_min_m=-30.0, y_max_m=30.0), pixels_per_m=6.4)
GAP, HEADER = 6, 40  # pixels


def draw_frame(file: FrameFile) -> Image.Image:
    """The map of one labelled frame with calibration: what the camera sees, and its cars."""
    frame, label_path = file.load(), file.label_path
    calibration = frame.calibration
    if calibration is None or label_path is None:
        raise ValueError(f"{file.path}: has no calibration or no labels")
    labels = read_labels(label_path)
    cars = labels.select(np.array([name == CAR for name in labels.types], bool))
    frame = replace(frame, points=frame.points[calibration.in_view(frame.points)])
    scene = draw_scene(frame, CANVAS, None)
    draw = ImageDraw.Draw(scene, "RGBA")
    for box in boxes_from_labels(cars, calibration):
        draw_box(draw, CANVAS.supersampled, box, FOUND)
    return scene.reduce(SUPERSAMPLE)


def draw_sheet(blocks: Sequence[tuple[str, Sequence[FrameFile]]], columns: int) -> Image.Image:
    """Blocks of pictures side by side.

    Args:
        blocks: heading and frames of each; `PICTURES` of its frames are drawn, at even distances.
        columns: pictures beside each other in a block.
    """
    width, height = CANVAS.size
    rows = -(-PICTURES // columns)
    block_width = columns * (width + GAP) + GAP
    sheet = Image.new("RGB", (len(blocks) * block_width, HEADER + rows * (height + GAP)), GUIDE)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle([0, 0, sheet.width, HEADER - GAP], fill=BACKGROUND)
    for number, (heading, files) in enumerate(blocks):
        left = number * block_width + GAP
        draw.text((left + GAP, (HEADER - GAP) / 2), heading, TEXT, font(18), "lm")
        chosen = np.unique(np.linspace(0, len(files) - 1, PICTURES).astype(int))
        for place, index in enumerate(chosen):
            row, column = divmod(place, columns)
            picture = draw_frame(files[index])
            sheet.paste(picture, (left + column * (width + GAP), HEADER + row * (height + GAP)))
    return sheet
