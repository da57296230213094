"""How CPU kernels are compiled, and where their machine code is kept between runs.

Numba's own cache forgets a function when its file changes, but not when a function that was inlined into it changes in
another file. So the cache folder is named after the sources of this whole package: an update never runs old code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba


def cache_folder() -> Path:
    """Where the compiled kernels of this package are kept."""
    return cache_of(Path(__file__).parent)


@cache
def cache_of(package: Path) -> Path:
    """Where what is compiled from the sources of a package is kept."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(package.glob("*.py")):
        digest.update(path.read_bytes())
    return cache_home() / f"{package.name}-{digest.hexdigest()[:16]}"


def cache_home() -> Path:
    """Folder of everything that is kept between runs: ``ROADBLOCKS_CACHE``, else the user's cache folder."""
    own = os.environ.get("ROADBLOCKS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "roadblocks"


def is_compiled() -> bool:
    """Whether an earlier run left compiled kernels, so that this one starts at once."""
    return any(cache_folder().rglob("*.nbi"))


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """What Numba decorates in the ``with`` body keeps its machine code in a folder."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def cpu_kernel(*, parallel: bool = False, inline: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Decorator of every CPU kernel: compiled for this CPU at its first call, then cached; it releases the GIL.

    Args:
        parallel: ``prange`` runs on all threads.
        inline: the code is put into its callers; such a function has no cache of its own.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        with kept_in(cache_folder()):
            return numba.njit(
                nogil=True,
                error_model="numpy",
                cache=not inline,
                parallel=parallel,
                inline="always" if inline else "never",
            )(function)

    return decorate
