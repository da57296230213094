"""From a path to point files: folders of known layouts, plain folders, glob patterns, single files."""

from __future__ import annotations

import logging
from glob import has_magic
from itertools import chain
from pathlib import Path

from detector.errors import SourceError
from detector.point_files import POINT_SUFFIXES

log = logging.getLogger("roadblocks")

# Where point files lie below a folder of a known layout; "*" is a drive, "*/*" a drive of a date.
POINT_FOLDERS = (
    "velodyne",
    "training/velodyne",
    "testing/velodyne",
    "velodyne_points/data",
    "*/velodyne_points/data",
    "*/*/velodyne_points/data",
)
EXPECTED = f"a KITTI object or raw folder, a folder or glob of {'/'.join(POINT_SUFFIXES)} files, or one such file"


def find_point_files(path: Path) -> list[Path]:
    """The point files that one path or glob pattern names; at least one, in no particular order.

    Args:
        path: absolute.

    Raises:
        SourceError: if there is none.
    """
    try:
        if path.is_dir():
            files, found = _files_in(path), f"holds {_listing(path)}"
        elif path.exists() or path.is_symlink():
            files, found = [path] if is_point_file(path) else [], "is another kind of file"
        elif has_magic(str(path)):
            matches = _matches(path)
            files = [match for match in matches if is_point_file(match)]
            # A pattern of folders means what is in them.
            files = files or [file for match in matches if match.is_dir() for file in _files_in(match)]
            found = f"matches {len(matches)} paths"
        else:
            files, found = [], "does not exist"
    except OSError as error:
        files, found = [], f"cannot be read ({error.strerror})"
    if not files:
        raise SourceError(f"{path}: {found}; expected {EXPECTED}. Name the folder of a recording")
    return files


def _files_in(path: Path) -> list[Path]:
    """The point files of a folder: of the known layouts below it, or else its own."""
    root = path.parent if path.name == "velodyne_points" else path
    matches = chain.from_iterable(sorted(root.glob(pattern)) for pattern in POINT_FOLDERS)
    folders = [folder for folder in matches if folder.is_dir()] or [path]
    files = []
    for folder in folders:
        found = [file for file in folder.iterdir() if is_point_file(file)]
        if not found and folder != path:
            log.warning("%s: holds no point files", folder)
        files += found
    return files


def _listing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir())
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _matches(pattern: Path) -> list[Path]:
    """What a glob pattern matches. pathlib's ``**`` does not enter links to folders: loops of them end."""
    parts = pattern.parts
    first = next(index for index, part in enumerate(parts) if has_magic(part))
    try:
        return sorted(Path(*parts[:first]).glob("/".join(parts[first:])))
    except ValueError as error:
        raise SourceError(f"{pattern}: no glob pattern ({error}); expected e.g. 'drive/**/*.bin'") from error


def is_point_file(path: Path) -> bool:
    """Whether a path is taken for a point file: by its name, and no folder.

    A link to nowhere counts, so that the missing frame is told, and hidden files do not.
    """
    return path.suffix.lower() in POINT_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
