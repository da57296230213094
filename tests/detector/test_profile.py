"""`roadblocks profile` on a tiny network: what is measured, its JSON, its trace, its errors."""

import json
import tomllib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from detector.cli import FriendlyGroup
from detector.errors import MissingExtraError, SourceError
from detector.profile import charts, measure
from detector.profile.command import profile
from detector.profile.measure import read_frames
from detector.profile.meter import MODES, WARM_UP_FRAMES
from detector.profile.record import make_record, stage_table
from detector.profile.trace import make_trace
from detector.sources import open_sources
from detector.stages import STAGES, Stage
from tests.profile_measurement import make_measurement, write_frames
from tests.tiny_network import patch_points

pytest.importorskip("onnxruntime")
MEASURED = [row.stage.value for row in STAGES if row.stage is not Stage.WRITE]
PERCENTILES = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "max_ms": 100}
FRAMES, LOOP = 7, 2


def invoke(*words):
    return CliRunner().invoke(FriendlyGroup(commands={"profile": profile}), ["profile", *map(str, words)])


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("drive"), FRAMES)


@pytest.fixture(scope="module")
def done(drive, tmp_path_factory):
    """One run of the command, with everything that it writes."""
    out = tmp_path_factory.mktemp("out") / "made"
    words = ("--json", out / "p.json", "--trace", out / "t.json", "--html", out / "p.html")
    result = invoke(drive, "--config", drive / "tiny.yaml", "--loop", LOOP, "--threads", 2, *words)
    assert result.exit_code == 0, result.output
    record, trace = (json.loads((out / name).read_text()) for name in ("p.json", "t.json"))
    return SimpleNamespace(record=record, trace=trace, html=(out / "p.html").read_text(), stdout=result.stdout)


def test_json_has_the_shape_of_the_design(done):
    record = done.record
    promised = {"device", "machine", "versions", "revision", "config", "frames", "tile_fraction", "computed_fraction"}
    assert promised | {"modes", "speedup"} <= set(record)
    assert set(record["tile_fraction"]) == {"p50", "p95"} and set(record["speedup"]) == {"backbone", "total"}
    assert set(record["modes"]) == {"sparse", "dense", "tiles_all"}
    for mode in record["modes"].values():
        assert {"stages", "total", "fps", "peak_mb", "frame_ms"} <= set(mode)
        assert list(mode["stages"]) == list(mode["stage_ms"]) == MEASURED
        assert all(set(row) == set(PERCENTILES) for row in (*mode["stages"].values(), mode["total"]))
    assert record["frames"] == FRAMES and record["loop"] == LOOP and record["threads"] == 2
    assert record["frame_ids"] == [str(number) for number in range(FRAMES)]
    assert record["warm_up"] == {"frames": WARM_UP_FRAMES, "removed": 0}


def check_numbers(record):
    """Everything follows from the lists."""
    modes = record["modes"]
    for mode in modes.values():
        assert len(mode["frame_ms"]) == record["frames"] * record["loop"]
        np.testing.assert_allclose(mode["frame_ms"], np.sum([*mode["stage_ms"].values()], axis=0), atol=1e-3)
        lists = {**mode["stage_ms"], "total": mode["frame_ms"]}
        for name, row in {**mode["stages"], "total": mode["total"]}.items():
            for key, percentile in PERCENTILES.items():
                assert row[key] == pytest.approx(np.percentile(lists[name], percentile), abs=6e-4)
        assert mode["fps"] == pytest.approx(1e3 * len(mode["frame_ms"]) / sum(mode["frame_ms"]), rel=1e-3)
    for name, mode in (("speedup", "sparse"), ("speedup_tiles_all", "tiles_all")):
        dense, other = modes["dense"], modes[mode]
        total = np.median(dense["frame_ms"]) / np.median(other["frame_ms"])
        backbone = np.median(dense["stage_ms"]["backbone"]) / np.median(other["stage_ms"]["backbone"])
        assert record[name] == pytest.approx({"backbone": backbone, "total": total})
    tiles = np.array(record["tiles"]["active"]) / record["tiles"]["total"]
    assert record["tile_fraction"]["p50"] == pytest.approx(np.percentile(tiles, 50))
    assert record["tile_fraction"]["p95"] == pytest.approx(np.percentile(tiles, 95))
    assert record["dense_gflops"] == pytest.approx(
        record["gflop"] / np.median(modes["dense"]["stage_ms"]["backbone"]) * 1e3
    )
    overhead = record["overhead"]
    taken_ms = overhead["calls_per_frame"] * overhead["clock_us"] / 1e3
    assert overhead["fraction"] == pytest.approx(taken_ms / np.median(modes["sparse"]["frame_ms"]))


