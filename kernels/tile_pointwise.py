"""`tile_pointwise`: what looks at one cell only, where tiles are active, from map to map.

Equation, for every cell (i, j) of ``out`` that lies in an active tile and inside the map, and every channel k of x::

    y[n, i, j, k] = scale[k] * x[n, i // upsample, j // upsample, k] + shift[k] + residual[n, i, j, k]
    out[n, i, j, first_channel + k] = act(y[n, i, j, k])                act: nothing, ReLU or 1 / (1 + exp(-y))

multiplied and added in float32, in this order. Other cells, and other channels of ``out``, keep their values. This is
batch normalisation, activation and addition; concatenation, by one call for each part; and nearest-neighbour
upsampling by a whole number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream, to_device
from kernels.op import Close, CudaKernel, Exact, Inputs, Op
from kernels.tile_conv import active_cells
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles

Float32 = NDArray[np.float32]
Pair = tuple[int, int]

ACTIVATIONS = ("none", "relu", "sigmoid")
_RELU, _SIGMOID = (ACTIVATIONS.index(name) for name in ("relu", "sigmoid"))


def tile_pointwise_reference(
    x: NDArray[Any],
    tiles: ActiveTiles,
    out: NDArray[Any],
    *,
    scale: Float32 | None = None,
    shift: Float32 | None = None,
    residual: NDArray[Any] | None = None,
    activation: str = "none",
    upsample: int = 1,
    first_channel: int = 0,
) -> NDArray[Any]:
    """The equation in NumPy. Arguments and result as in `tile_pointwise`, but ``out`` is left alone."""
    repeated = x.repeat(upsample, 1).repeat(upsample, 2)[:, : out.shape[1], : out.shape[2]]
    y = repeated.astype(np.float32)
    if scale is not None:
        y = scale * y
    if shift is not None:
        y = y + shift
    if residual is not None:
        y = y + residual.astype(np.float32)
    if activation == "relu":
        y = np.maximum(y, 0)
    if activation == "sigmoid":
        with np.errstate(over="ignore"):
            y = (1 / (1 + np.exp(-y.astype(np.float64)))).astype(np.float32)
    result, cells = out.copy(), active_cells(tiles, out.shape)
    result[..., first_channel : first_channel + x.shape[3]][cells] = y[cells]
    return result


def _activate(value: Any, activation: Any) -> Any:
    """The activation of one float32; NaN stays NaN."""
    if activation == _RELU:
        return np.float32(0) if value < np.float32(0) else value
    if activation == _SIGMOID:
        power = np.float32(math.exp(-abs(value)))  # at most 1, so that nothing overflows
        share = np.float32(1) / (np.float32(1) + power)
        return power * share if value < np.float32(0) else share
    return value


_activate_cpu = cpu_kernel()(_activate)
_activate_cuda = cuda.jit(device=True, inline="always")(_activate)


@cpu_kernel()
def _cell(
    x: Float32, scale: Float32, shift: Float32, add: bool, residual: Float32, activation: int, out: Float32
) -> None:
    """One cell; nothing in its loops depends on a choice, so that each runs on many channels at a time."""
    if add:
        for k in range(x.shape[0]):
            out[k] = scale[k] * x[k] + shift[k] + residual[k]
    else:
        for k in range(x.shape[0]):
            out[k] = scale[k] * x[k] + shift[k]
    if activation == _RELU:
        for k in range(x.shape[0]):
            out[k] = _activate_cpu(out[k], _RELU)
    elif activation == _SIGMOID:
        for k in range(x.shape[0]):
            out[k] = _activate_cpu(out[k], _SIGMOID)


@cpu_kernel(parallel=True)
def _tile_pointwise_cpu(
    x: Float32,
    index: NDArray[np.int32],
    size: Pair,
    stride: Pair,
    offset: Pair,
    scale: Float32,
    shift: Float32,
    add: bool,
    residual: Float32,
    activation: int,
    upsample: int,
    first_channel: int,
    out: Float32,
) -> None:
    for m in prange(index.shape[0]):
        n, top, left = index[m, 0], offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        for i in range(max(top, 0), min(top + size[0], out.shape[1])):
            for j in range(max(left, 0), min(left + size[1], out.shape[2])):
                source, target = x[n, i // upsample, j // upsample], out[n, i, j, first_channel:]
                _cell(source, scale, shift, add, residual[n, i, j], activation, target)


@cuda.jit
def _tile_pointwise_cuda(
    x: Any,
    index: Any,
    count: Any,
    size: Any,
    stride: Any,
    offset: Any,
    scale: Any,
    shift: Any,
    add: Any,
    residual: Any,
    activation: Any,
    upsample: Any,
    first_channel: Any,
    out: Any,
) -> None:
    """One tile per thread block at a time; neighbouring threads work on neighbouring channels."""
    channels = x.shape[3]
    width = size[1] * channels
    for m in range(cuda.blockIdx.x, count[0], cuda.gridDim.x):
        n = index[m, 0]
        top, left = offset[0] + stride[0] * index[m, 1], offset[1] + stride[1] * index[m, 2]
        for element in range(cuda.threadIdx.x, size[0] * width, cuda.blockDim.x):
            row, rest = element // width, element % width
            i, j, k = top + row, left + rest // channels, rest % channels
            if 0 <= n < out.shape[0] and 0 <= i < out.shape[1] and 0 <= j < out.shape[2]:
                value = scale[k] * np.float32(x[n, i // upsample, j // upsample, k]) + shift[k]
                if add:
                    value += np.float32(residual[n, i, j, k])
                out[n, i, j, first_channel + k] = _activate_cuda(value, activation)


@cache
def _constant(channels: int, value: float, device: bool) -> Any:
    """A scale or shift that changes nothing; kept, because a frame should allocate nothing."""
    array = np.full(channels, value, np.float32)
    return to_device(array) if device else array


def tile_pointwise(
    x: Any,
    tiles: ActiveTiles | DeviceTiles,
    out: Any,
    *,
    scale: Any | None = None,
    shift: Any | None = None,
    residual: Any | None = None,
    activation: str = "none",
    upsample: int = 1,
    first_channel: int = 0,
) -> Any:
    """Scales, shifts, adds, activates, repeats and concatenates where tiles are active, in place in ``out``.

    Args:
        x: (N, H, W, C) float32 map; on the device also float16, then with arithmetic in float32.
        tiles: active tiles of ``out``, each once; they may not overlap.
        out: (N, rows, cols, K) map of x's dtype with rows <= H * upsample, cols <= W * upsample and
            K >= first_channel + C. It may be x or the residual itself if all have one shape and ``upsample`` is 1.
        scale: (C,) float32 factors; None stands for 1.
        shift: (C,) float32 terms; None stands for 0.
        residual: (N, rows, cols, C) map of x's dtype that is added before the activation; or None.
        activation: one of `ACTIVATIONS`.
        upsample: cells of ``out`` along a side of one cell of x.
        first_channel: channel of ``out`` where x's first channel goes.

    Returns:
        ``out``.

    Raises:
        TypeError: if a dtype is wrong, or arrays and tiles are not in one place.
        ValueError: if a shape, the activation or a number does not fit, an array is not contiguous, ``out`` shares
            memory with an array where it may not, tiles overlap, or they name an image that the maps do not have.
    """
    given = [array for array in (scale, shift, residual) if array is not None]
    device = on_device(x, tiles.index, out, *given)
    _check_shapes(x, out, scale, shift, residual, upsample, first_channel, device)
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    _check_sharing(x, out, given, upsample, device)
    spec = tiles.spec
    if spec.overlapping:
        raise ValueError(f"tiles of {spec.size} cells every {spec.stride} overlap; expected none to")
    if isinstance(tiles, ActiveTiles):
        tiles.check_images(x.shape[0])
    arguments = (
        *(spec.size, spec.stride, spec.offset),
        _constant(x.shape[3], 1, device) if scale is None else scale,
        _constant(x.shape[3], 0, device) if shift is None else shift,
        residual is not None,
        out if residual is None else residual,  # not read where there is none
        *(ACTIVATIONS.index(activation), upsample, first_channel, out),
    )
    if isinstance(tiles, DeviceTiles):
        _tile_pointwise_cuda[blocks(), THREADS, stream()](x, tiles.index, tiles.count, *arguments)
    else:
        _tile_pointwise_cpu(x, tiles.index, *arguments)
    return out


def _check_shapes(
    x: Any, out: Any, scale: Any, shift: Any, residual: Any, upsample: int, first_channel: int, device: bool
) -> None:
    check_array("x", x, [np.float32, np.float16] if device else np.float32, ("N", "H", "W", "C"))
    check_array("out", out, x.dtype, (x.shape[0], "rows", "cols", "K"))
    _, rows, cols, channels = x.shape
    for name, array in (("scale", scale), ("shift", shift)):
        if array is not None:
            check_array(name, array, np.float32, (channels,))
    if residual is not None:
        check_array("residual", residual, x.dtype, (*out.shape[:3], channels))
    if upsample < 1 or first_channel < 0:
        raise ValueError(f"upsample {upsample}, first channel {first_channel}; expected at least 1 and at least 0")
    if out.shape[1] > rows * upsample or out.shape[2] > cols * upsample or out.shape[3] < first_channel + channels:
        raise ValueError(
            f"out has shape {tuple(out.shape)}, expected at most {rows * upsample} rows and {cols * upsample} columns "
            f"and at least {first_channel + channels} channels"
        )


def _check_sharing(x: Any, out: Any, given: list[Any], upsample: int, device: bool) -> None:
    """Refuses ``out`` in the memory of another array, unless each cell is then read before it is written."""
    for array in (x, *given):
        same = array is out and x.shape == out.shape and upsample == 1
        if not same and (array is out if device else np.may_share_memory(array, out)):
            raise ValueError(
                f"out shares memory with an array of shape {tuple(array.shape)}, upsample {upsample}; "
                "expected a map of its own, or the input or residual itself, all of one shape, and upsample 1"
            )
    if not device and not all(array.flags.c_contiguous for array in (x, out, *given)):
        raise ValueError("an array is not contiguous; expected C order without gaps (numpy.ascontiguousarray)")


def _make_inputs(**chosen: Any) -> Callable[[np.random.Generator, str], Inputs]:
    """An input maker: on a frame, a map of 64 channels at /4 with 10 % of its tiles; ``residual=True`` draws one."""

    def make(rng: np.random.Generator, scale: str) -> Inputs:
        upsample, first, small = chosen.get("upsample", 1), chosen.get("first_channel", 0), scale == "small"
        images, rows, cols, channels, tile = (2, 9, 10, 5, 4) if small else (1, 176, 200, 64, 8)
        out = rng.standard_normal((images, rows, cols, channels + 2 * first), np.float32)
        inputs = {
            **chosen,
            "x": rng.standard_normal((images, -(-rows // upsample), -(-cols // upsample), channels), np.float32),
            "tiles": random_tiles(rng, TileSpec.covering((rows, cols), tile), 0.5 if small else 0.1, images),
            "out": out,
        }
        if chosen.get("residual"):
            return {**inputs, "residual": rng.standard_normal((images, rows, cols, channels), np.float32)}
        if chosen.get("activation") == "relu":
            inputs["scale"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
            inputs["shift"] = rng.standard_normal(channels, np.float32)
        return inputs

    return make


def _cuda(number: str) -> CudaKernel:
    """The CUDA kernel for maps of float32 or float16."""
    pair, numbers, a_map = "UniTuple(int64, 2)", "float32[::1]", f"{number}[:,:,:,::1]"
    arrays = f"{a_map}, int32[:,::1], int32[::1], {pair}, {pair}, {pair}, {numbers}, {numbers}, boolean, {a_map}"
    return CudaKernel(_tile_pointwise_cuda, f"void({arrays}, int64, int64, int64, {a_map})")


OPS = tuple(
    Op(
        name=f"tile_pointwise_{name}",
        function=tile_pointwise,
        reference=tile_pointwise_reference,
        make_inputs=_make_inputs(**chosen),
        equality=equality,
        cuda=(_cuda("float32"), _cuda("float16")),
        summary=summary,
    )
    for name, chosen, equality, summary in (
        (
            "scale_relu",
            {"activation": "relu"},
            Close(1e-6, "CUDA may multiply and add with one rounding"),
            "batch normalisation and ReLU where tiles are active",
        ),
        (
            "add_sigmoid",
            {"residual": True, "activation": "sigmoid"},
            Close(1e-6, "exponentials differ in their last digits"),
            "sum of two maps and sigmoid where tiles are active",
        ),
        (
            "upsample_concat",
            {"upsample": 2, "first_channel": 3},
            Exact(),
            "nearest-neighbour upsampling into some channels where tiles are active",
        ),
    )
)
