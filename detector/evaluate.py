"""Average precision of cars by the protocol of the KITTI object benchmark.

Per difficulty and metric, each detection matches at most one object (`detector.matching`); precision is taken
at up to 41 score thresholds spread evenly over recall, made monotone, and averaged: R40 over recall
1/40, 2/40, … 1 (the benchmark since 2019), R11 over recall 0, 0.1, … 1.

Source: the KITTI object development kit of 2017 (``evaluate_object.cpp``); R40: Simonelli et al.,
"Disentangling Monocular 3D Object Detection", ICCV 2019. Two cases the kit leaves open: without any object
that counts, AP is 0; a threshold at which nothing is right or wrong has precision 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from detector.errors import LabelError
from detector.files import read_text
from detector.labels import CAR, KittiLabels, read_labels
from detector.matching import DIFFICULTIES, METRICS, Difficulty, FramePair, Metric

Float64 = NDArray[np.float64]
# Metric, then "R11" or "R40", then difficulty: AP in percent.
AveragePrecision = dict[str, dict[str, dict[str, float]]]

NUM_RECALLS = 41
MAX_SPLIT_BYTES = 10_000_000


@dataclass(frozen=True)
class EvaluationReport:
    """What `evaluate_folders` found.

    Attributes:
        frame_ids: the frames evaluated.
        missing_ids: those of them without a prediction file, taken as frames without detections.
        average_precision: the result of `evaluate`.
    """

    frame_ids: tuple[str, ...]
    missing_ids: tuple[str, ...]
    average_precision: dict[str, AveragePrecision]


class Rates(NamedTuple):
    """(T,) float64 in 0..1 each: precision, recall, and F1, which is their harmonic mean."""

    precision: Float64
    recall: Float64
    f1: Float64

    @classmethod
    def of(cls, counts: NDArray[np.integer]) -> Rates:
        """The rates of (T, 3) true positives, false positives and misses; 0 where there is nothing to divide by."""
        right, wrong, missed = np.asarray(counts).T
        shares = ((right, right + wrong), (right, right + missed), (2 * right, 2 * right + wrong + missed))
        return cls(*(share / np.maximum(whole, 1) for share, whole in shares))


def evaluate(predictions: Sequence[KittiLabels], labels: Sequence[KittiLabels]) -> dict[str, AveragePrecision]:
    """KITTI average precision of the class Car.

    Args:
        predictions: detections of each frame, with scores.
        labels: ground truth of the same frames, in the same order.

    Returns:
        ``{"Car": {METRIC: {"R11" | "R40": {DIFFICULTY: AP}}}}``, AP in percent, with the names of
        `detector.matching.METRICS` and `DIFFICULTIES`. This is what ``roadblocks evaluate --json`` writes.

    Raises:
        ValueError: if the lengths differ.
        LabelError: if a detection has no score.
    """
    pairs = frame_pairs(predictions, labels)
    result: AveragePrecision = {}
    for name, metric in METRICS.items():
        precisions = {key: precisions_at_recalls(pairs, metric, difficulty) for key, difficulty in DIFFICULTIES.items()}
        result[name] = {
            "R11": {key: 100 * float(precision[::4].mean()) for key, precision in precisions.items()},
            "R40": {key: 100 * float(precision[1:].mean()) for key, precision in precisions.items()},
        }
    return {CAR: result}


def best_f1_score(
    predictions: Sequence[KittiLabels],
    labels: Sequence[KittiLabels],
    metric: str = "bev",
    difficulty: str = "moderate",
) -> tuple[float, float]:
    """The score threshold at which F1, the harmonic mean of precision and recall, is highest.

    Args:
        predictions: detections of each frame, with scores.
        labels: ground truth of the same frames, in the same order.
        metric: a name of `METRICS`.
        difficulty: a name of `DIFFICULTIES`.

    Returns:
        The score and the F1 in 0..1 of the detections with at least that score; (0, 0) if none is right.
    """
    pairs = frame_pairs(predictions, labels)
    # Between two scores of true positives a higher threshold only drops false ones.
    chosen = METRICS[metric], DIFFICULTIES[difficulty]
    scores = np.unique(_positive_scores(pairs, *chosen))
    if not len(scores):
        return 0.0, 0.0
    f1 = Rates.of(match_counts(pairs, *chosen, scores)).f1
    best = int(f1.argmax())
    return float(scores[best]), float(f1[best])


def frame_pairs(predictions: Sequence[KittiLabels], labels: Sequence[KittiLabels]) -> list[FramePair]:
    """Predictions and labels of the same frames, with their overlaps."""
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} frames of predictions, {len(labels)} of labels; expected one each")
    for index, found in enumerate(predictions):
        _check_scores(found, f"predictions of frame number {index}")
    return [FramePair(found, truth) for found, truth in zip(predictions, labels, strict=True)]


def _check_scores(found: KittiLabels, where: str) -> None:
    unscored = int(np.isnan(found.scores).sum())
    if unscored:
        raise LabelError(
            f"{where}: {unscored} of {len(found)} objects have no score, expected one each in column 16; "
            "give the detector's output here, not labels"
        )


def _positive_scores(pairs: list[FramePair], metric: Metric, difficulty: Difficulty) -> Float64:
    """(K,) float64 scores of the true positives of all frames."""
    return np.concatenate([np.zeros(0), *(pair.positive_scores(metric, difficulty) for pair in pairs)])


def match_counts(
    pairs: Sequence[FramePair], metric: Metric, difficulty: Difficulty, thresholds: Float64
) -> NDArray[np.int64]:
    """(T, 3) int64 true positives, false positives and misses of all frames, per score threshold (T,)."""
    counts = np.zeros((len(thresholds), 3), np.int64)
    for pair in pairs:
        counts += pair.counts(metric, difficulty, thresholds)
    return counts


def precisions_at_recalls(pairs: list[FramePair], metric: Metric, difficulty: Difficulty) -> Float64:
    """(41,) float64 precision in 0..1 at rising recall: the best from there on, 0 beyond the last recall."""
    num_objects = sum(int((~pair.truth_ignored(difficulty)).sum()) for pair in pairs)
    thresholds = recall_thresholds(_positive_scores(pairs, metric, difficulty), num_objects)
    precision = np.zeros(NUM_RECALLS)
    precision[: len(thresholds)] = Rates.of(match_counts(pairs, metric, difficulty, thresholds)).precision
    return np.maximum.accumulate(precision[::-1])[::-1]


def recall_thresholds(scores: Float64, num_objects: int) -> Float64:
    """The scores at which recall comes nearest to 0, 1/40, 2/40, … as far as it goes.

    Args:
        scores: (K,) float64, scores of the true positives, in any order.
        num_objects: ground-truth objects that count, at least K.

    Returns:
        (T,) float64, falling; T <= 41.
    """
    thresholds = []
    recall = 0.0
    ordered = np.sort(scores)[::-1]
    for rank, score in enumerate(ordered, start=1):
        here, after = rank / num_objects, (rank + 1) / num_objects
        # The next score comes nearer to the wanted recall; the last score has none after it.
        if rank < len(ordered) and after - recall < recall - here:
            continue
        thresholds.append(score)
        recall += 1 / (NUM_RECALLS - 1)
    return np.array(thresholds, np.float64)


def evaluate_folders(predictions: Path, labels: Path, split: Path | None = None) -> EvaluationReport:
    """KITTI average precision of the result files in one folder against the label files in another.

    Args:
        predictions: an output folder (holding ``label_2``) or the folder of result files itself.
        labels: the folder of label files, one holding ``label_2``, or a KITTI root (``training/label_2``).
        split: text file with one frame id per line; without it every label file counts.

    Returns:
        The report. A frame without a prediction file is a frame without detections.

    Raises:
        LabelError: if a folder is missing or empty, a file is broken, a detection has no score, the split
            names a frame without labels, or no frame has both.
    """
    frame_ids, missing_ids, found, truth = read_folders(predictions, labels, split)
    return EvaluationReport(frame_ids, missing_ids, evaluate(found, truth))


def read_folders(
    predictions: Path, labels: Path, split: Path | None = None
) -> tuple[tuple[str, ...], tuple[str, ...], list[KittiLabels], list[KittiLabels]]:
    """The frames of `evaluate_folders`, which says what is raised.

    Returns:
        Ids of the frames, ids of those without predictions, and predictions and labels of all of them.
    """
    found_files, label_files = _label_files(predictions), _label_files(labels)
    frame_ids = tuple(sorted(label_files)) if split is None else _read_split(split, label_files, labels)
    missing_ids = tuple(frame_id for frame_id in frame_ids if frame_id not in found_files)
    if len(missing_ids) == len(frame_ids):
        raise LabelError(
            f"{predictions} and {labels} share no frame: found e.g. {min(found_files)} in the first, "
            f"expected e.g. {frame_ids[0]}; give predictions for the frames of these labels"
        )
    found = {frame_id: KittiLabels.empty() for frame_id in missing_ids}
    for frame_id in frame_ids:
        if frame_id in found_files:
            found[frame_id] = read_labels(found_files[frame_id])
            _check_scores(found[frame_id], str(found_files[frame_id]))
    truth = [read_labels(label_files[frame_id]) for frame_id in frame_ids]
    return frame_ids, missing_ids, [found[frame_id] for frame_id in frame_ids], truth


def _label_files(folder: Path) -> dict[str, Path]:
    """The label files of a folder by frame id, looked for where KITTI and our own output put them."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise LabelError(f"{folder}: found {found}, expected a folder of label files (ID.txt); check the path")
    places = [folder / "training" / "label_2", folder / "label_2", folder]
    place = next(place for place in places if place.is_dir())
    files = {path.stem: path for path in place.glob("*.txt")}
    if not files:
        below = ", ".join(sorted(path.parent.name for path in folder.glob("*/label_2")))
        hint = f"choose one of its folders: {below}" if below else "give a folder with label_2 in it"
        raise LabelError(f"{place}: found no label file, expected ID.txt files; {hint}")
    return files


