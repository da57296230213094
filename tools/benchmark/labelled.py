"""Detections beside labels: what measurements of a network's answers start from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from detector.boxes import labels_from_detections
from detector.cli import messages
from detector.config import Config
from detector.labels import KittiLabels
from detector.pipeline import Pipeline
from detector.types import Frame
from models.network import Network, load_network
from tools.training.dataset import LabelledFrame, load_frames


def identity(network: Network) -> dict[str, str]:
    """Which weights a record is of: the network's name and the hash of its file."""
    return {"network": network.info.name, "sha256": network.sha256}


def frames_for(config: Config, source: Path, split: Path | None) -> list[LabelledFrame]:
    """The labelled frames of a KITTI object folder with the points that a configuration's network gets."""
    return load_frames(source, split, config.sensor.crops(load_network(config.model).info.grid.all_round))


def detect_labels(pipeline: Pipeline, frames: Sequence[LabelledFrame]) -> list[KittiLabels]:
    """The detections of every frame that its camera sees, as KITTI labels with scores."""
    found = []
    for frame in track(frames, pipeline.config.execution, console=messages, transient=True):
        result = pipeline.detect(Frame(frame.points, frame.id, calibration=frame.calibration))
        found.append(labels_from_detections(result.detections, frame.calibration))
    return found
