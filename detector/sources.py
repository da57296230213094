"""Where frames come from: `open_sources` turns paths into lists of frames, by the layout of their folders.

Every path is first brought down to point files. Their folder then tells the layout, so that a whole data set,
a glob and a single file of it find the same calibration:

- "kitti object": ``[training|testing/]velodyne/ID.bin``, calibration in ``calib/ID.txt``
- "kitti raw": ``[[DATE/]DRIVE/]velodyne_points/data/ID.bin``, calibration in the date's ``calib_*.txt``
- "files": any other folder of .bin, .pcd or .ply files, without calibration
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detector.calibration import (
    DEFAULT_IMAGE_SIZE,
    Calibration,
    read_object_calibration,
    read_raw_calibration,
)
from detector.errors import FrameError, FrameFault, LabelError, SourceError
from detector.files import read_text
from detector.point_files import read_points
from detector.point_paths import EXPECTED, find_point_files
from detector.poses import find_poses
from detector.types import Frame

log = logging.getLogger("roadblocks")

RAW_PERIOD_NS = 100_000_000
MAX_TIMES_BYTES = 100_000_000
# What Pillow raises for broken files.
BAD_IMAGE = (OSError, ValueError, SyntaxError, struct.error, zlib.error, Image.DecompressionBombError)


def _no_calibration() -> None:
    """The calibration of a frame that has none."""


@dataclass(frozen=True)
class FrameFile:
    """One frame on disk.

    Attributes:
        id: name of the frame, the stem of its file.
        path: its point file.
        stamp_ns: time of the sweep, nanoseconds, or None.
        read_calibration: gives the frame's calibration, or None where it has none; raises `LabelError`.
        recording: folder where poses are looked for, see `detector.poses.find_poses`; None for nowhere.
    """

    id: str
    path: Path
    stamp_ns: int | None = None
    read_calibration: Callable[[], Calibration | None] = _no_calibration
    recording: Path | None = None

    @property
    def label_path(self) -> Path | None:
        """The frame's label file in the object layout, or None where there is none."""
        return self._beside("label_2", ".txt")

    @property
    def image_path(self) -> Path | None:
        """The frame's camera image in the object layout, or None where there is none."""
        return self._beside("image_2", ".png")

    def _beside(self, folder: str, suffix: str) -> Path | None:
        path = self.path.parent.parent / folder / f"{self.id}{suffix}"
        return path if self.path.parent.name == "velodyne" and path.is_file() else None

    def load(self) -> Frame:
        """Reads points, calibration and pose. A frame whose pose cannot be read has none, with a warning.

        Raises:
            FrameError: if either is missing or bad.
            MissingExtraError: if the file needs a reader that is not installed.
        """
        try:
            calibration = self.read_calibration()
        except LabelError as error:
            raise FrameError(str(error), FrameFault.CALIBRATION) from error
        points = read_points(self.path)
        return Frame(points, self.id, self.stamp_ns, calibration, self._pose(), origin=str(self.path))

    def _pose(self) -> NDArray[np.float64] | None:
        try:
            poses = None if self.recording is None else _find_poses(self.recording)
            return None if poses is None else poses(self.id)
        except (FrameError, LabelError) as error:
            log.warning("frame %s: used without its pose: %s", self.id, error)
            return None


@dataclass(frozen=True)
class Source:
    """The frames of one recording, sorted by name.

    Attributes:
        name: unique among the sources opened together; names the output folder.
        path: the folder that holds the recording.
        layout: "kitti object", "kitti raw" or "files".
        frames: its frames.
        why_no_calibration: one line, or None where frames have their calibration. Without it, no KITTI label
            files can be written.
    """

    name: str
    path: Path
    layout: str
    frames: tuple[FrameFile, ...]
    why_no_calibration: str | None = None


def open_sources(paths: Sequence[str | Path], frames: slice | None = None) -> list[Source]:
    """The recordings that the paths name, in the order given; nothing but calibration is read yet.

    Args:
        paths: KITTI object folders, raw drives, dates or roots, folders of point files, glob patterns
            (``**`` enters folders, not links to them), or point files. Files of one folder become one source.
        frames: which frames to keep of every source's sorted list.

    Raises:
        SourceError: if a path is missing, empty or of no known layout, or ``frames`` leaves nothing.
    """
    if not paths:
        raise SourceError(f"no source given; expected {EXPECTED}")
    folders: dict[Path, set[Path]] = {}
    for path in paths:
        for file in find_point_files(Path(os.path.abspath(Path(path).expanduser()))):
            folders.setdefault(file.parent, set()).add(file)
    sources: list[Source] = []
    for folder, files in folders.items():
        source = open_folder(folder, sorted(files))
        taken = {other.name for other in sources}
        names = chain([source.name], (f"{source.name}-{number}" for number in count(2)))
        name = next(name for name in names if name not in taken)
        sources.append(replace(source, name=name, frames=source.frames[frames or slice(None)]))
    if frames is not None and not any(source.frames for source in sources):
        most = max(len(files) for files in folders.values())
        stop = "" if frames.stop is None else frames.stop
        raise SourceError(f"frames {frames.start or 0}:{stop} are none; expected some of 0:{most}")
    return sources


