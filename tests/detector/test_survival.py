"""Output that survives: kills, torn files, full disks, folders that nobody may write to, a second run at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.errors import OutputError
from detector.files import LineFile, locked, partial_path, read_text, write_whole
from detector.sinks import DETECTIONS, TIMING
from tests import crash_points

ROOT = Path(__file__).resolve().parents[2]


def test_killed_before_any_line_of_the_writers_and_gone_on_from(tmp_path: Path) -> None:
    """Into a new folder and over another run's output, the second run killed too: bytes as in one go."""
    words = [sys.executable, "tests/crash_points.py", str(tmp_path), "67"]
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == [] and found["points"] > 20


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return crash_points.write_drives(tmp_path_factory.mktemp("drives"))[1:]


@pytest.fixture
def out(drives: list[Path], tmp_path: Path) -> Path:
    """What a whole run has written."""
    crash_points.detect(drives, tmp_path / "out", 0.5, resume=False)
    return tmp_path / "out"


@given(cuts=st.tuples(st.integers(0, 400), st.integers(0, 400)), tail=st.binary(max_size=5))
@settings(max_examples=25)
def test_torn_at_any_byte_and_gone_on_from(
    drives: list[Path], tmp_path_factory: pytest.TempPathFactory, cuts: tuple[int, int], tail: bytes
) -> None:
    """As a power cut may leave them: both files end anywhere, with garbage behind."""
    out = tmp_path_factory.mktemp("torn")
    crash_points.detect(drives, out, 0.5, resume=False)
    whole = crash_points.content(out)
    for name, cut in zip((DETECTIONS, TIMING), cuts, strict=True):
        (out / f"{name}.part").write_bytes((out / name).read_bytes()[: -cut or None] + tail)
        (out / name).unlink()
    crash_points.detect(drives, out, 0.5, resume=True)
    assert crash_points.content(out) == whole


@pytest.mark.parametrize("damage", ["gone", "empty", "other"])
def test_a_label_file_that_is_not_what_it_was_is_written_again(drives: list[Path], out: Path, damage: str) -> None:
    whole = crash_points.content(out)
    path = out / "label_2" / "000002.txt"
    path.unlink() if damage == "gone" else path.write_text("" if damage == "empty" else "Car\n")
    crash_points.detect(drives, out, 0.5, resume=True)
    assert crash_points.content(out) == whole


def test_a_frame_that_was_mended_gets_its_place(tmp_path: Path) -> None:
    (drive,) = crash_points.write_drives(tmp_path / "drives")[1:]
    broken = drive / "velodyne" / "000001.bin"
    crash_points.detect([drive], tmp_path / "out", 0.5, resume=False)
    broken.write_bytes((drive / "velodyne" / "000002.bin").read_bytes())
    crash_points.detect([drive], tmp_path / "out", 0.5, resume=True)
    crash_points.detect([drive], tmp_path / "whole", 0.5, resume=False)
    assert crash_points.content(tmp_path / "out") == crash_points.content(tmp_path / "whole")


def test_faults_are_counted_over_both_parts_of_a_run(drives: list[Path], out: Path) -> None:
    before = json.loads((out / "run.json").read_text())["summary"]["faults"]
    assert before == {"no points": 1, "truncated": 1}
    crash_points.detect(drives, out, 0.5, resume=True)
    summary = json.loads((out / "run.json").read_text())["summary"]
    assert summary["faults"] == before and summary["resumed"] == 2
    assert summary["skipped"][0]["kind"] == "truncated"


# Full disks: the system's calls fail from some byte on.


class FullDisk:
    """Lets so many bytes through `os.write` and file objects, then fails as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
        self.free, self._write = free, os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        if self.free == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(len(data), self.free)
        self.free -= taken
        return self._write(descriptor, data[:taken])


def test_a_full_disk_takes_back_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.part"
    path.write_text("one\n")
    lines = LineFile(path)
    FullDisk(monkeypatch, 6)
    lines.append("two\n")
    with pytest.raises(OutputError, match=r"a\.part: cannot be written \(No space left on device\); free some space"):
        lines.append("three\n")
    lines.close(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "one\ntwo\n" and not path.exists()


@pytest.mark.parametrize("free", [0, 100, 300, 500])
def test_a_disk_that_fills_up_leaves_a_run_that_can_be_resumed(
    drives: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        FullDisk(patch, free)
        with pytest.raises(OutputError, match=r"No space left on device\); free some space"):
            crash_points.detect(drives, out, 0.5, resume=False)
    for name in (DETECTIONS, TIMING):
        assert all(json.loads(line) for line in (out / name).read_text().splitlines())
    crash_points.detect(drives, out, 0.5, resume=True)
    crash_points.detect(drives, tmp_path / "whole", 0.5, resume=False)
    assert crash_points.content(out) == crash_points.content(tmp_path / "whole")


def test_lines_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("keep")
    (tmp_path / "a.part").symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match=r"a\.part: cannot be written"):
        LineFile(tmp_path / "a.part")


@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old", durable=True)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "replace", fail) if call == "replace" else monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OutputError, match=r"a\.txt: cannot be written \(Read-only file system\)"):
        write_whole(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_a_link_in_the_place_of_a_temporary_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep")
    partial_path(tmp_path / "a.txt").symlink_to(victim)
    write_whole(tmp_path / "a.txt", "new")
    assert victim.read_text() == "keep" and (tmp_path / "a.txt").read_text() == "new"


def test_the_longest_name_that_a_file_may_have(tmp_path: Path) -> None:
    write_whole(tmp_path / ("ü" * 127), "a")
    assert read_text(tmp_path / ("ü" * 127), 10) == "a"


def test_two_runs_at_once_are_one_too_many(drives: list[Path], tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(OutputError, match="another run writes here"):
        crash_points.detect(drives, tmp_path, 0.5, resume=False)
    crash_points.detect(drives, tmp_path, 0.5, resume=False)
    assert (tmp_path / "run.json").is_file()


def test_small_files_are_read_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\xff")
    assert read_text(tmp_path / "a", 5) == "a\ufffd"
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "a", "5 bytes, expected at most 4"), (tmp_path / "pipe", "no regular file")):
        with pytest.raises(OSError, match=words):
            read_text(path, 4)
    with pytest.raises(OSError, match="no regular file"):
        read_text(Path("/dev/zero"), 4)
