"""Checks of the disk: the folder where compiled kernels and tuning are kept."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from detector.doctor import Finding, State

LEAST_FREE_MB = 500  # compiled kernels take some 50
MOST_OLD_MB = 1000


def check_disk(config: str) -> Iterator[Finding]:
    """Whether the cache can be written, what old versions left in it, how much room there is."""
    from kernels.jit import cache_folder, cache_home, is_compiled

    home = cache_home()
    compiled = "kernels are compiled" if is_compiled() else "kernels are not compiled yet: the first run takes longer"
    if not can_be_written(home):
        advice = "kernels compile at every start: set ROADBLOCKS_CACHE to a folder that can be written"
        yield Finding("disk", "cache", f"{home} cannot be written", State.WARNING, advice)
        return
    yield Finding("disk", "cache", f"{home}: {compiled}")
    free_mb = shutil.disk_usage(_existing(home)).free / 1e6
    few = free_mb < LEAST_FREE_MB
    advice = f"less than {LEAST_FREE_MB} MB: make room, or set ROADBLOCKS_CACHE to another disk" if few else ""
    yield Finding("disk", "free", f"{free_mb / 1e3:.1f} GB", State.WARNING if few else State.OK, advice)
    prefix = cache_folder().name.split("-")[0]
    old = [folder for folder in home.glob(f"{prefix}-*") if folder != cache_folder()]
    old_mb = sum(file.stat().st_size for folder in old for file in folder.rglob("*") if file.is_file()) / 1e6
    if old_mb > MOST_OLD_MB:
        advice = f"they can be deleted: {home}/{prefix}-*"
        yield Finding("disk", "old kernels", f"{len(old)} versions, {old_mb:.0f} MB", State.WARNING, advice)


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, or it can be made itself; leaves nothing behind."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return os.access(_existing(folder), os.W_OK)
    except OSError:
        return False


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
