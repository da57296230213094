"""The readers of foreign files as functions of bytes: they succeed or raise a one-line `RoadblocksError`.

`tests/fuzz/test_targets.py` feeds them mutated seeds in every test run, ``make fuzz`` as long as one likes, guided by
coverage. Seeds are in `tests/fuzz/corpus`, one folder per target, all of our own making (`tests/fuzz/seeds.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from detector.boxes import boxes_from_labels, labels_from_detections
from detector.calibration import Calibration, read_object_calibration, read_raw_calibration
from detector.config import load_config
from detector.errors import RoadblocksError
from detector.labels import format_labels, read_labels
from detector.sources import FrameFile
from detector.types import Detections
from models.network import load_network
from models.plan import make_plan

FOLDER = Path(tempfile.mkdtemp(prefix="roadblocks-fuzz-"))
CORPUS = Path(__file__).parent / "corpus"
MAX_MESSAGE = 1500
AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
CALIBRATION = Calibration(AXES, np.array([[300, 0, 620, 0], [0, 300, 180, 0], [0, 0, 1, 0.0]]))
CAR = Detections(np.array([[10, 1, -1, 4, 2, 1.5, 0.3]], np.float32), np.array([0.5], np.float32), ("Car",))


def written(name: str, data: bytes) -> Path:
    path = FOLDER / name
    path.write_bytes(data)
    return path


def fuzz_frame(data: bytes) -> None:
    """The first byte chooses the kind of file."""
    suffix = (".bin", ".pcd", ".ply")[data[0] % 3 if data else 0]
    frame = FrameFile("a", written(f"a{suffix}", data[1:])).load()
    assert np.isfinite(frame.points).all() and frame.points.shape[1] == 4
    assert not len(frame) or 0 <= frame.points[:, 3].min() <= frame.points[:, 3].max() <= 1


def fuzz_calibration(data: bytes) -> None:
    """The first byte chooses between the object set's file and the raw recordings' two, parted by a line of ===."""
    if data[:1] == b"r":
        velo, _, camera = data[1:].partition(b"===")
        written("calib_velo_to_cam.txt", velo)
        written("calib_cam_to_cam.txt", camera)
        calibration = read_raw_calibration(FOLDER)
    else:
        calibration = read_object_calibration(written("calib.txt", data[1:]))
    points = np.array([[10, 1, -1], [1e5, -1e5, 3]], np.float32)
    assert calibration.in_view(points).dtype == np.bool_
    labels = labels_from_detections(CAR, calibration)
    assert "nan" not in format_labels(labels) and np.isfinite(labels.locations_m).all()


def fuzz_label(data: bytes) -> None:
    labels = read_labels(written("label.txt", data))
    again = read_labels(written("again.txt", format_labels(labels).encode()))
    assert again.types == labels.types
    assert np.isfinite(boxes_from_labels(labels, CALIBRATION)).all()


def fuzz_config(data: bytes) -> None:
    assert 0 <= load_config(written("config.yaml", data)).score <= 1


def fuzz_network(data: bytes) -> None:
    plan = make_plan(load_network(written("network.onnx", data)))
    assert plan.graph.input_name in plan.maps


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frame": fuzz_frame,
    "calibration": fuzz_calibration,
    "label": fuzz_label,
    "config": fuzz_config,
    "network": fuzz_network,
}


def check(name: str, data: bytes) -> bool:
    """Whether the reader takes the bytes; anything but success and a one-line `RoadblocksError` goes through."""
    try:
        TARGETS[name](data)
    except RoadblocksError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < MAX_MESSAGE, text[:MAX_MESSAGE]
        return False
    return True