def _read_split(split: Path, label_files: dict[str, Path], labels: Path) -> tuple[str, ...]:
    """The frame ids of a split file, each once, in its order."""
    try:
        ids = tuple(dict.fromkeys(read_text(split, MAX_SPLIT_BYTES).split()))
    except OSError as error:
        raise LabelError(
            f"{split}: cannot be read ({error.strerror}); expected a text file, one id per line"
        ) from error
    unknown = [frame_id for frame_id in ids if frame_id not in label_files]
    if unknown or not ids:
        found = f"{len(unknown)} of {len(ids)} ids have no label, e.g. {unknown[0]:.40}" if ids else "no frame id"
        raise LabelError(
            f"{split}: found {found}; expected ids of label files in {labels}, e.g. {min(label_files)}; "
            "correct the split or give other labels"
        )
    return ids


def result_table(report: EvaluationReport) -> Table:
    """The report as a table for the terminal: one row per metric, AP in percent."""
    missing = f", {len(report.missing_ids)} without predictions" if report.missing_ids else ""
    table = Table(title=f"Car AP [%], {len(report.frame_ids)} frames{missing}")
    table.add_column("metric")
    table.add_column("IoU", justify="right")
    for recalls in ("R40", "R11"):
        for difficulty in DIFFICULTIES:
            table.add_column(f"{recalls}\n{difficulty}", justify="right")
    for name, by_recalls in report.average_precision[CAR].items():
        values = [by_recalls[recalls][difficulty] for recalls in ("R40", "R11") for difficulty in DIFFICULTIES]
        metric = METRICS[name]
        table.add_row(metric.kind, f"{metric.min_overlap:.1f}", *(f"{value:.2f}" for value in values))
    return table
