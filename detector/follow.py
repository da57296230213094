"""`GrowingFolder`: the point files of a folder that somebody writes to, each when it is complete."""

from __future__ import annotations

from pathlib import Path

from detector.errors import SourceError
from detector.point_files import BYTES_PER_POINT
from detector.point_paths import POINT_FOLDERS, is_point_file
from detector.sources import FrameFile, open_folder

LOOK_S = 0.02  # between two looks at the folder
SETTLE_S = 0.05  # a file that could be whole is so once it has not changed for this long
PATIENCE_S = 1.0  # an empty file, or one that ends within a point, is handed out as it is after this long


class GrowingFolder:
    """Looks at a folder again and again. Polling works on every file system, network ones included.

    Files come in the order of their names, each once: a file waits for those before it that are still being written.
    The safe way to write is to another name, hidden or without a suffix of point files, and to rename when done;
    other files are taken for complete as `SETTLE_S` and `PATIENCE_S` say.

    Args:
        path: a folder of point files, perhaps still empty, or of a KITTI layout.

    Raises:
        SourceError: if it is no folder, or holds several recordings.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise SourceError(f"{path}: is no folder; expected one to follow, in which point files appear")
        folders = [folder for pattern in POINT_FOLDERS for folder in path.glob(pattern) if folder.is_dir()]
        if len(folders) > 1:
            raise SourceError(f"{path}: holds {len(folders)} recordings; expected one to follow, name its folder")
        self._folder = (folders or [path])[0].absolute()
        self._handed: set[str] = set()
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}

    def look(self, now_s: float) -> tuple[FrameFile, ...]:
        """The frames that have become complete since the last look, sorted by name.

        Args:
            now_s: time of this look, of any clock that never goes back [s].

        Raises:
            SourceError: if the folder cannot be read any more.
        """
        try:
            new = sorted(path for path in self._folder.iterdir() if path.name not in self._handed)
        except OSError as error:
            raise SourceError(f"{self._folder}: cannot be read ({error.strerror}); expected it to stay") from error
        files = [path for path in new if is_point_file(path)]
        is_complete = [self._is_complete(path, now_s) for path in files]  # all of them: they settle side by side
        complete = files[: [*is_complete, False].index(False)]
        if not complete:
            return ()
        for path in complete:
            self._handed.add(path.name)
            del self._seen[path.name]
        return open_folder(self._folder, complete).frames

    def _is_complete(self, path: Path, now_s: float) -> bool:
        try:
            status = path.stat()
            state = (status.st_size, status.st_mtime_ns)
        except OSError:  # gone again, or a link to nowhere
            state = (0, 0)
        before, since_s = self._seen.get(path.name, (None, now_s))
        if state != before:
            since_s = now_s
            self._seen[path.name] = (state, since_s)
        whole = state[0] > 0 and (path.suffix.lower() != ".bin" or state[0] % BYTES_PER_POINT == 0)
        return now_s - since_s >= (SETTLE_S if whole else PATIENCE_S)
