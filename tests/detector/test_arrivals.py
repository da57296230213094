"""When frames come: at a rate, by their stamps, when files become complete. Time is a number here, nobody sleeps."""

from itertools import islice

import numpy as np
import pytest

from detector.arrivals import open_arrivals
from detector.errors import FrameError, SourceError
from detector.follow import PATIENCE_S, SETTLE_S, GrowingFolder
from tests.tiny_network import patch_points

LOOK = SETTLE_S / 2
LATER = SETTLE_S * 1.01


class FakeClock:
    """Time passes when somebody waits, and when the test says so."""

    def __init__(self):
        self.time_s, self.stopped = 100.0, False

    def now_s(self):
        return self.time_s

    def wait_until(self, moment_s):
        self.time_s = max(self.time_s, moment_s)
        return not self.stopped


@pytest.fixture
def clock():
    return FakeClock()


def raw_drive(folder, count, lines=None):
    data = folder / "velodyne_points" / "data"
    data.mkdir(parents=True)
    for number in range(count):
        patch_points().tofile(data / f"{number:010d}.bin")
    if lines is not None:
        (folder / "velodyne_points" / "timestamps.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def take(arrivals, clock, network_s=0.0):
    """Frame id, time of availability since the start, and drops of every arrival, each taking this long to process."""
    found = []
    for arrival in arrivals:
        assert arrival.available_s <= clock.time_s, "nobody sees a frame before it is there"
        found.append((int(arrival.load().id), round(arrival.available_s - 100, 9), arrival.dropped_before))
        clock.time_s += network_s
    return found


def test_a_drive_without_times_comes_at_10_hz(tmp_path, clock):
    found = take(open_arrivals(raw_drive(tmp_path, 3), clock), clock)
    assert found == [(0, 0.0, 0), (1, 0.1, 0), (2, 0.2, 0)]


def test_stamps_pace_and_gaps_that_mean_nothing_are_a_sweep(tmp_path, clock):
    lines = ["2011-09-26 13:00:00.0", "2011-09-26 13:00:00.25", "2011-09-26 13:00:02.25", "2011-09-26 18:00:00.0", "?"]
    found = take(open_arrivals(raw_drive(tmp_path, 5, lines), clock), clock)
    assert [time_s for _, time_s, _ in found] == [0.0, 0.25, 2.25, 2.35, 2.45]


def test_a_rate_overrides_the_stamps_and_loops_go_on(tmp_path, clock):
    found = take(open_arrivals(raw_drive(tmp_path, 2), clock, rate_hz=4, loop=2), clock)
    assert found == [(0, 0.0, 0), (1, 0.25, 0), (0, 0.5, 0), (1, 0.75, 0)]


def test_every_waits_for_a_slow_network_and_tells_since_when_frames_were_there(tmp_path, clock):
    found = take(open_arrivals(raw_drive(tmp_path, 4), clock, rate_hz=4), clock, network_s=1.0)
    assert found == [(0, 0.0, 0), (1, 0.25, 0), (2, 0.5, 0), (3, 0.75, 0)]
    assert clock.time_s == 104.0


@pytest.mark.parametrize(
    ("network_s", "ids"),
    [
        (0.125, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (0.25, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),  # the next one comes in the very moment when the last one is done
        (0.5, [0, 2, 4, 6, 8, 9]),
        (0.875, [0, 3, 7, 9]),  # at 0, 0.875 and 1.75, then at 2.625 the last one
        (99.0, [0, 9]),
    ],
)
def test_latest_passes_over_frames_that_were_overtaken(tmp_path, clock, network_s, ids):
    found = take(open_arrivals(raw_drive(tmp_path, 10), clock, rate_hz=4, policy="latest"), clock, network_s)
    assert [number for number, _, _ in found] == ids
    assert [dropped for _, _, dropped in found] == [b - a - 1 for a, b in zip([-1, *ids], ids, strict=False)]
    assert [time_s for _, time_s, _ in found] == [number / 4 for number in ids]


def test_late_frames_are_never_loaded(tmp_path, clock):
    drive = raw_drive(tmp_path, 3)
    (drive / "velodyne_points" / "data" / "0000000001.bin").write_bytes(b"broken")
    found = take(open_arrivals(drive, clock, policy="latest"), clock, network_s=0.25)
    assert found == [(0, 0.0, 0), (2, 0.2, 1)]


def test_iterables_come_as_they_come_or_at_a_rate(clock):
    def sensor():
        for _ in range(3):
            clock.time_s += 0.5
            yield patch_points()

    assert take(open_arrivals(sensor(), clock), clock) == [(0, 0.5, 0), (1, 1.0, 0), (2, 1.5, 0)]
    clock.time_s = 100.0
    found = take(open_arrivals([patch_points()] * 2, clock, rate_hz=4, loop=2), clock)
    assert found == [(0, 0.0, 0), (1, 0.25, 0), (2, 0.5, 0), (3, 0.75, 0)]


@pytest.mark.parametrize("pace", [{}, {"rate_hz": 4}, {"rate_hz": float("inf")}])
def test_a_stopped_clock_ends_every_kind_of_source(tmp_path, clock, pace):
    drive = raw_drive(tmp_path, 3)
    for source, more in ((drive, {}), ([patch_points()] * 3, {}), (drive, {"follow": True})):
        if more and pace:
            continue
        arrivals = open_arrivals(source, clock, **pace, **more)
        clock.stopped = False
        next(arrivals)
        clock.stopped = True
        assert len(list(arrivals)) == (2 if more else 0), "a followed folder hands out what it has seen"


def names(frames):
    return [frame.id for frame in frames]


def test_a_file_is_complete_when_it_has_not_changed(tmp_path):
    folder, points = GrowingFolder(tmp_path), patch_points()
    path = tmp_path / "a.bin"
    path.write_bytes(points[:4].tobytes())
    assert names(folder.look(0.0)) == []
    path.write_bytes(points[:8].tobytes())
    assert names(folder.look(LATER)) == [], "it grew"
    assert names(folder.look(LATER + LOOK)) == [], "not long enough"
    (frame,) = folder.look(2 * LATER)
    np.testing.assert_array_equal(frame.load().points, points[:8])
    assert names(folder.look(9 * LATER)) == [], "once"


@pytest.mark.parametrize("content", [b"", b"x" * 17])
def test_a_file_that_cannot_be_whole_gets_more_time_and_then_is_handed_out_as_it_is(tmp_path, content):
    folder, path = GrowingFolder(tmp_path), tmp_path / "a.bin"
    path.write_bytes(content)
    assert names(folder.look(0.0)) == names(folder.look(0.9 * PATIENCE_S)) == []
    (frame,) = folder.look(PATIENCE_S)
    if content:
        with pytest.raises(FrameError, match="17 bytes"):
            frame.load()
    else:
        assert len(frame.load()) == 0


def test_files_keep_their_order_and_wait_for_one_another(tmp_path):
    folder = GrowingFolder(tmp_path)
    for name in ("b", "c", ".hidden", "a"):
        patch_points().tofile(tmp_path / f"{name}.bin")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "b.bin").write_bytes(b"half")
    assert names(folder.look(0.0)) == []
    assert names(folder.look(LATER)) == ["a"], "c waits for b"
    patch_points().tofile(tmp_path / "b.bin")
    assert names(folder.look(2 * LATER)) == []
    (tmp_path / ".hidden.bin").rename(tmp_path / "d.bin")
    assert names(folder.look(3 * LATER)) == ["b", "c"]
    (tmp_path / "d.bin").unlink()
    (tmp_path / "e.bin").symlink_to(tmp_path / "nowhere")
    assert names(folder.look(4 * LATER)) == []
    assert names(folder.look(4 * LATER + PATIENCE_S)) == ["e"], "a link to nowhere blocks nobody for ever"


def test_a_growing_drive_keeps_its_layout(tmp_path, clock):
    drive = raw_drive(tmp_path / "drive", 2)
    arrivals = open_arrivals(drive, clock, follow=True)
    frames = [arrival.load() for arrival in islice(arrivals, 2)]
    assert [frame.stamp_ns for frame in frames] == [0, 100_000_000]
    assert clock.time_s - 100 < 2 * LATER, "files settle side by side"


def test_followed_files_that_wait_together_are_one_arrival_with_latest(tmp_path, clock):
    arrivals = open_arrivals(raw_drive(tmp_path, 5), clock, follow=True, policy="latest")
    first = next(arrivals)
    assert (first.load().id, first.dropped_before) == ("0000000004", 4)


def test_folders_that_cannot_be_followed(tmp_path, clock):
    with pytest.raises(SourceError, match="is no folder"):
        open_arrivals(tmp_path / "missing", clock, follow=True)
    for number in range(2):
        raw_drive(tmp_path / "date" / f"drive{number}", 1)
    with pytest.raises(SourceError, match="holds 2 recordings"):
        open_arrivals(tmp_path / "date", clock, follow=True)
    (tmp_path / "gone").mkdir()
    arrivals = open_arrivals(tmp_path / "gone", clock, follow=True)
    (tmp_path / "gone").rmdir()
    with pytest.raises(SourceError, match="expected it to stay"):
        next(arrivals)