def test_numbers_follow_from_the_lists(done):
    check_numbers(done.record)
    check_numbers(make_record(make_measurement(frames=31, loop=3), ["drive"]))


def test_facts_of_the_tiny_network(done):
    record = done.record
    assert record["tiles"] == {"total": 1, "active": [1] * (FRAMES - 1) + [0]}
    assert record["computed_fraction"] == pytest.approx((FRAMES - 1) / FRAMES)
    assert record["overhead"]["calls_per_frame"] == len(MEASURED) and 0.1 < record["overhead"]["clock_us"] < 1000
    assert record["config"]["execution"] == "sparse" and record["device"] == "cpu"
    assert all(50 < mode["peak_mb"] < 5000 for mode in record["modes"].values())


def test_the_table_and_the_facts_are_printed(done):
    for words in (
        "p50",
        "total, load to nms",
        "sparse, all tiles",
        "speed-up",
        "none removed",
        "GFLOP/s",
        "tile fraction",
    ):
        assert words in done.stdout, words
    assert "--loop 143" in done.stdout, "1,000 / 7 frames"
    assert f"timing takes {len(MEASURED)} ×" in done.stdout


def check_trace(trace):
    """The rules of the Trace Event Format that viewers rely on."""
    events = trace["traceEvents"]
    names = {"M": {"process_name", "process_sort_index", "thread_name"}}
    for event in events:
        assert {"ph", "name", "pid", "tid"} <= set(event) and event["ph"] in "MXC"
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int) and isinstance(event["name"], str)
        if event["ph"] == "M":
            assert event["name"] in names["M"]
            key = "sort_index" if event["name"] == "process_sort_index" else "name"
            assert set(event["args"]) == {key} and "ts" not in event
        else:
            assert isinstance(event["ts"], float) and event["ts"] >= 0
        if event["ph"] == "X":
            assert isinstance(event["dur"], float) and event["dur"] >= 0 and {"frame", "tiles"} == set(event["args"])
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    tracks = {(event["pid"], event["tid"]) for event in events if event["ph"] == "X"}
    assert tracks == named and {pid for pid, _ in tracks} == {
        event["pid"] for event in events if event["name"] == "process_name"
    }
    for track in tracks:
        check_nested([event for event in events if event["ph"] == "X" and (event["pid"], event["tid"]) == track])


def check_nested(events):
    """Complete events of one track must lie in one another or apart: a viewer stacks them by that."""
    open_ends = []
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        while open_ends and open_ends[-1] <= event["ts"] + 1e-6:  # one begins where another ends, but for rounding
            open_ends.pop()
        end = event["ts"] + event["dur"]
        assert not open_ends or end <= open_ends[-1] + 1e-6, event
        open_ends.append(end)


def test_the_trace_keeps_the_format_s_rules(done):
    check_trace(done.trace)
    check_trace(make_trace(make_measurement()))


