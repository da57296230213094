"""`roadblocks stream`: whole lines of JSON whatever ends it, exit codes, what is said on stderr."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from detector import Pipeline
from detector.cli import main
from detector.stream_command import _interrupt_held
from models.dense import DenseExecutor
from models.sparse import TileExecutor
from tests.tiny_network import INFO, patch_points, write_model

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120
KEYS = [
    *("frame", "stamp_ns", "boxes", "scores", "labels", "stage_ms"),
    *("tiles_run", "tiles_left_out", "dropped_before", "latency_ms"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    path = folder / "tiny.yaml"
    path.write_text(f"model: {write_model(folder / 'tiny.onnx')}\n")
    return str(path)


@pytest.fixture
def drive(tmp_path):
    """Four sweeps: a car, nothing at all, a doubtful car (score 0.38, under the network's display score), a car."""
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, count in enumerate([16, 0, 4, 16]):
        patch_points()[:count].tofile(folder / f"{number}.bin")
    return folder


def stream(config, *words):
    return CliRunner().invoke(main, ["stream", "--config", config, *map(str, words)])


def records(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_line_of_json_per_frame(config, drive):
    result = stream(config, drive, "--rate", "inf")
    assert result.exit_code == 0, result.output
    lines = records(result)
    assert all(list(line) == KEYS for line in lines)
    assert [line["frame"] for line in lines] == ["0", "1", "2", "3"]
    assert [len(line["boxes"]) for line in lines] == [1, 0, 0, 1]
    assert lines[0]["boxes"][0][:3] == [1.6, 0.0, -1.0]
    assert list(lines[0]["stage_ms"]) == ["load", "voxelize", "mask", "reduce", "backbone", "decode", "nms"]
    assert all(line["latency_ms"] >= line["stage_ms"]["backbone"] for line in lines)
    assert (lines[0]["tiles_run"], lines[1]["tiles_run"], lines[0]["tiles_left_out"]) == (1, 0, 0)
    assert "1.bin: holds no points" in result.stderr and "; no points: 1" in result.stderr
    assert "streaming" in result.stderr and "4 frames, 0 dropped, 0 skipped; latency p50 " in result.stderr
    assert "peak memory" in result.stderr


def test_boxes_are_those_from_the_display_score_on_unless_told(config, drive):
    assert INFO.display_score > 1 / (1 + np.exp(0.5)) > 0.3
    assert [len(line["boxes"]) for line in records(stream(config, drive, "--score", "0.3"))] == [1, 0, 1, 1]


def test_slices_loops_and_policies(config, drive):
    result = stream(config, drive, "--frames", "2:", "--loop", "3", "--rate", "1000")
    assert [line["frame"] for line in records(result)] == ["2", "3"] * 3
    lines = records(stream(config, drive, "--policy", "latest", "--rate", "1e6", "--loop", "50"))
    assert sum(line["dropped_before"] + 1 for line in lines) == 200 and lines[-1]["frame"] == "3"
    result = stream(config, drive, "--policy", "latest")
    assert result.exit_code == 2 and "expected a rate" in result.stderr


@pytest.mark.parametrize("execution", ["sparse", "dense"])
def test_settings_reach_the_pipeline(config, drive, monkeypatch, execution):
    made = []
    from_config = Pipeline.from_config
    monkeypatch.setattr(Pipeline, "from_config", lambda *a, **k: made.append(from_config(*a, **k)) or made[-1])
    words = ("--execution", execution, "--mask", "all", "--device", "cpu", "--threads", "1", "--rate", "inf")
    assert [line["tiles_run"] for line in records(stream(config, drive, *words))] == [1, 1, 1, 1]
    assert isinstance(made[0]._executor, DenseExecutor if execution == "dense" else TileExecutor)


def test_bad_frames(config, drive):
    (drive / "1.bin").write_bytes(b"x" * 17)
    result = stream(config, drive)
    assert result.exit_code == 1
    assert [line["frame"] for line in records(result)] == ["0", "2", "3"]
    assert "skipped: " in result.stderr and "17 bytes, expected a multiple of 16" in result.stderr
    assert "3 frames, 0 dropped, 1 skipped" in result.stderr and "; truncated: 1" in result.stderr
    result = stream(config, drive, "--on-error", "stop")
    assert result.exit_code == 2 and [line["frame"] for line in records(result)] == ["0"]
    assert "error: " in result.stderr and "1 frames, 0 dropped" in result.stderr
    result = stream(config, drive, "--frames", "1:2")
    assert result.exit_code == 2 and result.stdout == "" and "0 frames, 0 dropped, 1 skipped; peak" in result.stderr


def test_a_source_that_is_none(config, tmp_path):
    result = stream(config, tmp_path / "missing")
    assert result.exit_code == 2 and "does not exist" in result.stderr and result.stdout == ""


def test_ctrl_c_waits_until_the_line_is_out():
    out = []
    with pytest.raises(KeyboardInterrupt), _interrupt_held():
        out.append("half")
        signal.raise_signal(signal.SIGINT)
        out.append("line")
    assert out == ["half", "line"]
    with pytest.raises(KeyboardInterrupt), _interrupt_held():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        out.append("not reached: the reader may never take the line")
    assert len(out) == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with _interrupt_held():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "as under nohup"
    finally:
        signal.signal(signal.SIGINT, before)


def start(config, drive, *words):
    command = [sys.executable, "-m", "detector", "stream", str(drive), "--config", config, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ctrl_c_anywhere_leaves_whole_lines(config, drive, seed):
    rng = random.Random(seed)
    process = start(config, drive, "--rate", "inf", "--loop", "1000000", *(["--policy", "every"] if seed % 2 else []))
    first = [process.stdout.readline() for _ in range(rng.randrange(1, 50))]
    time.sleep(rng.random() * 0.02)  # any moment will do
    process.send_signal(signal.SIGINT)
    # `communicate` would lose what `readline` has read ahead.
    lines, errors = "".join(first) + process.stdout.read(), process.stderr.read()
    assert process.wait(TIMEOUT_S) == 130, errors
    assert lines.endswith("}\n")
    frames = [json.loads(line)["frame"] for line in lines.splitlines()]
    assert frames == [str(number % 4) for number in range(len(frames))]
    assert "Traceback" not in errors and "interrupted" in errors
    assert f"{len(frames)} frames, 0 dropped" in errors


def test_a_reader_that_leaves_is_no_error(config, drive):
    process = start(config, drive, "--rate", "inf", "--loop", "1000000")
    assert json.loads(process.stdout.readline())["frame"] == "0"
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(TIMEOUT_S) == 0, errors
    assert "Traceback" not in errors and "Broken" not in errors and "0 dropped" in errors


def test_every_line_is_there_as_soon_as_its_frame_is_done(config, drive):
    """A reader gets a line while the stream waits for the next frame: it is flushed."""
    process = start(config, drive, "--follow")
    try:
        lines = [json.loads(process.stdout.readline()) for _ in range(4)]
        patch_points().tofile(drive / "4.part")
        (drive / "4.part").rename(drive / "4.bin")
        lines.append(json.loads(process.stdout.readline()))
        assert [line["frame"] for line in lines] == ["0", "1", "2", "3", "4"]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
