"""Plots of a comparison: one small panel per quantity, real filled grey, simulated as a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.profile.charts import import_matplotlib
from tools.benchmark.simulation_distance import Sample
from tools.benchmark.simulation_quantities import QUANTITIES, Quantity

COLUMNS = 4
TEXT_ROOM = 1.3  # how far a panel reaches above its highest bin
REAL_FILL, REAL_EDGE, SIMULATED = "0.82", "0.55", "#c8401e"
TITLES = {
    "cars": "Labelled cars (what lies beyond an axis is in its last bin)",
    "points": "Points in the camera's view (what lies beyond an axis is in its last bin)",
}


def draw_group(
    group: str, real: Mapping[str, Sample], simulated: Mapping[str, Sample], rows: Mapping[str, Any], file: Path
) -> None:
    """Writes the panels of a group of quantities as PNG.

    Args:
        group: "cars" or "points".
        real: pooled sample of every quantity.
        simulated: the same.
        rows: what the record says of every quantity.
        file: the picture.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    keys = [key for key, quantity in QUANTITIES.items() if quantity.group == group]
    lines = -(-len(keys) // COLUMNS)
    figure = import_matplotlib().figure.Figure(figsize=(13, 2.75 * lines + 0.7), dpi=110, layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes, key in zip(panels, keys, strict=False):
        _draw_panel(axes, QUANTITIES[key], real[key], simulated[key], rows[key])
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    for axes in panels[::COLUMNS]:
        axes.set_ylabel("share [%]", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    legend = {"title": TITLES[group], "title_fontsize": 12, "fontsize": 11, "ncols": 2, "frameon": False}
    figure.legend(handles, names, loc="outside upper center", **legend)
    figure.savefig(file)


def _draw_panel(axes: Any, quantity: Quantity, real: Sample, simulated: Sample, row: Mapping[str, Any]) -> None:
    edges = quantity.edges
    axes.stairs(_shares(real, edges), edges, fill=True, facecolor=REAL_FILL, label="real")
    axes.stairs(_shares(real, edges), edges, color=REAL_EDGE, linewidth=0.8)
    axes.stairs(_shares(simulated, edges), edges, color=SIMULATED, linewidth=1.6, label="simulated")
    if quantity.log:
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=6)
    axes.set_title(quantity.name, fontsize=10.5, loc="left")
    axes.set_xlabel(quantity.unit, fontsize=9)
    top = max(_shares(real, edges).max(), _shares(simulated, edges).max(), 1)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, TEXT_ROOM * top))
    if np.ptp(edges) == len(edges) - 1 and len(edges) < 10:
        axes.set_xticks((edges[1:] + edges[:-1]) / 2)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.text(0.98, 0.97, _distance(row), transform=axes.transAxes, ha="right", va="top", fontsize=8.5, color="0.3")


def _distance(row: Mapping[str, Any]) -> str:
    if row["distance"] is None:
        return "no values"
    floor = "" if row["floor"]["high"] is None else f"\nreal halves up to {row['floor']['high']:.2f}"
    return f"distance {row['distance']:.2f}{floor}"


def _shares(sample: Sample, edges: NDArray[np.floating]) -> NDArray[np.float64]:
    """(B,) float64: per cent of the sample in every bin; what is outside counts in the outermost ones."""
    inside = np.clip(sample.values, edges[0], edges[-1])
    count, _ = np.histogram(inside, edges, weights=sample.weights)
    shares: NDArray[np.float64] = 100 * count / max(count.sum(), 1)
    return shares
