"""Speed-up over sparsity of conv-2's residual units, after SBNet's figure 6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.benchmark.report import make_figure
from tools.benchmark.sbnet_rows import Row, read_rows

FIGURE_SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
# Read off the paper's figure 6, good to a few percent.
PAPER: Mapping[str, Mapping[float, float]] = {
    "synthetic": {0.8: 5.0, 0.9: 8.0, 0.95: 16.0, 0.98: 27.0},
    "road": {0.6: 2.2, 0.93: 8.7},
    "predicted": {0.6: 2.5, 0.9: 6.0, 0.98: 19.0},
}
LEGEND = {"synthetic": "rectangle", "road": "where points are", "predicted": "points above the ground"}
SPEEDUPS = (1, 2, 4, 8, 16, 32, 64)


def figure_rows() -> Iterator[Row]:
    """Conv-2's units at every sparsity and mask of the figure."""
    base = next(row for row in read_rows() if (row.kind, row.stage) == ("unit", "conv-2"))
    for mask in PAPER:
        for sparsity in FIGURE_SPARSITIES:
            paper = PAPER[mask].get(sparsity, float("nan"))
            yield replace(base, mask=mask, sparsity=sparsity, sbnet=paper, submanifold=float("nan"))


def draw_figure(records: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Writes the picture of the records of `figure_rows`: lines measured here, hollow dots from the paper.

    Both axes are logarithmic, so that one over the share of active cells is a straight line.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    first = records[0]
    cores = f"{first['machine']['cores']} cores of {first['machine']['cpu']}, {first['date'][:10]}"
    shape = " × ".join(str(first[side]) for side in ("height", "width", "channels"))
    figure, axes = make_figure(f"{first['units']} residual units, {shape}: sparse over onnxruntime dense\n{cores}")
    ends = (1 - FIGURE_SPARSITIES[0], 1 - FIGURE_SPARSITIES[-1])
    axes.plot(ends, [1 / share for share in ends], color="0.6", linewidth=1, label="one over the share of active cells")
    for number, (mask, name) in enumerate(LEGEND.items()):
        measured = [(1 - record["sparsity"], record["ours"]) for record in records if record["mask"] == mask]
        axes.plot(*zip(*measured, strict=True), "o-", color=f"C{number}", label=name)
        for sparsity, speedup in PAPER[mask].items():
            axes.plot(1 - sparsity, speedup, "o", color=f"C{number}", markerfacecolor="none")
    axes.plot([], [], "o", color="0.4", markerfacecolor="none", label="SBNet on a GTX 1080 Ti, same kind of mask")
    axes.set(xscale="log", yscale="log", xlim=(0.55, 0.018), ylim=(0.8, SPEEDUPS[-1]))
    axes.set(xlabel="cells outside the mask", ylabel="speed-up")
    axes.set_xticks([1 - s for s in FIGURE_SPARSITIES], [f"{s:.0%}" for s in FIGURE_SPARSITIES])
    axes.set_yticks(SPEEDUPS, [f"{number}×" for number in SPEEDUPS])
    axes.minorticks_off()
    axes.grid(color="0.9")
    axes.legend(loc="upper left")
    figure.savefig(file)
