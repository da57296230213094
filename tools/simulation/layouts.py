"""Drives as folders: KITTI's object and raw layouts, with what KITTI does not tell beside them.

Object layout::

    OUT/training/velodyne/000000.bin, calib/000000.txt, label_2/000000.txt
    OUT/training/road/000000.png, grid.json      ground, see `road_raster`
    OUT/training/tracks.jsonl                    poses and objects, see `track_record`
    OUT/ImageSets/val.txt

Raw layout, one drive for each world, with stamps from 1970 on::

    OUT/1970_01_01/calib_velo_to_cam.txt, calib_cam_to_cam.txt
    OUT/1970_01_01/1970_01_01_drive_0000_sync/velodyne_points/timestamps.txt, data/0000000000.bin
    OUT/1970_01_01/1970_01_01_drive_0000_sync/road/0000000000.png, grid.json
    OUT/1970_01_01/1970_01_01_drive_0000_sync/tracks.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from detector.calibration import write_object_calibration, write_raw_calibration
from detector.files import write_whole
from detector.labels import format_labels
from tools.simulation.drive import DriveFrame
from tools.simulation.road_raster import GRID_FILE, write_road

TRACKS_FILE = "tracks.jsonl"
DATE = "1970_01_01"
# What the layouts put into their folder.
WRITTEN = {
    "object": (
        "training/velodyne/??????.bin",
        "training/calib/??????.txt",
        "training/label_2/??????.txt",
        "training/road/??????.png",
        f"training/road/{GRID_FILE}",
        f"training/{TRACKS_FILE}",
        "ImageSets/val.txt",
    ),
    "raw": (
        f"{DATE}/calib_*.txt",
        f"{DATE}/{DATE}_drive_????_sync/velodyne_points/timestamps.txt",
        f"{DATE}/{DATE}_drive_????_sync/velodyne_points/data/??????????.bin",
        f"{DATE}/{DATE}_drive_????_sync/road/??????????.png",
        f"{DATE}/{DATE}_drive_????_sync/road/{GRID_FILE}",
        f"{DATE}/{DATE}_drive_????_sync/{TRACKS_FILE}",
    ),
}


def write_object(out: Path, drive: Iterable[DriveFrame]) -> None:
    """Writes frames in KITTI object layout."""
    root = out / "training"
    folders = {name: _made(root / name) for name in ("velodyne", "calib", "label_2", "road")}
    tracks, ids = "", ""
    for found in drive:
        frame = found.frame
        assert frame.calibration, "simulated frames have a camera"
        write_whole(folders["velodyne"] / f"{frame.id}.bin", frame.points.tobytes())
        write_object_calibration(folders["calib"] / f"{frame.id}.txt", frame.calibration)
        write_whole(folders["label_2"] / f"{frame.id}.txt", format_labels(found.labels))
        write_road(folders["road"], frame.id, found.road)
        tracks += _line(frame.id, found)
        ids += f"{frame.id}\n"
    write_whole(root / TRACKS_FILE, tracks)
    write_whole(_made(out / "ImageSets") / "val.txt", ids)


def write_raw(out: Path, drive: Iterable[DriveFrame]) -> None:
    """Writes frames in KITTI raw layout. It has no object labels; boxes are in the tracks."""
    date = _made(out / DATE)
    for world, frames in groupby(drive, key=lambda found: found.world):
        root = date / f"{DATE}_drive_{world:04d}_sync"
        data, road = _made(root / "velodyne_points" / "data"), _made(root / "road")
        tracks, stamps = "", ""
        for number, found in enumerate(frames):
            frame_id = f"{number:010d}"
            write_whole(data / f"{frame_id}.bin", found.frame.points.tobytes())
            write_road(road, frame_id, found.road)
            tracks += _line(frame_id, found)
            stamps += f"{_moment(found.frame.stamp_ns or 0)}\n"
        assert found.frame.calibration, "simulated frames have a camera"
        write_raw_calibration(date, found.frame.calibration)
        write_whole(data.parent / "timestamps.txt", stamps)
        write_whole(root / TRACKS_FILE, tracks)


LAYOUTS: dict[str, Callable[[Path, Iterable[DriveFrame]], None]] = {"object": write_object, "raw": write_raw}


def clear_layout(out: Path, layout: str) -> None:
    """Removes a drive from its folder, and the folders that are empty then; other files stay."""
    for pattern in WRITTEN.get(layout, ()):
        for path in out.glob(pattern):
            path.unlink()
    for folder in sorted((path for path in out.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()


def track_record(frame_id: str, found: DriveFrame) -> dict[str, Any]:
    """A frame's line of ``tracks.jsonl``: its pose, and the objects within range all round.

    Keys as in the records of detections: ``frame``, ``stamp_ns``, ``boxes`` (frame of the sensor, where the beam met
    them; columns are those of `detector.types`), ``labels`` (class names). Beside them ``world_from_lidar``, 4 rows of
    the pose in the frame of the world; ``world``, its number, because a pose or a track id means something within one
    world only; and for each box ``track_ids``, ``hits`` (points on it) and ``visible`` (share of its beams that nothing
    blocks).
    """
    frame, objects = found.frame, found.objects
    assert frame.pose is not None, "simulated frames have a pose"
    return {
        "frame": frame_id,
        "stamp_ns": frame.stamp_ns,
        "world": found.world,
        "world_from_lidar": _rounded(frame.pose, 9),
        "boxes": _rounded(objects.boxes, 4),
        "labels": list(objects.kinds),
        "track_ids": objects.track_ids.tolist(),
        "hits": objects.hits.tolist(),
        "visible": _rounded(objects.visible, 3),
    }


def _line(frame_id: str, found: DriveFrame) -> str:
    return json.dumps(track_record(frame_id, found)) + "\n"


def _rounded(values: NDArray[Any], digits: int) -> Any:
    """Plain lists of numbers, without negative zeros."""
    return (values.round(digits) + 0.0).tolist()


def _moment(stamp_ns: int) -> str:
    """A line of KITTI's ``timestamps.txt``, UTC."""
    seconds, rest = divmod(stamp_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
