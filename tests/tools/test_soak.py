"""`python -m tools.soak` in short, on a tiny network; and that it notices what it is there to notice."""

import copy
import json
import os

import numpy as np
import pytest
from click.testing import CliRunner

from detector import Config, Pipeline
from tests.tiny_network import patch_points, write_model
from tools.soak import __main__ as command
from tools.soak.frames import MOST_POINTS, varied
from tools.soak.run import DRIFT_FRAMES, broken_limits, soak
from tools.soak.watch import Probes

FRAMES = 100


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return Config(model=str(write_model(tmp_path_factory.mktemp("network") / "tiny.onnx")), device="cpu")


@pytest.fixture(scope="module")
def sweeps():
    return [np.concatenate([patch_points(row, col)] * 50) for row, col in ((0, 0), (1, 1), (1, 2))]


@pytest.fixture(scope="module")
def record(config, sweeps):
    return soak(lambda: Pipeline(config), sweeps, FRAMES)


def test_a_short_soak(record):
    assert (record["frames"], record["rounds"], record["pipelines"]) == (FRAMES, 5, 3)
    assert record["probes"] == 10 and record["changed"] == [] and record["drift"] is not None
    assert record["threads"]["last"] <= record["threads"]["first"] and record["files"]["first"] > 0
    assert record["memory"]["first"] > 10
    kept = {**record, "memory": {"first": 1.0, "last": 1.0}}  # a hundred frames say nothing of memory
    assert broken_limits(kept) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory": {"first": 100.0, "last": 103.0}}, "memory grew by 3.0%"),
        ({"files": {"first": 10, "last": 11}}, "files grew from 10 to 11"),
        ({"threads": {"first": 4, "last": 5}}, "threads grew from 4 to 5"),
        ({"changed": [70, 90]}, "2 probes gave other boxes than before, the first in frame 70"),
        ({"drift": 0.06, "frames": DRIFT_FRAMES}, "grew by 6.0%"),
        ({"drift": 0.04, "frames": DRIFT_FRAMES}, None),
        ({"drift": 0.5}, None),
    ],
)
def test_limits(record, change, words):
    broken = broken_limits({**record, "memory": {"first": 1.0, "last": 1.0}, **change})
    assert broken == [] if words is None else words in broken[0]


def test_a_leak_of_files_and_a_change_of_boxes_are_noticed(config, sweeps):
    held = []

    class Leaking(Pipeline):
        def detect(self, frame, clock=None):
            held.append(os.open("/dev/null", os.O_RDONLY))
            result = super().detect(frame, clock)
            if len(held) > 60:
                result.detections.boxes[:, 0] += 1
            return result

    try:
        record = soak(lambda: Leaking(config), sweeps, FRAMES)
    finally:
        for handle in held:
            os.close(handle)
    broken = " ".join(broken_limits({**record, "memory": {"first": 1.0, "last": 1.0}}))
    assert "files grew" in broken and "other boxes than before" in broken


def test_drift_by_hand():
    probes = Probes(runs={0: [(0, 2.0), (10, 2.0), (90, 2.2)], 1: [(5, 1.0), (95, 1.3)], 2: [(50, 9.0)]})
    assert probes.drift(20, 80) == pytest.approx(np.median([0.1, 0.3]))
    assert probes.drift(0, 80) is None
    assert Probes(runs={0: [(0, 1.0), (90, 0.9)]}).drift(20, 80) == pytest.approx(-0.1), "faster is no drift"


def test_no_two_frames_are_alike(sweeps):
    frames = [varied(sweeps, 0, number) for number in range(60)]
    sizes = [len(frame) for frame in frames]
    assert len(set(sizes)) > 50 and MOST_POINTS >= max(sizes) > 0.8 * MOST_POINTS
    assert any(len(varied(sweeps, 0, number)) == 0 for number in range(300, 320))
    assert all(frame.dtype == np.float32 and frame.shape[1] == 4 for frame in frames)
    assert np.array_equal(varied(sweeps, 0, 7), frames[7]) and not np.array_equal(varied(sweeps, 1, 7), frames[7])
    heights = np.unique(np.concatenate(sweeps)[:, 2])
    assert np.isin(np.concatenate(frames)[:, 2], heights).all(), "rotated about z, nothing else"


def test_the_command(config, sweeps, record, tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(f"model: {config.model}\n")
    monkeypatch.setattr(command, "make_sweeps", lambda count, seed: sweeps)
    good = {**copy.deepcopy(record), "memory": {"first": 1.0, "last": 1.0, "most": 1.0}}
    monkeypatch.setattr(command, "soak", lambda make, *rest: (make(), good)[1])
    words = ["--config", str(tmp_path / "tiny.yaml"), "--json", str(tmp_path / "soak.json")]
    result = CliRunner().invoke(command.main, words)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "soak.json").read_text())
    assert {"machine", "date", "revision", "command", "broken"} <= set(written) and written["broken"] == []
    good["changed"] = [3]
    result = CliRunner().invoke(command.main, words)
    assert result.exit_code == 1 and "broken" in result.stdout
