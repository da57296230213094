"""What a run leaves behind: label files, JSON Lines, timings, pictures.

One folder per source::

    label_2/ID.txt      KITTI label file of every good frame, empty if it holds no box (with calibration only)
    detections.jsonl    one line per frame, LiDAR frame, in source order
    timing.jsonl        milliseconds per stage and frame
    pictures/ID.png     with --render

Label files and pictures appear whole. The two .jsonl files grow as ``.part`` and get their names when the run
closes them, also after Ctrl-C; a line there says that all else of that frame is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from detector.boxes import labels_from_detections
from detector.errors import SourceError
from detector.files import write_whole
from detector.labels import format_labels
from detector.types import FrameResult

DETECTIONS, TIMING = "detections.jsonl", "timing.jsonl"


class OutputFolder:
    """Writes the results of one source, frame by frame. Use as a context manager.

    Args:
        folder: made if missing. What an earlier run wrote there is replaced, or gone on from with ``resume``.
        resume: keep what complete lines say is done; `done` then holds those frames' ids.

    Raises:
        SourceError: if the folder holds label files that no run of ours wrote: a data set's own labels, perhaps.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder = folder
        self.labels, self.pictures = folder / "label_2", folder / "pictures"
        ours = any((folder / f"{DETECTIONS}{end}").is_file() for end in ("", ".part"))
        if not ours and self.labels.is_dir() and any(self.labels.iterdir()):
            raise SourceError(
                f"{self.labels}: holds files that no run of roadblocks wrote, expected a new or earlier output folder; "
                "choose another OUT"
            )
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: complete_lines(folder, name) for name in (DETECTIONS, TIMING)}
        if not resume:
            self._remove_frames(kept[DETECTIONS])
            kept = {name: {} for name in kept}
        self.done = set(kept[DETECTIONS]) & set(kept[TIMING])
        self._lines: dict[str, TextIO] = {}
        for name, lines in kept.items():
            text = "".join(line for frame, line in lines.items() if frame in self.done)
            write_whole(folder / f"{name}.part", text)
            (folder / name).unlink(missing_ok=True)
            self._lines[name] = (folder / f"{name}.part").open("a", encoding="utf-8")

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *_: object) -> None:
        for name, stream in self._lines.items():
            stream.close()
            os.replace(self.folder / f"{name}.part", self.folder / name)

    def write(self, result: FrameResult, picture: Image.Image | None = None) -> None:
        """Writes one frame: label file and picture first, then the line that says they are there."""
        frame = result.frame
        if frame.calibration is not None:
            self.labels.mkdir(exist_ok=True)
            labels = labels_from_detections(result.detections, frame.calibration)
            write_whole(self.labels / f"{frame.id}.txt", format_labels(labels))
        if picture is not None:
            self.pictures.mkdir(exist_ok=True)
            save_picture(self.pictures / f"{frame.id}.png", picture)
        self._append(DETECTIONS, result.to_json())

    def write_timing(self, result: FrameResult) -> None:
        """Writes the stage times of one frame; last, because writing is a stage too."""
        times = {name: round(value, 3) for name, value in result.stage_ms.items()}
        tiles = {"tiles_run": result.tiles_run, "tiles_left_out": result.tiles_left_out}
        self._append(TIMING, {"frame": result.frame.id, "stage_ms": times, **tiles})

    def _append(self, name: str, record: dict[str, Any]) -> None:
        self._lines[name].write(json.dumps(record) + "\n")
        self._lines[name].flush()

    def _remove_frames(self, frames: dict[str, str]) -> None:
        """Removes what an earlier run wrote here, and nothing else."""
        for frame in frames:
            (self.labels / f"{frame}.txt").unlink(missing_ok=True)
            (self.pictures / f"{frame}.png").unlink(missing_ok=True)


def save_picture(path: Path, picture: Image.Image) -> None:
    """Writes a PNG, whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    picture.save(partial, format="PNG")
    os.replace(partial, path)


def complete_lines(folder: Path, name: str) -> dict[str, str]:
    """Frame id to line, of a finished or interrupted file; a torn last line is dropped."""
    path = next((p for p in (folder / f"{name}.part", folder / name) if p.is_file()), None)
    if path is None:
        return {}
    lines = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        # Ids become file names: one that is a path is none of ours.
        frame = record.get("frame") if isinstance(record, dict) else None
        if line.endswith("\n") and isinstance(frame, str) and Path(frame).name == frame:
            lines[frame] = line
    return lines
