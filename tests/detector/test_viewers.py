"""What the viewers are given: Rerun's recordings read back, Open3D's line sets, windows that are not there."""

import builtins
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from detector.boxes import BOX_EDGES, box_corners
from detector.canvas import active_cells, height_colours
from detector.errors import MissingExtraError, RoadblocksError
from detector.types import Detections, Frame, FrameResult
from detector.viewers import rerun_log
from detector.viewers.open3d_window import FrameWindow, box_lines, point_cloud, tile_lines
from detector.viewers.rerun_log import RerunLog, quaternions
from detector.viewers.scene import has_display, point_colours, tile_corners
from kernels.tiles import ActiveTiles, TileSpec
from models.grid import BevSpec

SPEC = BevSpec()
TILES = ActiveTiles(np.array([[0, 0, 0], [0, 2, 3], [0, 43, 49]], np.int32), TileSpec.covering((704, 800), 16))
BOXES = np.array([[10, 2, -1, 4, 1.6, 1.5, 0.3], [30.5, -7, -0.5, 5, 2, 2, -2.8]], np.float32)
POINTS = np.array([[3, 0.05, -1, 0.5], [69.95, -39.95, 2, 0.1], [-5, 0, 0, 0.2]], np.float32)
STAMP_NS = 1_317_042_151_951_199_337
# Corners of the unit box, in the order of `box_corners`.
UNIT = np.array([[x, y, z] for z in (-1, 1) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))])


def result(name="7", boxes=BOXES, points=POINTS, stamp_ns=STAMP_NS, **values):
    scores = np.linspace(0.9, 0.2, len(boxes)).astype(np.float32)
    found = Detections(boxes, scores, ("Car",) * len(boxes))
    values = {"stage_ms": {"load": 1.5, "backbone": 40.0}, "tiles_run": 3, "tiles": TILES, **values}
    return FrameResult(Frame(points, name, stamp_ns), found, **values)


@pytest.fixture
def rerun():
    return pytest.importorskip("rerun", reason="Rerun is not installed: pip install 'roadblocks[viewer]'")


@pytest.fixture
def open3d():
    try:
        import open3d
    except (ImportError, OSError) as error:
        pytest.skip(f"Open3D cannot be loaded: {error}")
    return open3d


@pytest.fixture
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")


