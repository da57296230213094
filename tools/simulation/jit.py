"""How the simulator's CPU kernels are compiled, and where their machine code is kept between runs.

As in `kernels.jit`: Numba's own cache does not notice that a function of another file, inlined here, has changed, so
the cache folder is named after the sources of this package.

Numba counts references to arrays wherever a function takes one apart, and all threads count on the same numbers; a
call with twenty arrays in tuples copies them all. Together that made four fifths of a sweep. So what runs for every
ray is inlined into a function that runs for a column, without Numba's run time, which does the counting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba

from kernels.jit import cache_home


@cache
def _cache_folder() -> Path:
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return cache_home() / f"simulation-{digest.hexdigest()[:16]}"


def ray_function(function: Callable[..., Any]) -> Any:
    """For what runs for every ray: put into its caller, which is no `cpu_kernel`. It cannot allocate."""
    return numba.njit(nogil=True, error_model="numpy", inline="always", _nrt=False)(function)


def column_function(function: Callable[..., Any]) -> Any:
    """For what runs for every column. It cannot allocate."""
    return numba.njit(nogil=True, error_model="numpy", _nrt=False)(function)


def block_function(function: Callable[..., Any]) -> Any:
    """For what one thread does at a time. It may allocate."""
    return numba.njit(nogil=True, error_model="numpy")(function)


def cpu_kernel(function: Callable[..., Any]) -> Any:
    """Compiles a kernel for all threads at its first call, then keeps it; it releases the GIL."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(_cache_folder())
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True, parallel=True)(function)
    finally:
        numba.config.CACHE_DIR = before
