"""`roadblocks view` on what `detect` wrote: pictures, recordings, frames that have moved; `stream --viewer rerun`."""

import json
import shutil
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from detector.cli import main
from detector.errors import SourceError
from detector.pipeline import Pipeline
from detector.viewers import recorded
from detector.viewers.recorded import open_run
from tests.tiny_network import patch_points, write_model, write_wide_model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    path = folder / "tiny.yaml"
    path.write_text(f"model: {write_model(folder / 'tiny.onnx')}\n")
    return str(path)


@pytest.fixture
def drive(tmp_path):
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, count in enumerate([16, 0, 16]):
        patch_points()[:count].tofile(folder / f"{number}.bin")
    return folder


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture
def out(tmp_path, drive, config):
    roadblocks("detect", drive, "-o", tmp_path / "out", "--config", config)
    return tmp_path / "out"


def roadblocks(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_boxes_times_and_tiles_are_those_of_the_run(out, drive, config):
    run = open_run(out)
    pipeline = Pipeline.from_config(config)
    loaded = [frame.load(pipeline) for frame in run.frames]
    assert [result.frame_id for result in loaded] == ["0", "1", "2"]
    for result in loaded:
        again = pipeline.detect(result.frame)
        np.testing.assert_allclose(result.detections.boxes, again.detections.boxes, atol=1e-4)
        np.testing.assert_array_equal(result.tiles.index, again.tiles.index)
        assert result.tiles_run == again.tiles_run and set(result.stage_ms) > set(again.stage_ms)
    assert [len(result.tiles) for result in loaded] == [1, 0, 1], "the next frame does not overwrite them"


@pytest.mark.parametrize("viewer", ["picture", "open3d", "rerun"])
def test_without_a_display_pictures_are_written(out, viewer):
    result = roadblocks("view", out, "--viewer", viewer)
    assert result.exit_code == 0, result.output
    assert names(out / "pictures") == ["0.png", "1.png", "2.png"]
    assert f"3 pictures. Output: {out / 'pictures'}" in result.stdout
    assert ("no display" in result.stderr) is (viewer != "picture")
    with Image.open(out / "pictures" / "0.png") as picture:
        assert picture.width == 1000


def test_frames_and_score(out, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "detector.view_command.frame_picture", lambda *_, **how: drawn.append(how) or Image.new("L", (1, 1))
    )
    assert roadblocks("view", out, "--frames", "1:", "--score", "0.9").exit_code == 0
    assert [how["least_score"] for how in drawn] == [0.9, 0.9]
    result = roadblocks("view", out, "--frames", "7:")
    assert result.exit_code == 2 and "holds no frames in 7:" in result.stderr


def test_frames_that_have_moved(out, drive, tmp_path):
    moved = tmp_path / "elsewhere" / "drive"
    moved.parent.mkdir()
    shutil.move(drive, moved)
    result = roadblocks("view", out)
    assert result.exit_code == 2 and "cannot be found" in result.stderr and "--source SOURCE" in result.stderr
    assert roadblocks("view", out, "--source", moved).exit_code == 0
    (moved / "2.bin").unlink()
    result = roadblocks("view", out, "--source", moved)
    assert result.exit_code == 2 and "frame 2 is not in" in result.stderr


def test_runs_of_several_sources(tmp_path, drive, config):
    other = tmp_path / "other"
    other.mkdir()
    patch_points().tofile(other / "0.bin")
    out = tmp_path / "out"
    roadblocks("detect", drive, other, "-o", out, "--config", config)
    assert [frame.folder.name for frame in open_run(out).frames] == ["drive"] * 3 + ["other"]
    (frame,) = open_run(out / "other").frames
    assert frame.file.path == other / "0.bin" and len(frame.detections) == 1


def test_the_source_of_another_recording_is_refused(tmp_path, drive, config):
    other = shutil.copytree(drive, tmp_path / "other")
    out = tmp_path / "out"
    roadblocks("detect", drive, other, "-o", out, "--config", config)
    with pytest.raises(SourceError, match="holds 0 sources named other"):
        open_run(out, str(drive))
    assert {frame.file.path.parent for frame in open_run(out / "drive", str(drive)).frames} == {drive}


def test_the_folder_and_the_network_may_be_named_from_anywhere(tmp_path, drive, monkeypatch):
    write_model(tmp_path / "tiny.onnx")
    (tmp_path / "tiny.yaml").write_text("model: tiny.onnx\n")
    monkeypatch.chdir(tmp_path)
    assert roadblocks("detect", drive, "-o", "out", "--config", "tiny.yaml").exit_code == 0
    monkeypatch.chdir(tmp_path / "out")
    result = roadblocks("view", ".")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("settings", "tiles", "left_out"), [("budget: {tiles: 2}", 2, 6), ("execution: dense", 24, 0), ("", 8, 0)]
)
def test_tiles_are_those_that_ran(tmp_path, settings, tiles, left_out):
    (tmp_path / "wide.yaml").write_text(f"model: {write_wide_model(tmp_path / 'wide.onnx')}\n{settings}\n")
    points = np.concatenate([patch_points(row, 2) for row in (0, 5, 10, 15)])
    points.tofile(tmp_path / "a.bin")
    roadblocks("detect", tmp_path / "a.bin", "-o", tmp_path / "out", "--config", tmp_path / "wide.yaml")
    ran = Pipeline.from_config(tmp_path / "wide.yaml").detect(points)
    run = open_run(tmp_path / "out")
    result = run.frames[0].load(run.pipeline())
    np.testing.assert_array_equal(result.tiles.index, ran.tiles.index)
    assert (result.tiles_run, result.tiles_left_out) == (ran.tiles_run, ran.tiles_left_out) == (tiles, left_out)