def read_recording(path):
    """Entity → timeline or component → one value per frame in order, through Rerun's own reader; times in ns."""
    from rerun.chunk import RrdReader

    rows = {}
    for chunk in RrdReader(path).stream().to_chunks():
        batch = chunk.to_record_batch()
        columns = {
            name: (column.cast("int64") if str(column.type).startswith("timestamp") else column).to_pylist()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        named = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        rows.setdefault(chunk.entity_path, []).extend(named)
    for found in rows.values():
        found.sort(key=lambda row: row.get("frame", 0))
    return {
        entity: {name: [row.get(name) for row in found] for name in {name for row in found for name in row}}
        for entity, found in rows.items()
    }


# What all viewers show.


def test_tiles_lie_where_their_cells_are():
    corners = tile_corners(TILES, SPEC)
    assert corners.shape == (3, 4, 3) and (corners[..., 2] == -3).all()
    np.testing.assert_allclose(corners[0, :, :2], [[0, -40], [1.6, -40], [1.6, -38.4], [0, -38.4]])
    np.testing.assert_allclose(corners[1, 0, :2], [2 * 1.6, 3 * 1.6 - 40])
    np.testing.assert_allclose(corners[2, 2, :2], [70.4, 40])
    assert active_cells(TILES, SPEC).sum() == 3 * 16 * 16


def test_tiles_that_stick_out_end_with_the_grid():
    spec = BevSpec(x_max_m=2, y_min_m=-1.5, y_max_m=1.5)
    tiles = ActiveTiles.all(TileSpec.covering((spec.rows, spec.cols), 16))
    np.testing.assert_allclose(tile_corners(tiles, spec)[-1, 2, :2], [2, 1.5])
    assert active_cells(tiles, spec).all()


@given(st.lists(st.floats(-10, 10, width=32), max_size=20))
def test_point_colours_are_those_of_the_pictures(heights):
    points = np.array([[0, 0, z, 0] for z in heights], np.float32).reshape(-1, 4)
    # Half a step of the table of 256 heights, on the steepest part of the ramp.
    np.testing.assert_allclose(point_colours(points, SPEC), height_colours(points[:, 2], SPEC), atol=1.5)


@pytest.mark.parametrize(
    ("platform", "names", "expected"),
    [
        ("linux", [], False),
        ("linux", ["DISPLAY"], True),
        ("linux", ["WAYLAND_DISPLAY"], True),
        ("darwin", [], True),
    ],
)
def test_display(no_display, monkeypatch, platform, names, expected):
    monkeypatch.setattr(sys, "platform", platform)
    for name in names:
        monkeypatch.setenv(name, ":0")
    assert has_display() is expected


# Rerun.


@given(st.lists(st.floats(-7, 7), min_size=1, max_size=10))
def test_quaternions_are_scipys(yaws):
    expected = Rotation.from_euler("z", np.array(yaws)[:, None]).as_matrix()
    np.testing.assert_allclose(Rotation.from_quat(quaternions(np.array(yaws))).as_matrix(), expected, atol=1e-12)


def test_recorded_boxes_are_ours(rerun, tmp_path):
    with RerunLog(SPEC, tmp_path / "a.rrd") as log:
        log.log(result(), 0.1)
        log.log(result(boxes=BOXES[:0]), 0.1)
    boxes = read_recording(tmp_path / "a.rrd")["/world/boxes"]
    centres, half_sizes, turns = (
        np.array(boxes[f"Boxes3D:{name}"][0]) for name in ("centers", "half_sizes", "quaternions")
    )
    local = UNIT * half_sizes[:, None]
    corners = np.stack([Rotation.from_quat(turn).apply(box) for turn, box in zip(turns, local, strict=True)])
    np.testing.assert_allclose(corners + centres[:, None], box_corners(BOXES), atol=1e-5)
    assert boxes["Boxes3D:labels"] == [["Car 0.90", "Car 0.20"], []] and boxes["Boxes3D:centers"][1] == []


def test_recorded_entities_and_timelines(rerun, tmp_path):
    path = tmp_path / "a.rrd"
    with RerunLog(SPEC, path) as log:
        assert not path.exists(), "it appears whole"
        log.log(result("a"), 0.5)
        log.log(result("b", dropped_before=3, latency_ms=52.5, tiles=None, stamp_ns=None), 0.5)
        log.log(result("c", points=POINTS[:0]), 0.95)
    assert os.listdir(tmp_path) == ["a.rrd"]
    found = read_recording(path)
    assert found["/frame"]["TextLog:text"] == [["a"], ["b"], ["c"]]
    assert found["/frame"]["frame"] == [0, 4, 5], "dropped frames leave a gap"
    assert found["/frame"]["stamp"] == [STAMP_NS, None, STAMP_NS]
    assert [len(boxes) for boxes in found["/world/boxes"]["Boxes3D:centers"]] == [1, 1, 0]
    np.testing.assert_array_equal(found["/world/points"]["Points3D:positions"][0], POINTS[:, :3])
    assert found["/world/points"]["Points3D:positions"][2] == []
    strips = np.array(found["/world/tiles"]["LineStrips3D:strips"][0])
    np.testing.assert_allclose(strips, tile_corners(TILES, SPEC)[:, [0, 1, 2, 3, 0]], rtol=1e-6)
    assert found["/time_ms/backbone"]["Scalars:scalars"] == [[40.0]] * 3
    assert found["/time_ms/latency"]["Scalars:scalars"] == [[52.5]]
    assert found["/counts/tiles_run"]["Scalars:scalars"] == [[3.0]] * 3
    assert found["/counts/dropped_before"]["Scalars:scalars"] == [[0.0], [3.0], [0.0]]


def test_recorded_grid_has_forward_up_and_boxes_in_its_pixels(rerun, tmp_path):
    with RerunLog(SPEC, tmp_path / "a.rrd") as log:
        log.log(result(), 0.5)
    found = read_recording(tmp_path / "a.rrd")
    buffer = np.array(found["/bev/cells"]["SegmentationImage:buffer"][0], np.uint8)
    expected = active_cells(TILES, SPEC).astype(np.uint8)
    expected[30, 400] = expected[699, 0] = 2
    np.testing.assert_array_equal(np.squeeze(buffer).reshape(704, 800), expected[::-1, ::-1])
    (strip,) = np.array(found["/bev/boxes"]["LineStrips2D:strips"][0])
    corners = box_corners(BOXES[:1])[0, :4, :2]
    np.testing.assert_allclose(strip[:4], np.column_stack([40 - corners[:, 1], 70.4 - corners[:, 0]]) / 0.1, atol=1e-3)


def test_recording_that_cannot_be_written(rerun, tmp_path):
    with pytest.raises(FileNotFoundError):
        RerunLog(SPEC, tmp_path / "missing" / "a.rrd")


def test_interrupted_recording_is_kept(rerun, tmp_path):
    with pytest.raises(KeyboardInterrupt), RerunLog(SPEC, tmp_path / "a.rrd") as log:
        log.log(result("a"), 0.5)
        raise KeyboardInterrupt
    assert read_recording(tmp_path / "a.rrd")["/frame"]["TextLog:text"] == [["a"]]


def test_a_recording_that_ends_with_an_error_replaces_none(rerun, tmp_path, caplog):
    (tmp_path / "a.rrd").write_bytes(b"a good one")
    with pytest.raises(OSError, match="disk"), RerunLog(SPEC, tmp_path / "a.rrd") as log:
        log.log(result("a"), 0.5)
        raise OSError("the disk is gone")
    assert (tmp_path / "a.rrd").read_bytes() == b"a good one" and "holds the frames up to the error" in caplog.text
    assert len(list(tmp_path.iterdir())) == 2


def test_no_display_no_window(rerun, no_display):
    with pytest.raises(RoadblocksError, match=r"record with --recording FILE.rrd"):
        RerunLog(SPEC)


@pytest.fixture
def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def test_a_window_that_does_not_come(rerun, monkeypatch, free_port):
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(rerun_log, "_PORT", free_port)
    monkeypatch.setattr(rerun, "spawn", lambda **_: None)
    with pytest.raises(RoadblocksError, match=r"window does not open .*--recording"):
        RerunLog(SPEC)


@pytest.mark.parametrize("closed", [False, True])
def test_a_window_that_is_closed_stops_nothing(rerun, monkeypatch, free_port, caplog, closed):
    """Rerun's server without a window stands for the window."""
    servers = []

    def spawn(port, **_):
        binary = Path(sys.modules["rerun_cli"].__file__).parent / "rerun"
        words = [str(binary), "--serve-grpc", "--bind", "127.0.0.1", "--port", str(port)]
        servers.append(subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)

    pytest.importorskip("rerun_cli")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(rerun_log, "_PORT", free_port)
    monkeypatch.setattr(rerun, "spawn", spawn)
    try:
        start = time.monotonic()
        with RerunLog(SPEC) as log:
            for number in range(20):
                log.log(result(str(number)), 0.5)
                if closed and number == 5:
                    time.sleep(0.3)
                    servers[0].kill()
                    servers[0].wait()
                time.sleep(0.02)
        assert time.monotonic() - start < 25
        assert ("window was closed" in caplog.text) is closed
    finally:
        servers[0].kill()
        servers[0].wait()


@pytest.mark.parametrize(
    ("module", "use", "extra"),
    [
        ("rerun", lambda: RerunLog(SPEC, Path("a.rrd")), "viewer"),
        ("open3d", lambda: FrameWindow(1, lambda _: result(), SPEC, 0.5), "viz"),
    ],
)
def test_a_missing_viewer_is_asked_for_by_name(monkeypatch, module, use, extra):
    real = builtins.__import__

    def import_without(name, *rest):
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named '{module}'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", import_without)
    with pytest.raises(MissingExtraError, match=rf"viewer {module}.*pip install 'roadblocks\[{extra}\]'"):
        use()


# Open3D.


def test_open3d_box_lines_are_the_corners(open3d):
    lines = box_lines(open3d, BOXES)
    corners = np.asarray(lines.points)[np.asarray(lines.lines)]
    np.testing.assert_array_equal(corners, box_corners(BOXES)[:, BOX_EDGES].reshape(-1, 2, 3))
    assert box_lines(open3d, BOXES[:0]).is_empty()


def test_open3d_points_and_tiles(open3d):
    cloud = point_cloud(open3d, POINTS, SPEC)
    np.testing.assert_array_equal(np.asarray(cloud.points), POINTS[:, :3].astype(np.float64))
    np.testing.assert_allclose(np.asarray(cloud.colors) * 255, point_colours(POINTS, SPEC), atol=1e-9)
    lines = tile_lines(open3d, TILES, SPEC)
    ends = np.asarray(lines.points)[np.asarray(lines.lines)].reshape(3, 4, 2, 3)
    np.testing.assert_array_equal(ends[:, :, 0], tile_corners(TILES, SPEC))
    np.testing.assert_array_equal(ends[:, :, 1], np.roll(tile_corners(TILES, SPEC), -1, axis=1))


def test_open3d_window_turns_round_and_round(open3d):
    frames = [result("a"), result("b", boxes=BOXES[:0], points=POINTS[:0], tiles=None), result("c")]
    try:
        window = FrameWindow(3, frames.__getitem__, SPEC, 0.1, visible=False)
    except RoadblocksError as error:
        pytest.skip(f"no hidden window here: {error}")
    with window:
        drawn = []
        for step in (0, 1, 1, 1, -1):
            assert window.turn(step)
            window.window.poll_events()
            window.window.update_renderer()
            picture = np.asarray(window.window.capture_screen_float_buffer(True))
            drawn.append((window.number, np.count_nonzero(np.ptp(picture, axis=2) > 0.1)))
    assert [number for number, _ in drawn] == [0, 1, 2, 0, 2]
    assert 0 < drawn[1][1] < drawn[0][1] == drawn[3][1], "of an empty frame only the grid's outline is seen"
