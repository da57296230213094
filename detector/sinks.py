"""What a run leaves behind: label files, JSON Lines, timings, pictures.

One folder per source::

    label_2/ID.txt      KITTI label file of every good frame, empty if it holds no box (with calibration only)
    detections.jsonl    one line per frame, LiDAR frame, in source order
    timing.jsonl        milliseconds per stage and frame, warnings, checksums of the frame's other files
    pictures/ID.png     with --render

Label files and pictures appear whole. The two .jsonl files grow as ``.part`` and get their names when the run
closes them, also after Ctrl-C. A frame is done when it has a line in both and its files are what the second says: so a
run that was killed at any instant, or whose machine lost its power, can be gone on from.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from PIL import Image

from detector.boxes import labels_from_detections
from detector.errors import SourceError
from detector.files import LEFTOVERS, LineFile, told_by_name, write_whole
from detector.labels import format_labels
from detector.types import FrameResult

DETECTIONS, TIMING = "detections.jsonl", "timing.jsonl"
LABELS, PICTURES = "label_2", "pictures"
SUFFIXES = {LABELS: ".txt", PICTURES: ".png"}


class OutputFolder:
    """Writes the results of one source, frame by frame. Use as a context manager.

    Args:
        folder: made if missing. What an earlier run left there unfinished is gone on from; `clear_output` removes it.
        order: ids of the source's frames. Lines end up in this order even if an earlier run left gaps between them.

    Attributes:
        done: records of timing.jsonl by the id of the frames that are done.

    Raises:
        OutputError: if the folder cannot be written; also from the methods.
    """

    def __init__(self, folder: Path, order: Sequence[str] = ()) -> None:
        self.folder = folder
        self._order = {frame: index for index, frame in enumerate(order)}
        self._checksums: dict[str, int] = {}
        with told_by_name(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
        kept = {name: complete_lines(folder, name) for name in (DETECTIONS, TIMING)}
        timing = {frame: json.loads(line) for frame, line in kept[TIMING].items() if frame in kept[DETECTIONS]}
        self.done = {frame: record for frame, record in timing.items() if self._is_whole(frame, record)}
        self._lines: dict[str, LineFile] = {}
        for name, lines in kept.items():
            part = folder / f"{name}.part"
            write_whole(part, "".join(line for frame, line in lines.items() if frame in self.done))
            with told_by_name(folder / name):
                (folder / name).unlink(missing_ok=True)
            self._lines[name] = LineFile(part)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # the second is closed whatever becomes of the first
            for name, lines in self._lines.items():
                if self.done:
                    stack.callback(self._sort, name)
                stack.callback(lines.close, self.folder / name)

    def write(self, result: FrameResult, picture: Image.Image | None = None) -> None:
        """Writes one frame: label file and picture first, then its line."""
        frame = result.frame
        files: dict[str, bytes] = {}
        if frame.calibration is not None:
            labels = labels_from_detections(result.detections, frame.calibration)
            files[LABELS] = format_labels(labels).encode("utf-8")
        if picture is not None:
            files[PICTURES] = _png(picture)
        for kind, content in files.items():
            with told_by_name(self.folder / kind):
                (self.folder / kind).mkdir(exist_ok=True)
            write_whole(self.folder / kind / f"{frame.id}{SUFFIXES[kind]}", content)
        self._checksums = {kind: zlib.crc32(content) for kind, content in files.items()}
        self._append(DETECTIONS, result.to_json())

    def write_timing(self, result: FrameResult) -> None:
        """Writes the stage times of the frame just written; last, because writing is a stage too."""
        times = {name: round(value, 3) for name, value in result.stage_ms.items()}
        tiles = {"tiles_run": result.tiles_run, "tiles_left_out": result.tiles_left_out}
        more = {"warnings": [warning.fault for warning in result.warnings], "crc32": self._checksums}
        self._append(TIMING, {"frame": result.frame.id, "stage_ms": times, **tiles, **more})

    def _append(self, name: str, record: dict[str, Any]) -> None:
        self._lines[name].append(json.dumps(record) + "\n")

    def _is_whole(self, frame: str, timing: dict[str, Any]) -> bool:
        """Whether the files of a frame are those that its line tells of."""
        checksums = timing.get("crc32")
        if not isinstance(checksums, dict):
            return False
        try:
            files = {kind: self.folder / kind / f"{frame}{SUFFIXES[kind]}" for kind in checksums}
            return all(zlib.crc32(path.read_bytes()) == checksums[kind] for kind, path in files.items())
        except (OSError, KeyError):
            return False

    def _sort(self, name: str) -> None:
        """Puts lines into the order of the source; a run in one go has written them so."""
        lines = complete_lines(self.folder, name)
        places = [self._order.get(frame, len(self._order)) for frame in lines]
        if places != sorted(places):
            ordered = sorted(lines, key=lambda frame: self._order.get(frame, len(self._order)))
            write_whole(self.folder / name, "".join(lines[frame] for frame in ordered), durable=True)


def check_ours(folder: Path) -> None:
    """Refuses folders of somebody else's label files.

    Raises:
        SourceError: if there are label files, and nothing that says that a run of ours wrote them.
    """
    labels = folder / LABELS
    ours = any((folder / f"{DETECTIONS}{end}").is_file() for end in ("", ".part"))
    if not ours and labels.is_dir() and any(labels.iterdir()):
        raise SourceError(
            f"{labels}: holds files that no run of roadblocks wrote, expected a new or earlier output folder; "
            "choose another OUT"
        )


def clear_output(folder: Path) -> None:
    """Removes what an earlier run wrote to a folder, and nothing else. Killed on the way, it can be repeated.

    Raises:
        OutputError: if that is not allowed.
    """
    lines = [folder / f"{name}{end}" for name in (DETECTIONS, TIMING) for end in (".part", "")]
    with told_by_name(folder):
        for frame in {frame for path in lines for frame in _read_lines(path)}:
            for kind, suffix in SUFFIXES.items():
                (folder / kind / f"{frame}{suffix}").unlink(missing_ok=True)
        _remove_leftovers(folder)
        for path in lines:
            path.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Removes files that a killed run had not finished."""
    for kind in ("", *SUFFIXES):
        for path in (folder / kind).glob(LEFTOVERS):
            path.unlink(missing_ok=True)


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return stream.getvalue()


def save_picture(path: Path, picture: Image.Image) -> None:
    """Writes a PNG, whole or not at all."""
    write_whole(path, _png(picture))


def complete_lines(folder: Path, name: str) -> dict[str, str]:
    """Frame id to line, of a finished or interrupted file; a torn last line is dropped."""
    return _read_lines(folder / f"{name}.part") or _read_lines(folder / name)


def _read_lines(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        # Ids become file names: one that is a path is none of ours.
        frame = record.get("frame") if isinstance(record, dict) else None
        if line.endswith("\n") and isinstance(frame, str) and Path(frame).name == frame:
            lines[frame] = line
    return lines
