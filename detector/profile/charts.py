"""The charts of a profile as SVG elements, drawn by matplotlib, coloured by the page that they stand in.

matplotlib knows no style sheet. So every role ("text", "sparse", …) has a colour that nothing else has, and in the
finished SVG that colour is replaced by the page's variable of the same name: one picture, light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from detector.errors import MissingExtraError
from detector.profile.record import MODE_NAMES
from detector.stages import STAGES, Stage

MODES = tuple(MODE_NAMES)
MEASURED = tuple(row.stage.value for row in STAGES if row.stage is not Stage.WRITE)
ROLES = ("text", "faint", "line", *MODES, *MEASURED)
COLOURS: Mapping[str, str] = {role: f"#0f1e{number:02x}" for number, role in enumerate(ROLES)}
WIDTH_IN = 9.6
LEAST_LABEL = 0.045  # a segment of a bar is labelled if it is this share of the longest bar
STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "svg.hashsalt": "roadblocks",
    "font.size": 10,
    "text.color": COLOURS["text"],
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["faint"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["faint"],
    "ytick.labelcolor": COLOURS["text"],
    "legend.frameon": False,
    "legend.labelcolor": COLOURS["text"],
}


def import_matplotlib() -> Any:
    """The package, or an error that says how to get it.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise MissingExtraError(
            "matplotlib is not installed; expected for charts: pip install 'roadblocks[plots]'"
        ) from error
    return matplotlib


def draw_charts(record: Mapping[str, Any]) -> dict[str, str]:
    """SVG elements by name, of a profile's record.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    matplotlib = import_matplotlib()
    charts = {}
    with matplotlib.rc_context(STYLE):
        for name, (draw, height_in, about) in CHARTS.items():
            figure = matplotlib.figure.Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
            draw(figure, record)
            charts[name] = _inline_svg(figure, about)
    return charts


def _inline_svg(figure: Any, about: str) -> str:
    """The figure as an element of an HTML page: no header, no ids that another chart has too, colours by role."""
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[a-z0-9]+_\d+">', "<g>", svg)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for role, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{role})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(about)}" ', 1)


def _mode_label(mode: str) -> str:
    return MODE_NAMES[mode].replace(", ", ",\n", 1).replace(" (", "\n(")


def _stage_bars(figure: Any, record: Mapping[str, Any]) -> None:
    """One bar per mode, its stages one after the other: means, because means add up to the mean of the frames."""
    axes = figure.subplots()
    lists = {mode: record["modes"][mode]["stage_ms"] for mode in MODES}
    longest = max(np.mean(record["modes"][mode]["frame_ms"]) for mode in MODES)
    for place, stages in enumerate(lists.values()):
        left = 0.0
        for stage, values in stages.items():
            mean_ms = float(np.mean(values))
            label = stage if place == 0 else None
            axes.barh(place, mean_ms, left=left, height=0.62, color=COLOURS[stage], label=label)
            if mean_ms > LEAST_LABEL * longest:
                text = f"{stage}\n{mean_ms:.1f}"
                axes.text(left + mean_ms / 2, place, text, ha="center", va="center", size=9)
            left += mean_ms
        axes.text(left + longest * 0.01, place, f"{left:.1f} ms", va="center", weight="bold")
    axes.set_yticks(range(len(lists)), [_mode_label(mode) for mode in lists])
    axes.set(xlim=(0, longest * 1.12), xlabel="mean milliseconds per frame")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=len(MEASURED), handlelength=0.9, columnspacing=1.4)


def _stage_ranges(figure: Any, record: Mapping[str, Any]) -> None:
    """A dot at the median of every stage, a line to its p95, a tick at its p99; a logarithmic axis shows all stages."""
    axes = figure.subplots()
    names = [*record["modes"]["sparse"]["stages"], "total"]
    for number, mode in enumerate(MODES):
        values = record["modes"][mode]
        rows = [values["total"] if name == "total" else values["stages"][name] for name in names]
        places = np.arange(len(names)) + (number - (len(MODES) - 1) / 2) * 0.24
        p50, p95, p99 = ([row[f"{key}_ms"] for row in rows] for key in ("p50", "p95", "p99"))
        axes.hlines(places, p50, p99, color=COLOURS[mode], linewidth=1)
        axes.hlines(places, p50, p95, color=COLOURS[mode], linewidth=3)
        axes.plot(p99, places, "|", color=COLOURS[mode], markersize=7)
        axes.plot(p50, places, "o", color=COLOURS[mode], markersize=6, label=MODE_NAMES[mode])
    axes.set(xscale="log", xlabel="milliseconds per frame, logarithmic: dot p50, thick line to p95, tick p99")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks(range(len(names)), names)
    axes.axhline(len(names) - 1.5, color=COLOURS["line"], linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(length=0, which="both")
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=len(MODES), handlelength=1)


def _frames(figure: Any, record: Mapping[str, Any]) -> None:
    """Latency of every frame in the order of the run, and below it the share of active tiles."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for mode in MODES:
        frame_ms = record["modes"][mode]["frame_ms"]
        above.plot(frame_ms, color=COLOURS[mode], linewidth=1.2, label=MODE_NAMES[mode])
    above.set(ylabel="ms", ylim=(0, None))
    tiles = np.tile(record["tiles"]["active"], record["loop"]) / max(record["tiles"]["total"], 1)
    below.fill_between(range(len(tiles)), tiles, color=COLOURS["sparse"], alpha=0.35, linewidth=0, step="mid")
    below.set(ylabel="active tiles", ylim=(0, None), xlabel="frames in the order of the run")
    below.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for axes in (above, below):
        axes.grid(axis="y")
        axes.margins(x=0.01)
        axes.tick_params(length=0, pad=6, labelcolor=COLOURS["faint"])
        for number in range(1, record["loop"]):
            axes.axvline(number * record["frames"] - 0.5, color=COLOURS["line"], linewidth=1)
    figure.legend(*above.get_legend_handles_labels(), loc="outside upper left", ncols=3)


