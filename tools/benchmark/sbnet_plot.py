"""Speed-up over sparsity of conv-2's residual units, after SBNet's figure 6, drawn with Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from detector.canvas import font
from tools.benchmark.sbnet_rows import Row, read_rows

Colour = tuple[int, int, int]
Point = tuple[float, float]

FIGURE_SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
# Read off the paper's figure 6, good to a few percent.
PAPER: Mapping[str, Mapping[float, float]] = {
    "synthetic": {0.8: 5.0, 0.9: 8.0, 0.95: 16.0, 0.98: 27.0},
    "road": {0.6: 2.2, 0.93: 8.7},
    "predicted": {0.6: 2.5, 0.9: 6.0, 0.98: 19.0},
}
LEGEND = {"synthetic": "rectangle", "road": "where points are", "predicted": "points above the ground"}
COLOURS: Mapping[str, Colour] = {"synthetic": (31, 102, 178), "road": (44, 142, 88), "predicted": (206, 92, 28)}
INK, GREY, GRID, PAPER_WHITE = (32, 36, 44), (120, 126, 136), (226, 229, 234), (255, 255, 255)
SUPERSAMPLE = 2  # drawn larger and averaged down, which makes lines smooth
SIZE = (960, 640)
LEFT, RIGHT, TOP, BOTTOM = 78, 930, 66, 566  # of the axes, pixels as shown
# The densities 1 - sparsity at the ends, and the speed-ups; both axes are logarithmic, so theory is a straight line.
DENSITIES, SPEEDUPS = (0.56, 0.0175), (0.8, 64.0)


def figure_rows() -> Iterator[Row]:
    """Conv-2's units at every sparsity and mask of the figure."""
    base = next(row for row in read_rows() if (row.kind, row.stage) == ("unit", "conv-2"))
    for mask in PAPER:
        for sparsity in FIGURE_SPARSITIES:
            paper = PAPER[mask].get(sparsity, float("nan"))
            yield replace(base, mask=mask, sparsity=sparsity, sbnet=paper, submanifold=float("nan"))


@dataclass
class _Plot:
    """Axes on an image; points are (sparsity, speed-up)."""

    draw: ImageDraw.ImageDraw

    def pixel(self, point: Point) -> Point:
        """Where a point lies, supersampled."""
        across = np.log(DENSITIES[0] / (1 - point[0])) / np.log(DENSITIES[0] / DENSITIES[1])
        up = np.log(point[1] / SPEEDUPS[0]) / np.log(SPEEDUPS[1] / SPEEDUPS[0])
        return SUPERSAMPLE * (LEFT + across * (RIGHT - LEFT)), SUPERSAMPLE * (BOTTOM - up * (BOTTOM - TOP))

    def line(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A line through points."""
        self.draw.line([self.pixel(p) for p in points], colour, round(width * SUPERSAMPLE), "curve")

    def dot(self, point: Point, colour: Colour, hollow: bool) -> None:
        """A dot: filled for what was measured here, hollow for the paper's."""
        (x, y), radius = self.pixel(point), 5 * SUPERSAMPLE
        fill = PAPER_WHITE if hollow else colour
        self.draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill, colour, 2 * SUPERSAMPLE)

    def text(self, at: Point, text: str, size: int, anchor: str, colour: Colour = INK) -> None:
        """Text at pixels as shown."""
        place = (at[0] * SUPERSAMPLE, at[1] * SUPERSAMPLE)
        self.draw.text(place, text, colour, font(size * SUPERSAMPLE), anchor)


def draw_figure(records: Sequence[Mapping[str, Any]]) -> Image.Image:
    """The picture of the records of `figure_rows`: lines measured here, hollow dots from the paper."""
    image = Image.new("RGB", (SIZE[0] * SUPERSAMPLE, SIZE[1] * SUPERSAMPLE), PAPER_WHITE)
    plot = _Plot(ImageDraw.Draw(image))
    _draw_axes(plot)
    plot.line([(s, 1 / (1 - s)) for s in (0.45, 0.9815)], GREY, 1)
    for mask, paper in PAPER.items():
        for point in paper.items():
            plot.dot(point, COLOURS[mask], hollow=True)
        measured = [(record["sparsity"], record["ours"]) for record in records if record["mask"] == mask]
        if len(measured) > 1:
            plot.line(measured, COLOURS[mask], 2.5)
        for point in measured:
            plot.dot(point, COLOURS[mask], hollow=False)
    first = records[0]
    size = " x ".join(str(first[side]) for side in ("height", "width", "channels"))
    title = f"Sparse over dense: {first['units']} residual units, {size}"
    plot.text((LEFT, 22), title, 19, "lm")
    origin = f"{first['machine']['cpu']}, {first['machine']['cores']} cores, against onnxruntime; {first['date'][:10]}"
    plot.text((LEFT, 46), origin, 13, "lm", GREY)
    _draw_legend(plot)
    return image.resize(SIZE, Image.Resampling.BOX)


def _draw_axes(plot: _Plot) -> None:
    for speedup in (1, 2, 4, 8, 16, 32, 64):
        plot.line([(1 - DENSITIES[0], speedup), (1 - DENSITIES[1], speedup)], GREY if speedup == 1 else GRID, 1)
        plot.text((LEFT - 10, plot.pixel((0.5, speedup))[1] / SUPERSAMPLE), f"{speedup}x", 14, "rm")
    for sparsity in FIGURE_SPARSITIES:
        plot.line([(sparsity, SPEEDUPS[0]), (sparsity, SPEEDUPS[1])], GRID, 1)
        plot.text((plot.pixel((sparsity, 1))[0] / SUPERSAMPLE, BOTTOM + 16), f"{sparsity:.0%}", 14, "mm")
    plot.text(((LEFT + RIGHT) / 2, BOTTOM + 46), "cells outside the mask", 14, "mm")


def _draw_legend(plot: _Plot) -> None:
    """Names of lines and dots in the upper left corner, where no speed-up ever is."""
    radius = 5
    for number, (mask, name) in enumerate(LEGEND.items()):
        y = TOP + 24 + 24 * number
        box = [SUPERSAMPLE * v for v in (LEFT + 24 - radius, y - radius, LEFT + 24 + radius, y + radius)]
        plot.draw.line([SUPERSAMPLE * v for v in (LEFT + 8, y, LEFT + 40, y)], COLOURS[mask], round(2.5 * SUPERSAMPLE))
        plot.draw.ellipse(box, COLOURS[mask])
        plot.text((LEFT + 52, y), name, 14, "lm")
    y = TOP + 24 + 24 * len(LEGEND)
    box = [SUPERSAMPLE * v for v in (LEFT + 24 - radius, y - radius, LEFT + 24 + radius, y + radius)]
    plot.draw.ellipse(box, PAPER_WHITE, GREY, 2 * SUPERSAMPLE)
    plot.text((LEFT + 52, y), "SBNet on a GTX 1080 Ti, same kind of mask", 14, "lm")
    plot.draw.line([SUPERSAMPLE * v for v in (LEFT + 8, y + 24, LEFT + 40, y + 24)], GREY, SUPERSAMPLE)
    plot.text((LEFT + 52, y + 24), "one over the share of active cells", 14, "lm")
