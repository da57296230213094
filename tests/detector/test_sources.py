"""Every layout is recognised from every way of naming it, and every dead end is a `SourceError`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.calibration import (
    DEFAULT_IMAGE_SIZE,
    Calibration,
    read_raw_calibration,
    write_object_calibration,
)
from detector.errors import FrameError, SourceError
from detector.sources import open_sources
from tools.simulation.drive import simulate_drive
from tools.simulation.layouts import write_object

CAMERA_FROM_LIDAR = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
IMAGE_FROM_CAMERA = np.array([[700.0, 0, 600, 0], [0, 700, 180, 0], [0, 0, 1, 0]])
RAW_CAMERA_FILE = "R_rect_00: 1 0 0 0 1 0 0 0 1\nS_rect_02: 1224 370\nP_rect_02: 700 0 600 0 0 700 180 0 0 0 1 0\n"
RAW_VELO_FILE = "calib_time: 15-Mar-2012 11:37:16\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 0\n"


def write_points(path: Path, *names: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        np.full((number + 1, 4), 0.5, np.float32).tofile(path / name)


def object_set(root: Path, count: int = 3) -> Path:
    ids = [f"{number:06d}" for number in range(count)]
    write_points(root / "velodyne", *(f"{frame}.bin" for frame in ids))
    (root / "calib").mkdir()
    for frame in ids:
        write_object_calibration(root / "calib" / f"{frame}.txt", Calibration(CAMERA_FROM_LIDAR, IMAGE_FROM_CAMERA))
    return root


def raw_drive(date: Path, number: int = 1, count: int = 3) -> Path:
    drive = date / f"2011_09_26_drive_{number:04d}_sync"
    write_points(drive / "velodyne_points" / "data", *(f"{frame:010d}.bin" for frame in range(count)))
    (date / "calib_cam_to_cam.txt").write_text(RAW_CAMERA_FILE)
    (date / "calib_velo_to_cam.txt").write_text(RAW_VELO_FILE)
    return drive


@pytest.mark.parametrize("below", ["", "training", "testing"])
@pytest.mark.parametrize("named", ["", "velodyne", "velodyne/*.bin", "**/*.bin"])
def test_object_set_by_folder_and_by_pattern(tmp_path: Path, below: str, named: str) -> None:
    root = object_set(tmp_path / "kitti" / below)
    (source,) = open_sources([root / named])
    assert source.layout == "kitti object"
    assert source.path == root
    assert source.name == (f"kitti_{below}" if below else "kitti")
    assert [frame.id for frame in source.frames] == ["000000", "000001", "000002"]
    assert source.why_no_calibration is None
    frame = source.frames[1].load()
    assert frame.id == "000001" and frame.stamp_ns is None and frame.points.shape == (2, 4)
    np.testing.assert_allclose(frame.calibration.camera_from_lidar, CAMERA_FROM_LIDAR, atol=1e-9)


def test_object_root_finds_training_and_testing_as_two_sources(tmp_path: Path) -> None:
    object_set(tmp_path / "kitti" / "training")
    object_set(tmp_path / "kitti" / "testing", count=2)
    sources = open_sources([tmp_path / "kitti"])
    assert [(source.name, len(source.frames)) for source in sources] == [
        ("kitti_training", 3),
        ("kitti_testing", 2),
    ]


def test_single_file_and_files_listed_by_a_shell_are_one_source(tmp_path: Path) -> None:
    root = object_set(tmp_path / "kitti")
    files = [root / "velodyne" / f"00000{number}.bin" for number in (2, 0, 2)]
    (source,) = open_sources([str(file) for file in files])
    assert [frame.id for frame in source.frames] == ["000000", "000002"]
    (single,) = open_sources(files[:1])
    assert single.frames[0].load().calibration is not None


def test_image_size_comes_from_the_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = object_set(tmp_path / "kitti")
    (root / "image_2").mkdir()
    Image.new("RGB", (621, 188)).save(root / "image_2" / "000000.png")
    (root / "image_2" / "000001.png").write_bytes(b"\x89PNG no image")
    sizes = [frame.load().calibration.image_size for frame in open_sources([root])[0].frames]
    assert sizes == [(621, 188), DEFAULT_IMAGE_SIZE, DEFAULT_IMAGE_SIZE]
    assert "000001.png" in caplog.text


def test_an_image_that_another_program_would_draw_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pillow knows PostScript, and would hand it to Ghostscript."""
    root = object_set(tmp_path / "kitti")
    (root / "image_2").mkdir()
    (root / "image_2" / "000000.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    assert open_sources([root])[0].frames[0].load().calibration.image_size == DEFAULT_IMAGE_SIZE
    assert "000000.png: no image" in caplog.text


def test_times_are_not_read_from_a_device(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path / "2011_09_26")
    (drive / "velodyne_points" / "timestamps.txt").write_bytes(b"9" * 1000 + b"\xff\n")
    assert open_sources([drive])[0].frames[0].stamp_ns is None
    (drive / "velodyne_points" / "timestamps.txt").unlink()
    os.mkfifo(drive / "velodyne_points" / "timestamps.txt")
    assert open_sources([drive])[0].frames[1].stamp_ns == 100_000_000


def test_missing_calibration_of_one_frame_is_that_frames_error(tmp_path: Path) -> None:
    root = object_set(tmp_path / "kitti")
    (root / "calib" / "000001.txt").unlink()
    first, second, _ = open_sources([root])[0].frames
    assert first.load().calibration is not None
    with pytest.raises(FrameError, match=r"calib/000001\.txt"):
        second.load()


def test_object_set_without_calib_folder_loads_and_says_why(tmp_path: Path) -> None:
    write_points(tmp_path / "kitti" / "velodyne", "000000.bin")
    (source,) = open_sources([tmp_path / "kitti"])
    assert source.frames[0].load().calibration is None
    assert "calib" in source.why_no_calibration and "\n" not in source.why_no_calibration


@pytest.mark.parametrize("up", [".", "..", "../.."])
def test_raw_drive_date_and_root(tmp_path: Path, up: str, monkeypatch: pytest.MonkeyPatch) -> None:
    date = tmp_path / "raw" / "2011_09_26"
    drives = [raw_drive(date, 1), raw_drive(date, 2, count=2)]
    monkeypatch.chdir(drives[0])
    sources = open_sources([up])
    expected = drives if up != "." else drives[:1]
    assert [source.path for source in sources] == expected
    assert [source.name for source in sources] == [drive.name for drive in expected]
    assert all(source.layout == "kitti raw" for source in sources)
    frame = sources[-1].frames[1].load()
    assert frame.id == "0000000001"
    assert frame.calibration.image_size == (1224, 370)
    assert frame.stamp_ns == 100_000_000


@pytest.mark.parametrize("named", ["velodyne_points", "velodyne_points/data", "velodyne_points/data/*1.bin"])
def test_raw_drive_from_inside(tmp_path: Path, named: str) -> None:
    drive = raw_drive(tmp_path / "2011_09_26")
    (source,) = open_sources([drive / named])
    assert source.path == drive and source.layout == "kitti raw"
    assert source.frames[-1].load().calibration is not None


def test_raw_stamps_are_those_of_the_sweeps_own_lines(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path / "2011_09_26")
    (drive / "velodyne_points" / "data" / "0000000001.bin").unlink()  # a dropped sweep keeps its line
    times = ["2011-09-26 13:02:25.951199337", "2011-09-26 13:02:26.054", "2011-09-26 13:02:26.15"]
    (drive / "velodyne_points" / "timestamps.txt").write_text("\n".join(times) + "\n")
    stamps = [frame.stamp_ns for frame in open_sources([drive])[0].frames]
    # `date --utc --date='2011-09-26 13:02:25' +%s` is 1317042145.
    assert stamps == [1_317_042_145_951_199_337, 1_317_042_146_150_000_000]


def test_raw_stamps_that_cannot_be_read_are_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    drive = raw_drive(tmp_path / "2011_09_26")
    (drive / "velodyne_points" / "timestamps.txt").write_text("2011-09-26 13:02:25\nyesterday\n")
    stamps = [frame.stamp_ns for frame in open_sources([drive])[0].frames]
    assert stamps == [1_317_042_145_000_000_000, None, None]
    assert "no time for 2 of 3 frames" in caplog.text


def test_raw_without_calibration_says_which_file(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path / "2011_09_26")
    (tmp_path / "2011_09_26" / "calib_velo_to_cam.txt").unlink()
    (source,) = open_sources([drive])
    assert source.frames[0].load().calibration is None
    assert "calib_velo_to_cam.txt" in source.why_no_calibration


def test_raw_with_broken_calibration_is_refused(tmp_path: Path) -> None:
    drive = raw_drive(tmp_path / "2011_09_26")
    (tmp_path / "2011_09_26" / "calib_velo_to_cam.txt").write_text("R: 1 2 3\n")
    with pytest.raises(SourceError, match=r"calib_velo_to_cam\.txt: R holds 3 numbers"):
        open_sources([drive])


def test_plain_folder_sorts_by_name_and_ignores_the_rest(tmp_path: Path) -> None:
    write_points(tmp_path / "sweeps", "b.bin", "a.BIN", "notes.txt", ".hidden.bin")
    (tmp_path / "sweeps" / "folder.bin").mkdir()
    (source,) = open_sources([tmp_path / "sweeps"])
    assert (source.name, source.layout) == ("sweeps", "files")
    assert [frame.id for frame in source.frames] == ["a", "b"]
    assert source.frames[0].load().calibration is None
    assert "calib" in source.why_no_calibration


def test_names_are_unique(tmp_path: Path) -> None:
    for parent in ("x", "y", "z"):
        write_points(tmp_path / parent / "sweeps", "a.bin")
    write_points(tmp_path / "sweeps-2", "a.bin")
    sources = open_sources([tmp_path / "sweeps-2", tmp_path / "*" / "sweeps" / "*.bin"])
    assert [source.name for source in sources] == ["sweeps-2", "sweeps", "sweeps-3", "sweeps-4"]


def test_brackets_in_a_real_folder_name_are_no_pattern(tmp_path: Path) -> None:
    write_points(tmp_path / "run[1]", "a.bin")
    assert open_sources([tmp_path / "run[1]"])[0].name == "run[1]"


@pytest.mark.parametrize(
    ("frames", "ids"),
    [
        (slice(1, None), [["000001", "000002"], ["000001", "000002", "000003"]]),
        (slice(-1, None), [["000002"], ["000003"]]),
        (slice(3, 9), [[], ["000003"]]),
    ],
)
def test_slice_applies_to_every_source(tmp_path: Path, frames: slice, ids: list[list[str]]) -> None:
    roots = [object_set(tmp_path / "one", 3), object_set(tmp_path / "two", 4)]
    sources = open_sources(roots, frames)
    assert [[frame.id for frame in source.frames] for source in sources] == ids


def test_slice_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"frames 7: are none; expected some of 0:3"):
        open_sources([object_set(tmp_path / "kitti")], slice(7, None))