def _distribution(figure: Any, record: Mapping[str, Any]) -> None:
    """A histogram per mode on one axis of milliseconds, with the percentiles."""
    lists = {mode: record["modes"][mode]["frame_ms"] for mode in MODES}
    panels = figure.subplots(len(lists), 1, sharex=True)
    longest = max(max(values) for values in lists.values())
    for axes, (mode, values) in zip(panels, lists.items(), strict=True):
        bins = np.linspace(0, longest * 1.02, 161)
        axes.hist(values, bins=bins, color=COLOURS[mode], alpha=0.8)
        for percentile in (50, 95, 99):
            axes.axvline(np.percentile(values, percentile), color=COLOURS["text"], linewidth=0.8, dashes=(3, 2))
        numbers = ", ".join(f"p{p} {np.percentile(values, p):.1f}" for p in (50, 95, 99))
        axes.set_title(f"{MODE_NAMES[mode]}: {numbers} ms", loc="left", fontsize=10)
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
    panels[-1].set(xlim=(0, longest * 1.03), xlabel="milliseconds per frame, load to nms; dashes are p50, p95, p99")


def _cost(figure: Any, record: Mapping[str, Any]) -> None:
    """Sparse and dense latency of every frame over its active tiles."""
    axes = figure.subplots()
    tiles = np.tile(record["tiles"]["active"], record["loop"]) / max(record["tiles"]["total"], 1)
    for mode in ("dense", "sparse"):
        frame_ms = record["modes"][mode]["frame_ms"]
        axes.plot(tiles, frame_ms, "o", color=COLOURS[mode], markersize=4, alpha=0.55, label=MODE_NAMES[mode])
    axes.set(xlabel="active tiles", ylabel="ms", ylim=(0, None), xlim=(0, None))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(length=0, pad=6, labelcolor=COLOURS["faint"])
    axes.grid()
    figure.legend(loc="outside upper left", ncols=2)


CHARTS: Mapping[str, tuple[Any, float, str]] = {
    "bars": (_stage_bars, 3.0, "Bar chart: mean milliseconds of every stage, one bar per way of running"),
    "ranges": (_stage_ranges, 4.2, "Dot chart: p50, p95 and p99 of every stage, per way of running"),
    "frames": (_frames, 3.8, "Line chart: milliseconds of every frame, and its share of active tiles"),
    "distribution": (_distribution, 3.6, "Histograms: milliseconds of the frames, per way of running"),
    "cost": (_cost, 3.4, "Scatter chart: milliseconds of every frame over its share of active tiles"),
}
