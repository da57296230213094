"""What masks save against what they lose, over thresholds and margins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.profile.charts import import_matplotlib


def draw_tradeoff(record: Mapping[str, Any], file: Path) -> None:
    """Writes the picture of a record of ``tools.benchmark masks``: cars inside over thresholds, AP over margins.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = import_matplotlib().figure.Figure(figsize=(11, 4.8), dpi=120, layout="constrained")
    inside, accuracy = figure.subplots(1, 2)
    for number, default in enumerate(run for run in record["sources"] if run["source"] != "all"):
        runs = [run for run in record["sweep"] if run["source"] == default["source"]]
        style = {"color": f"C{number}", "label": default["source"]}
        thresholds = [run for run in runs if run["margin_m"] == default["margin_m"]]
        margins = [run for run in runs if run["threshold"] == default["threshold"]]
        for axes, chosen, value in ((inside, thresholds, _whole), (accuracy, margins, _loss)):
            line = sorted((_saved(run), value(run)) for run in chosen)
            axes.plot(*zip(*line, strict=True), ".-", **style)
            axes.plot(_saved(default), value(default), "o", color=style["color"], markersize=9, markerfacecolor="none")
    inside.set(title="cars wholly inside active tiles, over thresholds", ylabel="% of labelled cars")
    accuracy.set(title="BEV AP against all tiles, over margins", ylabel="points of AP R40, moderate, IoU 0.7")
    for axes in (inside, accuracy):
        axes.set_xlabel("tiles left out, median of frames [%]")
        axes.grid(color="0.9")
    accuracy.axhline(0, color="0.6", linewidth=1)
    inside.legend(loc="lower left")
    figure.suptitle(f"{record['frames']} frames; circles: defaults", fontsize=10)
    figure.savefig(file)


def _saved(run: Mapping[str, Any]) -> float:
    return 100 * (1 - float(run["tile_fraction"]["p50"]))


def _whole(run: Mapping[str, Any]) -> float:
    return 100 * float(run["cars_wholly_inside"])


def _loss(run: Mapping[str, Any]) -> float:
    return float(run["ap_minus_dense"])
