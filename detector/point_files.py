"""Readers of point files: KITTI's .bin, and .pcd and .ply through Open3D.

Whatever the file, the result has the form that `detector.types.Frame` wants, or is a `FrameError` that names the file.
What the values say is checked there.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import FrameError, FrameFault, MissingExtraError
from detector.frame_checks import check_count

Float32 = NDArray[np.float32]

POINT_SUFFIXES = (".bin", ".pcd", ".ply")
BYTES_PER_POINT = 16
INTENSITY_NAMES = ("intensity", "reflectance", "reflectivity", "scalar_intensity")
MAX_HEADER_BYTES = 65_536
MAX_FIELDS = 1000
CHUNK_BYTES = 1 << 20
PLY_TYPES = {
    1: b"char uchar int8 uint8",
    2: b"short ushort int16 uint16",
    4: b"int uint float int32 uint32 float32",
    8: b"double float64",
}
PLY_BYTES = {name: size for size, names in PLY_TYPES.items() for name in names.split()}
OPEN3D_LIBRARIES = "libusb-1.0-0 libegl1 libgl1 libx11-6 libudev1 libidn2-0"


def read_points(path: Path) -> Float32:
    """The points of one file, for a `Frame`.

    Args:
        path: a .bin (float32 x, y, z, intensity), .pcd or .ply file; coordinates in metres, LiDAR frame.

    Returns:
        (N, 4) float32, columns x, y, z [m, LiDAR frame] and intensity, values as in the file; N may be 0.

    Raises:
        FrameError: if the file cannot be read, is truncated or too large.
        MissingExtraError: if a .pcd or .ply file needs Open3D and it cannot be imported.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror}); expected a point file") from error
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device would wait for ever
        raise FrameError(f"{path}: is no regular file; expected a point file ({', '.join(POINT_SUFFIXES)})")
    if path.suffix.lower() not in POINT_SUFFIXES:
        raise FrameError(f"{path}: unknown kind of file, expected {', '.join(POINT_SUFFIXES)}")
    try:
        return _read_bin(path, status.st_size) if path.suffix.lower() == ".bin" else _read_with_open3d(path)
    except OSError as error:
        raise FrameError(f"{path}: cannot be read ({error.strerror or error}); expected a point file") from error


