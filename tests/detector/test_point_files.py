"""Point files: exact values of good ones, a `FrameError` that names the file for bad ones."""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import FrameError, MissingExtraError
from detector.frame_checks import MAX_POINTS
from detector.point_files import read_points

PLY_HEADER = (
    "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
)
PCD_HEADER = (
    "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {0}\nHEIGHT 1\nPOINTS {0}\nDATA ascii\n"
)


def some_points(count: int = 100) -> np.ndarray:
    points = np.random.default_rng(7).uniform(-50, 50, (count, 4)).astype(np.float32)
    points[:, 3] = np.linspace(0, 1, count)
    return points


def write_bin(path: Path, points: np.ndarray) -> Path:
    points.astype("<f4").tofile(path)
    return path


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_bin_gives_back_what_was_written(tmp_path: Path, count: int) -> None:
    points = some_points(count)
    found = read_points(write_bin(tmp_path / "a.bin", points))
    assert found.dtype == np.float32 and found.shape == (count, 4)
    np.testing.assert_array_equal(found, points)


@given(cut=st.integers(1, 15))
def test_truncated_bin_tells_its_size(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.bin"
    path.write_bytes(some_points(10).tobytes()[:-cut])
    with pytest.raises(FrameError, match=rf"a\.bin: {160 - cut} bytes, expected a multiple of 16"):
        read_points(path)


def test_too_many_points_are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "map.bin"
    with path.open("wb") as stream:
        stream.truncate((MAX_POINTS + 1) * 16)  # sparse: takes no room on disk
    with pytest.raises(FrameError, match=f"{MAX_POINTS + 1} points, expected at most {MAX_POINTS}"):
        read_points(path)


@pytest.mark.parametrize(("suffix", "header"), [("ply", PLY_HEADER), ("pcd", PCD_HEADER)])
def test_header_that_promises_too_many_points(tmp_path: Path, suffix: str, header: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(header.format(4_000_000_000))
    with pytest.raises(FrameError, match="4000000000 points, expected at most"):
        read_points(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.bin").mkdir()
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "notes.txt").write_text("hello")
    for name, reason in (
        ("gone.bin", "cannot be read"),
        ("folder.bin", "no regular file"),
        ("pipe.bin", "no regular file"),
        ("notes.txt", "unknown kind of file"),
    ):
        with pytest.raises(FrameError, match=f"{name}: .*{reason}"):
            read_points(tmp_path / name)


def test_real_sweeps(shared: Path) -> None:
    counts = {}
    for name in ("kitti/training/velodyne/000000.bin", "argoverse/315978406019574000/velodyne.bin"):
        points = read_points(shared / name)
        counts[name] = len(points)
        assert len(points) == (shared / name).stat().st_size // 16
        assert points[:, 3].min() >= 0 and points[:, 3].max() <= 1
    assert all(count > 10_000 for count in counts.values())


# .pcd and .ply: what is refused before Open3D is asked.


@pytest.mark.parametrize("suffix", ["ply", "pcd"])
@pytest.mark.parametrize(
    "content", [b"", b"ply\n", b"\x00" * 200, b"POINTS many\n", b"element vertex -3\nend_header\n"]
)
def test_no_header(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(FrameError, match=rf"a\.{suffix}: no header"):
        read_points(path)


@pytest.mark.parametrize(("suffix", "header"), [("ply", PLY_HEADER), ("pcd", PCD_HEADER)])
def test_zero_points_are_valid_and_truncated_ones_are_not(tmp_path: Path, suffix: str, header: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(header.format(0))
    assert read_points(path).shape == (0, 4)
    path.write_text(header.format(2) + "1 2 3\n4 5")
    with pytest.raises(FrameError, match="5 numbers after the header, expected 6 for 2 points"):
        read_points(path)
    path.write_text(header.format(2).replace("ascii", "binary_little_endian" if suffix == "ply" else "binary"))
    with pytest.raises(FrameError, match="0 bytes after the header, expected 24 for 2 points"):
        read_points(path)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ModuleNotFoundError("No module named 'open3d'"), r"pip install 'roadblocks\[viz\]'"),
        (OSError("libGL.so.1: cannot open shared object file"), "libGL.so.1.*apt-get install .*libgl1"),
        (ImportError("libX11.so.6: cannot open shared object file"), "apt-get install .*libx11-6"),
    ],
)
def test_missing_open3d_is_asked_for_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, advice: str
) -> None:
    real_import = builtins.__import__

    def import_without_open3d(name: str, *rest: Any) -> ModuleType:
        if name == "open3d":
            raise error
        return real_import(name, *rest)

    monkeypatch.delitem(sys.modules, "open3d", raising=False)
    monkeypatch.setattr(builtins, "__import__", import_without_open3d)
    (tmp_path / "a.ply").write_text(PLY_HEADER.format(1) + "1 2 3\n")
    with pytest.raises(MissingExtraError, match=advice):
        read_points(tmp_path / "a.ply")


# .pcd and .ply: through Open3D, where it can be loaded.


@pytest.fixture(scope="module")
def open3d() -> Any:
    try:
        import open3d
    except (ImportError, OSError) as error:
        pytest.skip(f"Open3D cannot be loaded: {error}")
    return open3d


def write_cloud(
    open3d: Any, path: Path, points: np.ndarray, intensity: str | None = "intensity", **options: bool
) -> Path:
    cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(np.ascontiguousarray(points[:, :3])))
    if intensity:
        cloud.point[intensity] = open3d.core.Tensor(np.ascontiguousarray(points[:, 3:]))
    assert open3d.t.io.write_point_cloud(str(path), cloud, **options)
    return path


@pytest.mark.parametrize("suffix", ["pcd", "ply", "PLY"])
@pytest.mark.parametrize("write_ascii", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("intensity", ["intensity", "Intensity", "reflectance"])
def test_round_trip(
    open3d: Any, tmp_path: Path, suffix: str, write_ascii: bool, compressed: bool, intensity: str
) -> None:
    points = some_points()
    path = write_cloud(
        open3d, tmp_path / f"a.{suffix}", points, intensity, write_ascii=write_ascii, compressed=compressed
    )
    # Open3D writes six digits into an ASCII .ply.
    np.testing.assert_allclose(read_points(path), points, rtol=1e-5 if write_ascii else 0)


@pytest.mark.parametrize("suffix", ["pcd", "ply"])
def test_no_intensity_reads_as_zero(open3d: Any, tmp_path: Path, suffix: str) -> None:
    points = some_points(5)
    found = read_points(write_cloud(open3d, tmp_path / f"a.{suffix}", points, intensity=None))
    np.testing.assert_array_equal(found, np.column_stack([points[:, :3], np.zeros(5, np.float32)]))


@pytest.mark.parametrize("suffix", ["pcd", "ply"])
@pytest.mark.parametrize("options", [{}, {"write_ascii": True}, {"compressed": True}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated_clouds_never_pass(
    open3d: Any,
    tmp_path: Path,
    suffix: str,
    options: dict[str, bool],
    share: float,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_cloud(open3d, tmp_path / f"a.{suffix}", some_points(1000), **options)
    capfd.readouterr()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(FrameError, match=rf"a\.{suffix}: .* truncated"):
        read_points(path)
    assert capfd.readouterr().out == ""  # stdout is where `stream` writes its JSON
