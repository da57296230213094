"""`spread_cells`: one channel of a coarse map to finer cells, 0 where nothing rises high enough.

Equation, ``s`` fine cells along the side of a coarse one::

    out[r, c] = source[r // s, c // s, channel]    if there are no heights, or height[r, c] >= least
    out[r, c] = 0                                  elsewhere
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream
from kernels.op import CudaKernel, Exact, Op

Float32 = NDArray[np.float32]


def spread_cells_reference(
    source: Float32, channel: int, out: Float32, height: Float32 | None = None, least: float = 0.0
) -> Float32:
    """The equation in NumPy. Arguments and result as in `spread_cells`, but ``out`` is left alone."""
    side = out.shape[0] // source.shape[0]
    found = np.kron(source[:, :, channel], np.ones((side, side), np.float32))
    return found if height is None else np.where(height >= np.float32(least), found, np.float32(0))


def _spread(source: Any, channel: Any, height: Any, limited: Any, least: Any, out: Any, first: Any, step: Any) -> None:
    """Every ``step``-th cell from ``first`` on."""
    cols, side = out.shape[1], out.shape[0] // source.shape[0]
    for cell in range(first, out.shape[0] * cols, step):
        row, col = cell // cols, cell % cols
        if limited and not height[row, col] >= least:
            out[row, col] = 0
        else:
            out[row, col] = source[row // side, col // side, channel]


_spread_cpu = cpu_kernel()(_spread)
_spread_on_device = cuda.jit(device=True, inline="always")(_spread)


@cuda.jit
def _spread_cuda(source: Any, channel: Any, height: Any, limited: Any, least: Any, out: Any) -> None:
    """One cell per thread."""
    _spread_on_device(source, channel, height, limited, least, out, cuda.grid(1), cuda.gridsize(1))


def spread_cells(source: Any, channel: int, out: Any, height: Any | None = None, least: float = 0.0) -> Any:
    """Spreads a channel over the cells of ``out``, in place.

    Args:
        source: (rows, cols, channels) float32, contiguous.
        channel: which of them.
        out: (s * rows, s * cols) float32, contiguous.
        height: (s * rows, s * cols) float32, contiguous; None: every cell counts.
        least: cells of less height become 0.

    Returns:
        ``out``.

    Raises:
        TypeError: if an array is not float32, or they are not in one place.
        ValueError: if a shape is wrong, or there is no such channel.
    """
    limited = height is not None
    height = height if limited else out
    device = on_device(source, out, height)
    check_array("source", source, np.float32, ("rows", "cols", "channels"))
    side = out.shape[0] // max(source.shape[0], 1)
    check_array("out", out, np.float32, (side * source.shape[0], side * source.shape[1]))
    check_array("height", height, np.float32, tuple(out.shape))
    if not 0 <= channel < source.shape[2] or side < 1:
        raise ValueError(
            f"channel {channel} of {source.shape} to {out.shape}; expected one of its channels, to more cells"
        )
    arguments = (source, channel, height, limited, np.float32(least), out)
    if device:
        _spread_cuda[blocks(), THREADS, stream()](*arguments)
    else:
        _spread_cpu(*arguments, 0, 1)
    return out


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    shape = (5, 4) if scale == "small" else (88, 100)
    fine = (2 * shape[0], 2 * shape[1])
    return {
        "source": rng.random((*shape, 2), np.float32),
        "channel": 1,
        "out": np.full(fine, 5, np.float32),
        "height": rng.choice(np.array([-1, 0, 0.1, 0.6], np.float32), fine),
        "least": 0.1,
    }


def _make_unlimited(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    return {**_make_inputs(rng, scale), "channel": 0, "height": None}


_MAP = "float32[:,::1]"
_CUDA = (CudaKernel(_spread_cuda, f"void(float32[:,:,::1], int64, {_MAP}, boolean, float32, {_MAP})"),)
OPS = (
    Op(
        name="spread_cells",
        function=spread_cells,
        reference=spread_cells_reference,
        make_inputs=_make_inputs,
        equality=Exact(),
        cuda=_CUDA,
        summary="one channel of a coarse map to finer cells, 0 where nothing rises high enough",
    ),
    Op(
        name="spread_cells_everywhere",
        function=spread_cells,
        reference=spread_cells_reference,
        make_inputs=_make_unlimited,
        equality=Exact(),
        cuda=_CUDA,
        summary="the same, at any height",
    ),
)