def _read_bin(path: Path, num_bytes: int) -> Float32:
    if num_bytes % BYTES_PER_POINT:
        raise FrameError(
            f"{path}: {num_bytes} bytes, expected a multiple of {BYTES_PER_POINT}, float32 x y z intensity: "
            "the file is truncated or of another format; copy it again",
            FrameFault.TRUNCATED,
        )
    check_count(str(path), num_bytes // BYTES_PER_POINT)
    values = np.fromfile(path, "<f4")
    if values.nbytes != num_bytes:
        text = f"{path}: read {values.nbytes} bytes, expected {num_bytes}; is it still being written?"
        raise FrameError(text, FrameFault.TRUNCATED)
    return values.reshape(-1, 4).astype(np.float32, copy=False)


def _read_with_open3d(path: Path) -> Float32:
    """Points of a .pcd or .ply file; zeros where it holds no intensity."""
    header = _read_header(path)
    expected = header.num_points
    check_count(str(path), expected)
    if expected == 0:  # Open3D calls such a file broken; it is not
        return np.zeros((0, 4), np.float32)
    _check_complete(path, header)
    open3d = import_open3d(f"{path}: {path.suffix} files are read by Open3D")
    # Open3D tells of bad files on stdout, which may carry our JSON; the checks here tell us instead.
    with open3d.utility.VerbosityContextManager(open3d.utility.VerbosityLevel.Error):
        try:
            fields = open3d.t.io.read_point_cloud(str(path)).point
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise FrameError(f"{path}: Open3D cannot read it ({reason}); export it again") from error
    columns = {name.lower(): fields[name].numpy() for name in fields}
    positions = columns.get("positions", np.zeros((0, 3)))
    if positions.shape != (expected, 3):
        raise FrameError(
            f"{path}: {len(positions)} points could be read, expected the {expected} its header promises: "
            "the file is truncated or broken; copy it again",
            FrameFault.TRUNCATED,
        )
    points = np.zeros((expected, 4), np.float32)
    points[:, :3] = positions
    name = next((name for name in INTENSITY_NAMES if name in columns), None)
    if name is not None:
        points[:, 3] = columns[name].reshape(-1)
    return points


@dataclass(frozen=True)
class _Header:
    """What a .pcd or .ply header promises.

    Attributes:
        num_points: points.
        encoding: "ascii", "binary", "binary_little_endian", "binary_compressed", …
        num_fields: numbers per point.
        point_bytes: bytes per point in a binary file.
        body_offset: where the points start in the file, bytes.
    """

    num_points: int
    encoding: str
    num_fields: int
    point_bytes: int
    body_offset: int


def _read_header(path: Path) -> _Header:
    """The header of a .pcd or .ply file: their words differ, so one loop reads both."""
    with path.open("rb") as stream:
        lines = stream.read(MAX_HEADER_BYTES).splitlines(keepends=True)
    num_points, encoding, element, offset = -1, b"", b"", 0
    sizes: list[int] = []
    counts: list[int] = []
    try:
        for line in lines:
            offset += len(line)
            match line.split():
                case [b"POINTS", number]:
                    num_points = int(number)
                case [b"SIZE", *numbers]:
                    sizes = [int(number) for number in numbers]
                case [b"COUNT", *numbers]:
                    counts = [int(number) for number in numbers]
                # The name is bound whatever the guard says: later properties belong to that element.
                case [b"element", element, number] if element == b"vertex":
                    num_points = int(number)
                case [b"property", kind, _] if element == b"vertex":
                    sizes.append(PLY_BYTES[kind])
                case [b"format", encoding, _]:
                    pass
                case [b"DATA", encoding]:
                    break
                case [b"end_header"]:
                    break
        counts = counts or [1] * len(sizes)
        if num_points < 0 or not sizes or not encoding:
            raise ValueError("number of points, their fields or encoding are not told")
        sensible = set(sizes) <= set(PLY_TYPES) and len(counts) == len(sizes)
        if not sensible or min(counts) < 1 or sum(counts) > MAX_FIELDS:
            raise ValueError("the sizes or counts of its fields make no sense")
    except (ValueError, KeyError) as error:
        raise FrameError(f"{path}: no header of a {path.suffix} file ({error}); export it again") from error
    point_bytes = sum(size * count for size, count in zip(sizes, counts, strict=True))
    return _Header(num_points, encoding.decode("ascii", "replace"), sum(counts), point_bytes, offset)


def _check_complete(path: Path, header: _Header) -> None:
    """Refuses truncated files: Open3D fills the points that are missing with whatever was in memory."""
    if header.encoding == "ascii":
        found, expected, unit = _count_words(path, header.body_offset), header.num_fields, "numbers"
    elif header.encoding == "binary_compressed":  # its body starts with its size, which Open3D checks
        return
    else:
        found, expected, unit = path.stat().st_size - header.body_offset, header.point_bytes, "bytes"
    if found < expected * header.num_points:
        raise FrameError(
            f"{path}: {found} {unit} after the header, expected {expected * header.num_points} "
            f"for {header.num_points} points: the file is truncated; copy it again",
            FrameFault.TRUNCATED,
        )


def _count_words(path: Path, offset: int) -> int:
    """Words of a text file from a byte on, read in pieces: its size is whatever somebody made it."""
    count, before = 0, b" "
    with path.open("rb") as stream:
        stream.seek(offset)
        while piece := stream.read(CHUNK_BYTES):
            space = np.frombuffer(before + piece, np.uint8) <= ord(" ")
            count += int(np.count_nonzero(space[:-1] & ~space[1:]))
            before = piece[-1:]
    return count


def import_open3d(need: str) -> Any:
    """The module open3d; ``need`` begins the error and says what it is wanted for.

    Raises:
        MissingExtraError: if it is not installed or cannot be loaded.
    """
    try:
        import open3d
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{need}, which is not installed ({error}): pip install 'roadblocks[viz]'") from error
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            f"{need}, which is installed but cannot be loaded ({error}): "
            f"a system library is missing; on Debian and Ubuntu: apt-get install {OPEN3D_LIBRARIES}"
        ) from error
    return open3d
