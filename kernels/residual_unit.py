"""`residual_unit`: a whole residual unit where tiles are active, without leaving the cache.

Equation, with convolutions f_1 … f_L of stride 1 that keep the size, C channels in and out at the ends::

    h_0 = relu(scale * x + shift) inside the map, 0 outside          (pre-activation; without scale: h_0 = x)
    h_l = relu(conv(h_{l-1}, f_l)) inside the map, 0 outside         for l < L
    y   = conv(h_{L-1}, f_L) + x                                     out = y, or relu(y)

for the cells of active tiles; others keep their values. Every cell is as in the dense unit on the same x: the halo of
a tile is computed again inside it instead of being read from neighbours. One gather and one scatter for a whole unit
is where SBNet's gain came from (CVPR 2018, section 3.2). Unlike there, zeros stand outside the map after the
activation, as in a dense network, and out is another map than x: in place, tiles would read what others wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.filters import Filters
from kernels.launch import on_device
from kernels.op import Close, Inputs, Op
from kernels.residual_unit_cpu import residual_unit_cpu
from kernels.residual_unit_cuda import CUDA_KERNELS, residual_unit_cuda
from kernels.tile_conv import active_cells, dense_conv
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles
from kernels.unit import Unit
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]


def residual_unit_reference(x: Float32, unit: Unit, tiles: ActiveTiles, out: Float32) -> Float32:
    """The equation in NumPy. Arguments and result as in `residual_unit`, but ``out`` is left alone."""
    hidden = x.astype(np.float64)
    if unit.scale is not None and unit.shift is not None:
        hidden = np.maximum(hidden * unit.scale + unit.shift, 0)
    for layer in unit.layers[:-1]:
        hidden = np.maximum(dense_conv(hidden, layer, (x.shape[1], x.shape[2])), 0)
    y = dense_conv(hidden, unit.layers[-1], (x.shape[1], x.shape[2])) + x
    if unit.relu:
        y = np.maximum(y, 0)
    return np.where(active_cells(tiles, out.shape)[..., None], y, out).astype(np.float32)


def residual_unit(
    x: Any, unit: Unit, tiles: ActiveTiles | DeviceTiles, out: Any, workspace: Workspace | None = None
) -> Any:
    """Runs a residual unit where tiles are active, in place in ``out``.

    Args:
        x: (N, H, W, C) float32 map; on the device also float16.
        unit: its weights.
        tiles: active tiles; they may not overlap.
        out: map of x's shape and dtype, another one than x.
        workspace: scratch for the CPU kernel; None makes a new one.

    Returns:
        ``out``.

    Raises:
        TypeError: if a dtype is wrong, or arrays and tiles are not in one place.
        ValueError: if a shape is wrong, an array is not contiguous, x and out are one and the same, tiles overlap, or
            they name an image that the maps do not have.
    """
    device = on_device(x, out, tiles.index)
    check_array("x", x, [np.float32, np.float16] if device else np.float32, ("N", "H", "W", unit.channels))
    check_array("out", out, x.dtype, x.shape)
    if x is out:
        raise ValueError("out is also the input; expected a map of its own: tiles read their neighbours")
    if tiles.spec.overlapping:
        raise ValueError(f"tiles of {tiles.spec.size} cells every {tiles.spec.stride} overlap; expected none to")
    if isinstance(tiles, DeviceTiles):
        residual_unit_cuda(x, unit, tiles, out)
        return out
    if not (x.flags.c_contiguous and out.flags.c_contiguous):
        raise ValueError("a map is not contiguous; expected C order without gaps (numpy.ascontiguousarray)")
    tiles.check_images(x.shape[0])
    if len(tiles):
        residual_unit_cpu(x, unit, tiles, out, workspace or Workspace())
    return out


def random_unit(rng: np.random.Generator, channels: tuple[int, ...], kernels: tuple[int, ...], before: bool) -> Unit:
    """A unit with these channels before, between and after its layers; with pre-activation or with ReLU after it."""
    layers = []
    for size, inside, outside in zip(kernels, channels, channels[1:], strict=False):
        weights = rng.standard_normal((size, size, inside, outside), np.float32) / np.float32(size * inside**0.5)
        layers.append(Filters(weights, rng.standard_normal(outside, np.float32), 1, (size // 2,) * 2))
    if not before:
        return Unit(tuple(layers), relu=True)
    scale, shift = rng.standard_normal((2, channels[0]), np.float32)
    return Unit(tuple(layers), scale, shift)


def _make_inputs(bottleneck: bool) -> Callable[[np.random.Generator, str], Inputs]:
    def make(rng: np.random.Generator, scale: str) -> Inputs:
        images, rows, cols, tile = (2, 9, 10, 4) if scale == "small" else (1, 400, 704, 16)
        if bottleneck:
            unit = random_unit(rng, (6, 3, 3, 6) if scale == "small" else (96, 24, 24, 96), (1, 3, 1), True)
        else:
            unit = random_unit(rng, (4, 4, 4) if scale == "small" else (32, 32, 32), (3, 3), False)
        x = rng.standard_normal((images, rows, cols, unit.channels), np.float32)
        tiles = random_tiles(rng, TileSpec.covering((rows, cols), tile), 0.4 if scale == "small" else 0.1, images)
        return {"x": x, "unit": unit, "tiles": tiles, "out": rng.standard_normal(x.shape, np.float32)}

    return make


OPS = tuple(
    Op(
        name=f"residual_unit_{name}",
        function=residual_unit,
        reference=residual_unit_reference,
        make_inputs=_make_inputs(bottleneck),
        equality=Close(1e-4, "float32 sums in another order than the reference's float64; Winograd's transforms"),
        cuda=CUDA_KERNELS,
        summary=summary,
    )
    for name, bottleneck, summary in (
        ("bottleneck", True, "pre-activation unit of SBNet's tables: BN, ReLU, then 1×1, 3×3, 1×1, then the addition"),
        ("basic", False, "two 3×3 convolutions, the addition, ReLU"),
    )
)