def test_link_to_nowhere_is_a_bad_frame_and_not_passed_over(tmp_path: Path) -> None:
    write_points(tmp_path, "a.bin")
    (tmp_path / "b.bin").symlink_to(tmp_path / "gone")
    good, bad = open_sources([tmp_path])[0].frames
    assert len(good.load()) == 1
    with pytest.raises(FrameError, match=r"b\.bin: cannot be read"):
        bad.load()


def test_loops_of_links_end(tmp_path: Path) -> None:
    write_points(tmp_path / "data", "a.bin")
    for name in ("one", "two", "three"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "data")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (source,) = open_sources([tmp_path / "**" / "*.bin"])
    assert [frame.path for frame in source.frames] == [tmp_path / "data" / "a.bin"]
    with pytest.raises(SourceError, match="self"):
        open_sources([tmp_path / "self"])


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("missing", "does not exist"),
        ("empty", "holds nothing"),
        ("other", r"holds a\.txt, b\.txt, c\.txt, d\.txt and 1 more"),
        ("other/a.txt", "another kind of file"),
        ("other/*.bin", "matches 0 paths"),
        ("other/*.txt", "matches 5 paths"),
        ("other/x" + "y" * 300, "cannot be read"),
        ("empty_set", "holds velodyne"),
        ("twins", r"a\.bin and a\.ply are one frame id"),
    ],
)
def test_dead_ends_say_path_found_and_expected(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty_set" / "velodyne").mkdir(parents=True)
    write_points(tmp_path / "other", *(f"{letter}.txt" for letter in "abcde"))
    write_points(tmp_path / "twins", "a.bin", "a.ply")
    with pytest.raises(SourceError, match=found) as caught:
        open_sources([tmp_path / name])
    message = str(caught.value)
    assert str(tmp_path / name) in message and "expected" in message and "\n" not in message


def test_no_source_at_all() -> None:
    with pytest.raises(SourceError, match="no source given"):
        open_sources([])


def test_real_object_set(shared: Path) -> None:
    (source,) = open_sources([shared / "kitti"])
    assert len(source.frames) == 209
    assert [frame.id for frame in source.frames] == sorted(
        os.path.splitext(p.name)[0] for p in (shared / "kitti/training/velodyne").iterdir()
    )
    frame = source.frames[0].load()
    assert frame.points.shape[0] > 10_000
    assert frame.calibration.image_size == Image.open(source.frames[0].image_path).size


def test_real_raw_drive(shared: Path) -> None:
    (source,) = open_sources([shared / "kitti_raw"])
    assert source.name == "2011_09_26_drive_0005_sync" and len(source.frames) == 12
    frame = source.frames[3].load()
    assert frame.stamp_ns == 300_000_000
    expected = read_raw_calibration(shared / "kitti_raw" / "2011_09_26")
    np.testing.assert_array_equal(frame.calibration.camera_from_lidar, expected.camera_from_lidar)


def test_frames_have_the_poses_of_their_recording(tmp_path, caplog):
    write_object(tmp_path, simulate_drive(2, seed=0))
    (source,) = open_sources([tmp_path])
    found = [frame.load().pose for frame in source.frames]
    expected = [made.frame.pose for made in simulate_drive(2, seed=0)]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    broken = tmp_path / "broken"
    write_object(broken, simulate_drive(1, seed=0))
    (broken / "training" / "tracks.jsonl").write_text("no json")
    (source,) = open_sources([broken])
    assert source.frames[0].load().pose is None and "used without its pose" in caplog.text