def test_the_trace_has_every_frame_and_stage(done):
    events = [event for event in done.trace["traceEvents"] if event["ph"] == "X"]
    names = {
        event["pid"]: event["args"]["name"] for event in done.trace["traceEvents"] if event["name"] == "process_name"
    }
    assert list(names.values()) == ["sparse", "dense (onnxruntime)", "sparse, all tiles"]
    for mode, pid in zip(MODES, names, strict=True):
        stages = [event for event in events if event["pid"] == pid and event["cat"] == "stage"]
        assert [event["name"] for event in stages] == MEASURED * FRAMES * LOOP
        assert [event["args"]["frame"] for event in stages[:: len(MEASURED)]] == [str(n) for n in range(FRAMES)] * LOOP
        for stage, values in done.record["modes"][mode]["stage_ms"].items():
            drawn = [event["dur"] / 1e3 for event in stages if event["name"] == stage]
            # A span is read outside of the clock that it belongs to; something may come between.
            assert np.median(np.array(drawn) - values) < 0.1 and min(np.array(drawn) - values) > -1e-3
        frames = [event for event in events if event["pid"] == pid and event["cat"] == "frame"]
        assert len(frames) == FRAMES * LOOP
    tiles = [event["args"]["tiles"] for event in done.trace["traceEvents"] if event["ph"] == "C"][: FRAMES * LOOP]
    assert tiles == done.record["tiles"]["active"] * LOOP


def test_the_page_is_written(done):
    assert done.html.count('<img src="data:image/png;base64,') == 4 and "</html>" in done.html


def test_bad_frames_are_left_out_everywhere_and_told(drive, tmp_path, monkeypatch):
    for number in range(3):
        patch_points().tofile(tmp_path / f"{number}.bin")
    (tmp_path / "1.bin").write_bytes(b"x" * 20)
    found = read_frames(open_sources([tmp_path]))
    assert found.names == ("0", "2") and found.skipped[0]["frame"] == "1" and "16" in found.skipped[0]["reason"]
    before = found.sha256
    patch_points(row=1).tofile(tmp_path / "2.bin")
    assert read_frames(open_sources([tmp_path])).sha256 != before
    monkeypatch.setattr(measure, "measure", lambda *_: make_measurement())
    assert invoke(tmp_path, "--json", "-").exit_code == 1
    (tmp_path / "0.bin").write_bytes(b"")
    (tmp_path / "2.bin").write_bytes(b"x")
    (tmp_path / "0.bin").unlink()
    with pytest.raises(SourceError, match="none of 2 frames can be read"):
        read_frames(open_sources([tmp_path]))


def test_json_on_stdout_is_only_json(drive, monkeypatch):
    monkeypatch.setattr(measure, "measure", lambda *_: make_measurement())
    assert json.loads(invoke(drive, "--json", "-").stdout)["frames"] == 60


def test_a_missing_matplotlib_is_told_before_anything_is_measured(drive, tmp_path, monkeypatch):
    def missing():
        raise MissingExtraError("matplotlib is not installed; expected for charts: pip install 'roadblocks[plots]'")

    monkeypatch.setattr(charts, "import_matplotlib", missing)
    monkeypatch.setattr(measure, "measure", lambda *_: pytest.fail("measured"))
    result = invoke(drive, "--html", tmp_path / "p.html")
    assert result.exit_code == 2 and "roadblocks[plots]" in result.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "expected SOURCE, or --compare OLD NEW"),
        (("/nowhere",), "/nowhere"),
        (("{drive}", "--loop", "0"), "0 is not in the range"),
        (("{drive}", "--frames", "90:"), "expected some of 0:7"),
        (("{drive}", "--config", "nosuch"), "no such configuration"),
        (("{drive}", "--json", "{drive}/0.bin/p.json"), "0.bin"),
        (("{drive}", "--json", "{drive}"), "is a directory"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(drive, words, told):
    result = invoke(*(word.format(drive=drive) for word in words))
    assert result.exit_code == 2 and told in " ".join(result.stderr.split()), result.output
    assert "Traceback" not in result.output


def test_the_command_is_registered():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["roadblocks.commands"]["profile"].split(":")
    assert getattr(import_module(module), name) is profile


def test_every_mode_is_in_the_table():
    assert stage_table(make_record(make_measurement(), ["drive"])).row_count == len(MODES) * (len(MEASURED) + 2)
