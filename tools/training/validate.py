"""Validation with the product's own parts: exported network, pipeline, label conversion, KITTI evaluation."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detector.boxes import labels_from_detections
from detector.config import Config
from detector.evaluate import best_f1_score, evaluate
from detector.labels import CAR
from detector.pipeline import Pipeline
from detector.types import Frame
from models.network import NetworkInfo
from tools.training.dataset import LabelledFrame
from tools.training.export import export_detector
from tools.training.network import BevDetector


@dataclass(frozen=True)
class Validation:
    """AP as `detector.evaluate.evaluate` gives it, the score of best F1 (BEV, moderate, IoU 0.7), and that F1."""

    ap: dict[str, Any]
    best_score: float
    best_f1: float

    @property
    def bev_moderate(self) -> float:
        """Car BEV AP at IoU 0.7, 40 recall points, moderate [%]."""
        return float(self.ap[CAR]["bev"]["R40"]["moderate"])


def validate(network: BevDetector, info: NetworkInfo, frames: list[LabelledFrame]) -> Validation:
    """Runs the network over labelled frames, as the shipped pipeline does without a mask network, and evaluates it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_detector(network, info, path)
        pipeline = Pipeline(replace(Config(), model=str(path)))
        predictions = [
            labels_from_detections(
                pipeline.detect(Frame(frame.points, frame.id, calibration=frame.calibration)).detections,
                frame.calibration,
            )
            for frame in frames
        ]
    labels = [frame.labels for frame in frames]
    score, f1 = best_f1_score(predictions, labels)
    return Validation(evaluate(predictions, labels), score, f1)
