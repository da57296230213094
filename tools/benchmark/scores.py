"""``python -m tools.benchmark scores``: precision, recall and F1 by score threshold, and what a score is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from detector.config import load_config
from detector.evaluate import Rates, best_f1_score, frame_pairs, match_counts
from detector.labels import KittiLabels
from detector.matching import DIFFICULTIES, METRICS, FramePair
from detector.pipeline import Pipeline
from tools.benchmark.labelled import detect_labels, frames_for, identity
from tools.benchmark.report import emit, origin
from tools.benchmark.score_plot import draw_scores

METRIC, DIFFICULTY = "bev", "moderate"  # as `best_f1_score`, whose threshold networks carry
STEP = 0.05  # of thresholds
BIN = 0.1  # of scores


def operating_points(pairs: Sequence[FramePair], scores: NDArray[np.float64]) -> list[dict[str, float]]:
    """Counts and rates of the detections from each score (T,) on."""
    counts = match_counts(pairs, METRICS[METRIC], DIFFICULTIES[DIFFICULTY], np.asarray(scores, np.float64))
    rates = Rates.of(counts)
    return [
        {
            "score": round(float(score), 4),
            **dict(zip(("right", "wrong", "missed"), map(int, row), strict=True)),
            **{name: float(getattr(rates, name)[number]) for name in Rates._fields},
        }
        for number, (score, row) in enumerate(zip(scores, counts, strict=True))
    ]


def reliability(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[list[dict[str, float]], float]:
    """How often detections of a score are right.

    Args:
        scores: (N,) float64 in 0..1.
        right: (N,) bool.

    Returns:
        Per bin of `BIN` that holds any: its lower end, detections, mean score, share that is right; and the expected
        calibration error, the mean over detections of what these last two differ by (Guo et al., "On Calibration of
        Modern Neural Networks", ICML 2017).
    """
    number = np.minimum(np.floor(np.asarray(scores) / BIN + 1e-9).astype(int), round(1 / BIN) - 1)
    rows = [
        {
            "low": round(BIN * int(here), 4),
            "detections": int((number == here).sum()),
            "score": float(scores[number == here].mean()),
            "right": float(right[number == here].mean()),
        }
        for here in np.unique(number)
    ]
    error = sum(row["detections"] * abs(row["score"] - row["right"]) for row in rows) / max(len(scores), 1)
    return rows, float(error)


def judged(found: Sequence[KittiLabels], pairs: Sequence[FramePair]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(N,) float64 scores of all detections that are right or wrong, and (N,) bool, which of them are right."""
    scores, right = [np.zeros(0)], [np.zeros(0, bool)]
    for labels, pair in zip(found, pairs, strict=True):
        fates = pair.fates(METRICS[METRIC], DIFFICULTIES[DIFFICULTY], 0.0)
        counts = fates.right | fates.wrong
        scores.append(labels.scores[counts])
        right.append(fates.right[counts])
    return np.concatenate(scores), np.concatenate(right)


def score_facts(found: Sequence[KittiLabels], truth: Sequence[KittiLabels], display_score: float) -> dict[str, Any]:
    """What the record says of one way of running."""
    pairs = frame_pairs(found, truth)
    best, _ = best_f1_score(found, truth, METRIC, DIFFICULTY)
    bins, error = reliability(*judged(found, pairs))
    steps = np.arange(1, round(1 / STEP)) * STEP
    return {
        "best": operating_points(pairs, np.array([best]))[0],
        "display": operating_points(pairs, np.array([display_score]))[0],
        "thresholds": operating_points(pairs, steps),
        "reliability": bins,
        "calibration_error": error,
    }


def scores_table(record: dict[str, Any]) -> Table:
    """Precision, recall and F1 of sparse execution by threshold."""
    title = f"{record['network']}, {record['frames']} frames, BEV IoU 0.7, {record['difficulty']}, sparse"
    table = Table("score from", "right", "wrong", "missed", "precision", "recall", "F1", title=title)
    run = record["runs"][-1]
    named = ("best F1", run["best"]), ("display score", run["display"])
    for name, row in [(f"{row['score']:.2f}", row) for row in run["thresholds"]] + [
        (f"{row['score']:.3f}, {name}", row) for name, row in named
    ]:
        rates = (f"{row[key]:.3f}" for key in Rates._fields)
        table.add_row(name, *(str(row[key]) for key in ("right", "wrong", "missed")), *rates)
    return table


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="File that lists the frame ids to count.")
@click.option("--config", "name", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw both curves.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def scores(source: Path, split: Path | None, name: str, plot: Path | None, json_file: str | None) -> None:
    """Precision, recall and F1 of cars by score threshold, the best threshold, and how often a score is right.

    \b
    python -m tools.benchmark scores $KITTI --split configs/splits/kitti_val.txt --plot docs/scores.png
    """
    config = load_config(name)
    frames = frames_for(config, source, split)
    truth, runs = [frame.labels for frame in frames], []
    for execution in ("dense", "sparse"):
        pipeline = Pipeline.from_config(replace(config, execution=execution))
        display_score = pipeline.network.info.display_score
        facts = score_facts(detect_labels(pipeline, frames), truth, display_score)
        runs.append({"execution": execution, **facts})
    head = {**identity(pipeline.network), "display_score": display_score, "frames": len(frames)}
    record = {**head, "metric": METRIC, "difficulty": DIFFICULTY, "runs": runs, **origin()}
    emit(json_file, record, scores_table(record))
    if plot:
        draw_scores(record, plot)
