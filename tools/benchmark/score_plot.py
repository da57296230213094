"""Precision, recall and F1 over the score threshold, and how often detections of a score are right."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.profile.charts import import_matplotlib


def draw_scores(record: Mapping[str, Any], file: Path) -> None:
    """Writes the picture of a record of ``tools.benchmark scores``.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = import_matplotlib().figure.Figure(figsize=(11, 4.8), dpi=120, layout="constrained")
    curves, calibration = figure.subplots(1, 2)
    styles = dict(zip(("dense", "sparse"), ("--", "-"), strict=True))
    for run in record["runs"]:
        line = styles[run["execution"]]
        shown = [row for row in run["thresholds"] if row["right"] + row["wrong"]]
        scores = [row["score"] for row in shown]
        for number, name in enumerate(("precision", "recall", "f1")):
            label = name.replace("f1", "F1") if line == "-" else None
            curves.plot(scores, [row[name] for row in shown], line, color=f"C{number}", label=label)
        bins = [(row["score"], row["right"]) for row in run["reliability"]]
        calibration.plot(*zip(*bins, strict=True), f"o{line}", color="C4", label=run["execution"])
    for row in record["runs"][-1]["reliability"]:
        calibration.annotate(str(row["detections"]), (row["score"], row["right"]), (0, 7), textcoords="offset points")
    curves.axvline(record["display_score"], color="0.5", linewidth=1)
    curves.annotate("display score", (record["display_score"], 0.02), (-4, 0), textcoords="offset points", ha="right")
    curves.set(title="detections from a score on", xlabel="score threshold", xlim=(0, 1), ylim=(0, 1.02))
    calibration.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    calibration.set(title="detections of a score (their number beside)", xlabel="mean score", xlim=(0, 1))
    calibration.set(ylabel="share that is right", ylim=(0, 1.02))
    for axes in (curves, calibration):
        axes.grid(color="0.9")
    curves.legend(loc="upper left")
    calibration.legend(loc="upper left")
    figure.suptitle(
        f"{record['network']}: {record['frames']} frames, BEV IoU 0.7, {record['difficulty']}; "
        "solid sparse, dashed dense",
        fontsize=10,
    )
    figure.savefig(file)
