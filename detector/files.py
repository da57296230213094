"""Files that appear whole or not at all, that grow line by line, and that are read only if they are small."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from detector.errors import OutputError

LEFTOVERS = ".????????.part"  # what a killed process may leave of `write_whole`
ADVICE = "free some space or choose another folder, then run it again (`detect` with --resume goes on where it stopped)"


@contextmanager
def told_by_name(path: Path) -> Iterator[None]:
    """Errors of the operating system while ``path`` is written become an `OutputError` that names it."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); {ADVICE}") from error


def partial_path(path: Path) -> Path:
    """Where a file is written before it gets its name: hidden, beside it, and no longer than file systems allow."""
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.part")


def write_whole(path: Path, content: str | bytes, durable: bool = False) -> None:
    """Writes a file through a temporary one beside it, so that no reader ever sees half of it.

    Args:
        path: the file.
        content: text is written as UTF-8.
        durable: wait until it would survive a power cut, some milliseconds.

    Raises:
        OutputError: if the folder cannot be written or the disk is full; the old file is then untouched.
    """
    partial = partial_path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    with told_by_name(path):
        try:
            partial.unlink(missing_ok=True)  # of a killed run; or a link that somebody put there
            with partial.open("xb") as stream:
                stream.write(data)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(partial, path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        if durable:
            sync_folder(path.parent)


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Writes ``value`` as indented JSON, whole."""
    write_whole(path, json.dumps(value, indent=1) + "\n", durable)


def sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the file system can say so."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LineFile:
    """A file that grows by whole lines: one that cannot be written whole, because the disk is full, is taken back.

    Args:
        path: an existing file.

    Raises:
        OutputError: if it cannot be written; also from the methods.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with told_by_name(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._size = os.fstat(self._descriptor).st_size

    def append(self, line: str) -> None:
        """Writes a line, which ends with a newline. A killed process leaves a torn line at most at the end."""
        data = line.encode("utf-8")
        with told_by_name(self._path):
            try:
                written = 0
                while written < len(data):
                    written += os.write(self._descriptor, data[written:])
            except BaseException:  # Ctrl-C too
                os.ftruncate(self._descriptor, self._size)
                raise
        self._size += len(data)

    def close(self, path: Path) -> None:
        """Gives the file its final name, when it is on the disk."""
        with told_by_name(path):
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            os.replace(self._path, path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing in a folder while the ``with`` body runs; a killed process keeps nobody out.

    Raises:
        OutputError: if another process writes there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{folder}: another run writes here; wait for its end, or choose another OUT") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def read_small(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file that is not larger than it should be: no pipe, no device, no 10 GB of text.

    Raises:
        OSError: if it cannot be read, or is something else.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no regular file")
    with path.open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"{max(status.st_size, len(content))} bytes, expected at most {max_bytes}")
    return content


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a small regular file in UTF-8, with or without a byte order mark; what is none becomes U+FFFD.

    Raises:
        OSError: as `read_small`.
    """
    return read_small(path, max_bytes).decode("utf-8-sig", "replace")
