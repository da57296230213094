"""What the door lets in, with which warning, and what it refuses: the same for files and for arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detector.errors import FrameError, FrameFault
from detector.frame_checks import MAX_POINTS, FrameWarning, WarningLog, check_count
from detector.sources import FrameFile, open_sources
from detector.types import Frame


def street(count: int = 3000) -> np.ndarray:
    """(N, 4) float32 points of a flat street: 60 m long, 16 m wide, walls 6 m high."""
    random = np.random.default_rng(7)
    points = random.uniform([-30, -8, -1.8, 0], [30, 8, -1.6, 1], (count, 4))
    walls = count // 3
    points[:walls, 1] = np.where(points[:walls, 1] > 0, 8, -8)
    points[:walls, 2] = random.uniform(-1.8, 4.2, walls)
    return points.astype(np.float32)


def faults(frame: Frame) -> list[FrameFault]:
    return [warning.fault for warning in frame.warnings]


def through_a_file(folder: Path, points: np.ndarray) -> Frame:
    points.tofile(folder / "a.bin")
    return FrameFile("a", folder / "a.bin").load()


@pytest.fixture(params=["file", "array"])
def frame_of(request: pytest.FixtureRequest, tmp_path: Path):
    """Makes a frame of points, through a file or through the API."""
    return (lambda points: through_a_file(tmp_path, points)) if request.param == "file" else Frame


def test_a_good_frame_passes_as_it_is(frame_of) -> None:
    frame = frame_of(street())
    assert frame.warnings == () and frame.points.tobytes() == street().tobytes()


def test_no_points(frame_of) -> None:
    frame = frame_of(street()[:0])
    assert len(frame) == 0 and faults(frame) == [FrameFault.EMPTY]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 3])
def test_few_nonfinite_points_are_dropped(frame_of, bad: float, column: int) -> None:
    points = street(100)
    points[10:15, column] = bad  # 5 %, the most that is let through
    frame = frame_of(points)
    np.testing.assert_array_equal(frame.points, np.delete(points, slice(10, 15), axis=0))
    assert faults(frame) == [FrameFault.DROPPED] and "dropped 5 of 100 points" in frame.warnings[0].text


def test_many_nonfinite_points_are_refused(frame_of) -> None:
    points = street(100)
    points[10:16, 1] = np.nan
    with pytest.raises(FrameError, match="6 of 100 points hold NaN or infinity, expected at most 5%") as caught:
        frame_of(points)
    assert caught.value.fault == FrameFault.NOT_FINITE


@pytest.mark.parametrize("scale", [255, 65535])
def test_integer_intensities_are_scaled(frame_of, scale: int) -> None:
    points = street()
    points[0, 3] = 1
    raw = points * np.array([1, 1, 1, scale], np.float32)
    given_points = raw.copy()
    frame = frame_of(raw)
    np.testing.assert_allclose(frame.points, points, atol=1e-6)  # one float32 multiplication and division
    assert faults(frame) == [FrameFault.SCALED] and f"taken as 0..{scale}" in frame.warnings[0].text
    np.testing.assert_array_equal(raw, given_points, "the caller's array stays as it is")


def test_intensities_a_little_above_1_are_no_bytes(frame_of) -> None:
    points = street()
    points[5, 3] = 1.25
    frame = frame_of(points)
    np.testing.assert_array_equal(frame.points[:, 3], np.minimum(points[:, 3], 1))
    assert faults(frame) == [FrameFault.CLIPPED]


@pytest.mark.parametrize("intensity", [-0.5, 1e6])
def test_senseless_intensities_mean_other_columns(frame_of, intensity: float) -> None:
    points = street()
    points[4, 3] = intensity
    with pytest.raises(FrameError, match="the columns must be x, y, z, intensity") as caught:
        frame_of(points)
    assert caught.value.fault == FrameFault.INTENSITY


@pytest.mark.parametrize(("factor", "shift"), [(1000, 0), (1, 5e5)])
def test_millimetres_and_map_coordinates(frame_of, factor: float, shift: float) -> None:
    points = street()
    points[:, :3] = points[:, :3] * factor + shift
    assert faults(frame_of(points)) == [FrameFault.NOT_METRES]


@pytest.mark.parametrize("axes", [[1, 2, 0, 3], [2, 0, 1, 3], [0, 2, 1, 3], [2, 1, 0, 3]])
def test_swapped_axes(frame_of, axes: list[int]) -> None:
    frame = frame_of(np.ascontiguousarray(street()[:, axes]))
    assert faults(frame) == [FrameFault.AXES] and "expected x forward, y left, z up" in frame.warnings[0].text


def test_real_sweeps_raise_no_doubt_until_their_axes_are_swapped(shared: Path) -> None:
    names = ["kitti", "kitti_raw", *(f"argoverse/{path.name}" for path in (shared / "argoverse").iterdir())]
    files = [file for name in names for source in open_sources([shared / name]) for file in source.frames[::10]]
    assert len(files) > 25
    for file in files:
        frame = file.load()
        assert set(faults(frame)) <= {FrameFault.SCALED}, file.path
        assert len(frame) > 1000
        for axes in ([0, 2, 1, 3], [1, 2, 0, 3]):
            assert FrameFault.AXES in faults(Frame(np.ascontiguousarray(frame.points[:, axes]))), file.path
        assert FrameFault.NOT_METRES in faults(Frame(frame.points * np.array([1e3, 1e3, 1e3, 1], np.float32)))


@pytest.mark.parametrize(
    ("points", "found"),
    [
        (np.zeros((5, 3), np.float32), r"shape \(5, 3\), expected an array of shape \(N, 4\)"),
        ([[0.0, 0.0, 0.0, 0.0]], "points are list"),
        (None, "points are NoneType"),
        (np.zeros((5, 4), np.float64), "float64, expected float32"),
        (np.zeros((5, 4), object), "object, expected float32"),
    ],
)
def test_other_arrays(points, found: str) -> None:
    with pytest.raises(FrameError, match=found) as caught:
        Frame(points)
    assert caught.value.fault == FrameFault.ARRAY


def test_absurd_numbers_of_points_are_refused_before_memory_is_taken() -> None:
    endless = np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (10**12, 4), (0, 4))
    with pytest.raises(FrameError, match="1000000000000 points, expected at most 5000000") as caught:
        Frame(endless)
    assert caught.value.fault == FrameFault.TOO_MANY
    check_count("here", MAX_POINTS)


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(4)), elements=st.floats(width=32)))
@pytest.mark.filterwarnings("error")
def test_any_values_become_a_frame_or_an_error(points: np.ndarray) -> None:
    before = points.tobytes()
    try:
        frame = Frame(points)
    except FrameError as error:
        assert "\n" not in str(error) and error.fault in (FrameFault.NOT_FINITE, FrameFault.INTENSITY)
    else:
        assert np.isfinite(frame.points).all() and len(frame) >= 0.95 * len(points)
        assert not len(frame) or 0 <= frame.points[:, 3].min() <= frame.points[:, 3].max() <= 1
    assert points.tobytes() == before


def test_the_first_warnings_of_a_kind_are_told_and_all_are_counted() -> None:
    told: list[str] = []
    log = WarningLog(told.append)
    for number in range(10):
        log.add([FrameWarning(FrameFault.SCALED, f"frame {number}: bytes")])
    log.count(["truncated"])
    assert log.counts == {"intensity scaled": 10, "truncated": 1}
    assert told == [*(f"frame {number}: bytes" for number in range(3)), told[-1]] and "not told" in told[-1]