def open_folder(folder: Path, files: Sequence[Path]) -> Source:
    """The source of point files of one folder, with their calibration.

    Args:
        folder: its place in a KITTI layout says which.
        files: point files in it, at least one, sorted.

    Raises:
        SourceError: if two files have one stem, or a raw drive's calibration or times cannot be read.
    """
    _check_stems(files)
    if folder.name == "velodyne":
        return _with_poses(_object_source(folder.parent, files))
    if folder.name == "data" and folder.parent.name == "velodyne_points":
        return _with_poses(_raw_source(folder.parent.parent, files))
    why = f"{folder}: point files of no KITTI layout; for a calibration put them into velodyne/ beside calib/"
    frames = tuple(FrameFile(file.stem, file) for file in files)
    return Source(folder.name or "source", folder, "files", frames, why)


def _with_poses(source: Source) -> Source:
    """The source, its frames with the poses of its folder."""
    return replace(source, frames=tuple(replace(frame, recording=source.path) for frame in source.frames))


_find_poses = lru_cache(maxsize=8)(find_poses)


def _check_stems(files: Iterable[Path]) -> None:
    """Refuses two files of one stem: their results would have one name."""
    seen: dict[str, Path] = {}
    for file in files:
        other = seen.setdefault(file.stem, file)
        if other != file:
            raise SourceError(
                f"{file.parent}: {other.name} and {file.name} are one frame id, expected one file each; "
                f"choose with a pattern: '{file.parent}/*{file.suffix}'"
            )


def _object_source(root: Path, files: Sequence[Path]) -> Source:
    in_set = root.name in ("training", "testing")
    name = f"{root.parent.name}_{root.name}" if in_set else root.name or "source"
    frames = tuple(FrameFile(file.stem, file) for file in files)
    if not any((root / "calib").glob("*.txt")):
        why = f"{root}: no calib/ID.txt files beside velodyne/"
        return Source(name, root, "kitti object", frames, why)
    frames = tuple(replace(frame, read_calibration=partial(_object_calibration, root, frame.id)) for frame in frames)
    return Source(name, root, "kitti object", frames)


def _object_calibration(root: Path, frame_id: str) -> Calibration:
    image_size = _image_size(root / "image_2" / f"{frame_id}.png")
    return read_object_calibration(root / "calib" / f"{frame_id}.txt", image_size)


def open_camera_image(path: Path) -> Image.Image:
    """A camera image; nothing but its header is read yet.

    Only the two formats that cameras give: Pillow knows many, and hands some of them to other programs.

    Raises:
        BAD_IMAGE: if it is none; also when it is read.
    """
    return Image.open(path, formats=("PNG", "JPEG"))


def _image_size(path: Path) -> tuple[int, int]:
    """(width, height) [pixels] from the header of an image; KITTI's usual size where there is none."""
    if not path.is_file():
        return DEFAULT_IMAGE_SIZE
    try:
        with open_camera_image(path) as image:
            return image.size
    except BAD_IMAGE as error:
        log.warning("%s: no image (%s); its size is taken as %dx%d", path, error, *DEFAULT_IMAGE_SIZE)
        return DEFAULT_IMAGE_SIZE


def _raw_source(drive: Path, files: Sequence[Path]) -> Source:
    date = drive.parent
    calibration, why = None, None
    missing = [name for name in ("calib_velo_to_cam.txt", "calib_cam_to_cam.txt") if not (date / name).is_file()]
    if missing:
        why = f"{date}: no {' and no '.join(missing)}; KITTI's date folder holds them"
    else:
        try:
            calibration = read_raw_calibration(date)
        except LabelError as error:
            raise SourceError(str(error)) from error
    stamps = _raw_stamps(drive / "velodyne_points" / "timestamps.txt", files)
    frames = tuple(
        FrameFile(file.stem, file, stamp, partial(_given, calibration))
        for file, stamp in zip(files, stamps, strict=True)
    )
    return Source(drive.name or "source", drive, "kitti raw", frames, why)


def _given(calibration: Calibration | None) -> Calibration | None:
    """The calibration that all frames of a drive share."""
    return calibration


def _raw_stamps(path: Path, files: Sequence[Path]) -> list[int | None]:
    """Nanoseconds of every frame: its line of ``timestamps.txt``, or 10 Hz from 0 where there is no file.

    Frames are counted by their names, because drives with dropped sweeps keep the lines of those sweeps.
    """
    numbers = [int(file.stem) if file.stem.isdecimal() else index for index, file in enumerate(files)]
    if not path.is_file():
        return [number * RAW_PERIOD_NS for number in numbers]
    try:
        lines = read_text(path, MAX_TIMES_BYTES).splitlines()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); expected one time per line") from error
    stamps = [_stamp_ns(lines[number]) if number < len(lines) else None for number in numbers]
    num_unknown = stamps.count(None)
    if num_unknown:
        log.warning("%s: no time for %d of %d frames", path, num_unknown, len(files))
    return stamps


def _stamp_ns(line: str) -> int | None:
    """Nanoseconds since 1970 of ``2011-09-26 13:02:25.951199337``, read as UTC; None if it is no time."""
    seconds, _, fraction = line.strip().partition(".")
    try:
        moment = datetime.fromisoformat(seconds).replace(tzinfo=UTC)
        return int(moment.timestamp()) * 10**9 + int(fraction[:9].ljust(9, "0"))
    except ValueError:
        return None
