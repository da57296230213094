"""The measurements on ``docs/scores.md``."""

from __future__ import annotations

from typing import Any

from tools.benchmark.pages import config_option, markdown, measured, records_of

SHOWN_EVERY = 2  # of the record's thresholds


def score_rows() -> str:
    """Every network's rates by threshold, and how often its scores are right."""
    return "\n\n".join(_network(record, name) for name, record in records_of("scores").items())


def _network(record: dict[str, Any], name: str) -> str:
    dense, sparse = record["runs"]
    display, best = sparse["display"], sparse["best"]
    shown_cars, all_cars = display["right"] + display["wrong"], display["right"] + display["missed"]
    text = (
        f"**`{record['network']}`: display score {record['display_score']:g}.** From it on, sparse execution has "
        f"precision {display['precision']:.1%}, recall {display['recall']:.1%}, F1 {display['f1']:.3f}: of the "
        f"{shown_cars} boxes that pictures and streams show, {display['wrong']} are false or placed too badly for "
        f"KITTI; {display['missed']} of {all_cars} cars are missed. The best F1 on these {record['frames']} frames is "
        f"{best['f1']:.3f} at {best['score']:.3f}; dense, {dense['best']['f1']:.3f} at {dense['best']['score']:.3f}."
    )
    shown = sparse["thresholds"][SHOWN_EVERY - 1 :: SHOWN_EVERY]
    other = {row["score"]: row for row in dense["thresholds"]}
    rows = [
        [
            f"{row['score']:.2f}",
            *(str(row[key]) for key in ("right", "wrong", "missed")),
            *(f"{row[key]:.1%}" for key in ("precision", "recall")),
            f"{row['f1']:.3f}",
            f"{other[row['score']]['f1']:.3f}",
        ]
        for row in shown
        if row["right"] + row["wrong"]
    ]
    curve = markdown(["score from", "right", "wrong", "missed", "precision", "recall", "F1", "F1 dense"], rows)
    bins = [
        [f"{row['low']:.1f}", str(row["detections"]), f"{row['score']:.2f}", f"{row['right']:.1%}"]
        for row in sparse["reliability"]
    ]
    worth = markdown(["scores from", "detections", "mean score", "right"], bins)
    options = f"--split configs/splits/kitti_val.txt{config_option(record['network'])}"
    command = f"python -m tools.benchmark scores $KITTI {options}"
    error = f"Mean distance between score and share that is right, over detections: {sparse['calibration_error']:.3f}."
    return f"{text}\n\n{curve}\n\nHow often a detection of a score is right:\n\n{worth}\n\n{error}\n\n" + measured(
        record, command, name
    )
