"""How the simulator's CPU kernels are compiled, and where their machine code is kept between runs.

They are kept as those of `kernels.jit`, by the sources of this package.

Numba counts references to arrays wherever a function takes one apart, and all threads count on the same numbers; a
call with twenty arrays in tuples copies them all. Together that made four fifths of a sweep. So what runs for every
ray is inlined into a function that runs for a column, without Numba's run time, which does the counting.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from kernels.jit import cache_of, kept_in


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
    with kept_in(cache_of(Path(__file__).parent)):
        return numba.njit(nogil=True, error_model="numpy", cache=True, parallel=True)(function)