def test_names_in_square_brackets_are_no_markup(tmp_path, config):
    folder = tmp_path / "q[/]"
    folder.mkdir(parents=True)
    patch_points().tofile(folder / "a.bin")
    result = roadblocks("stream", folder, "--config", config, "--rate", "inf")
    assert result.exit_code == 0 and "q[/]" in result.stderr


def test_a_folder_that_detect_did_not_write(tmp_path, out):
    with pytest.raises(SourceError, match=r"no run.json, expected an output folder"):
        open_run(tmp_path / "drive")
    (out / recorded.RECORD).write_text("[]")
    with pytest.raises(SourceError, match="not a record of"):
        open_run(out)


def test_broken_lines_are_told(out):
    line = {"frame": "0", "boxes": [[1, 2]], "scores": [1], "labels": ["Car"]}
    (out / "detections.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(SourceError, match=r"detections.jsonl: frame 0: not boxes"):
        open_run(out)


def test_recordings_need_rerun(out, drive):
    for words in (["view", out], ["view", out, "--viewer", "open3d"], ["stream", drive]):
        result = roadblocks(*words, "--recording", "a.rrd")
        assert result.exit_code == 2 and "add --viewer rerun" in result.stderr


def test_recordings_of_runs_and_streams(out, drive, config, tmp_path):
    pytest.importorskip("rerun", reason="Rerun is not installed: pip install 'roadblocks[viewer]'")
    result = roadblocks("view", out, "--viewer", "rerun", "--recording", tmp_path / "run.rrd")
    assert result.exit_code == 0 and "3 frames. Output: " in result.stdout
    words = ("stream", drive, "--config", config, "--rate", "inf")
    result = roadblocks(*words, "--viewer", "rerun", "--recording", tmp_path / "stream.rrd")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 3
    from rerun.chunk import RrdReader

    for name, series in (("run", "/time_ms/write"), ("stream", "/time_ms/latency")):
        chunks = RrdReader(tmp_path / f"{name}.rrd").stream().to_chunks()
        rows = {entity: 0 for entity in (series, "/world/boxes", "/world/tiles", "/bev/cells")}
        for chunk in chunks:
            if chunk.entity_path in rows:
                rows[chunk.entity_path] += chunk.num_rows
        assert set(rows.values()) == {3}, rows
    result = roadblocks(*words, "--viewer", "rerun")
    assert result.exit_code == 2 and "record with --recording" in result.stderr and result.stdout == ""


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "..", 7])
def test_a_record_cannot_lead_pictures_elsewhere(out, tmp_path, drive, name):
    record = json.loads((out / "run.json").read_text())
    record["sources"] = [{"name": name, "path": str(drive)}, {"name": "b", "path": str(drive)}]
    (out / "run.json").write_text(json.dumps(record))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(out / "detections.jsonl", tmp_path / "elsewhere")
    result = roadblocks("view", out)
    assert result.exit_code == 2 and "not a record of `roadblocks detect`" in result.stderr
    assert names(tmp_path / "elsewhere") == ["detections.jsonl"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run.json", "[" * 100_000),
        ("run.json", "\xff\xfe"),
        ("detections.jsonl", '{"frame": "0", "boxes": [[NaN, 0, 0, 1, 1, 1, 0]], "scores": [1], "labels": ["Car"]}\n'),
        ("detections.jsonl", '{"frame": "0", "boxes": [["a"]], "scores": [1], "labels": ["Car"]}\n'),
        ("detections.jsonl", "[" * 100_000 + "\n"),
    ],
)
def test_damaged_records_are_one_line(out, file, text):
    (out / file).write_text(text, encoding="latin-1")
    result = roadblocks("view", out)
    assert result.exit_code == 2 and "Traceback" not in result.output and isinstance(result.exception, SystemExit)


def test_damaged_times_cost_only_the_times(out):
    (out / "timing.jsonl").write_text(
        '{"frame": "0", "stage_ms": [1], "tiles_run": "many"}\n{"frame": "1", "stage_ms": 1}\n'
    )
    assert [(frame.stage_ms, frame.tiles_run) for frame in open_run(out).frames][:2] == [({}, None), ({}, None)]
