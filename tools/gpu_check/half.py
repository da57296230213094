"""Inputs of an op as its float16 kernels take them, rounded first: an oracle in float32 then sees the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.op import Op
from kernels.table import OPS
from kernels.unit import Unit
from models.half_precision import padded_channels, padded_filters, padded_unit

# What a map that is rounded to float16 may be off, relative to its spread, or to a number where that is larger.
# Products of float16 are exact in float32, and sums of them there err by less than a millionth. So what is left is the
# rounding to 11 bits, by up to 2^-11 of a number. The sums of the layers behind are off by less than half of that, as
# shares of their spread, but in a map of millions some by five times as much: four steps.
ROUNDING = 4 * 2.0**-11


@dataclass(frozen=True)
class Ends:
    """What kinds of maps an op reads and writes on the device.

    Attributes:
        source: kind of its input.
        target: kind of its output, and of what is added to it.
    """

    source: str = "float32"
    target: str = "float32"

    @property
    def name(self) -> str:
        """For people."""
        return self.source if self.source == self.target else f"{self.source} to {self.target}"

    @property
    def half(self) -> tuple[bool, bool]:
        """Which of them are float16."""
        return self.source == "float16", self.target == "float16"


FLOAT32, FLOAT16 = Ends(), Ends("float16", "float16")
# A network's first layer, and its heads, on CUDA cores: one side is float32 there.
MIXED = {"tile_conv_3x3_stride2": Ends("float32", "float16"), "tile_conv_1x1": Ends("float16", "float32")}


def half_checks() -> list[tuple[Op, Ends]]:
    """Every op that has a kernel for float16 maps, with the kinds of maps to check it on."""
    able = [op for op in OPS if any("float16" in kernel.signature for kernel in op.cuda)]
    return [(op, FLOAT16) for op in able] + [(op, MIXED[op.name]) for op in able if op.name in MIXED]


def rounded(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Maps and weights as float16 holds them, in float32; biases are float32 everywhere."""
    return {key: _rounded(value) for key, value in inputs.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, Filters):
        return replace(value, weights=_round(value.weights))
    if isinstance(value, Unit):
        layers = tuple(map(_rounded, value.layers))
        ends = (None if numbers is None else _round(numbers) for numbers in (value.scale, value.shift))
        return Unit(layers, *ends, value.relu)
    return _round(value) if _is_map(value) else value


def _round(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    return numbers.astype(np.float16).astype(np.float32)


def _is_map(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 4


def laid_out(inputs: Mapping[str, Any], ends: Ends) -> dict[str, Any]:
    """The inputs as a network on the device has them, still on the host."""
    pads = "filters" in inputs or "unit" in inputs  # tensor cores want that
    made = dict(inputs)
    for key, value in inputs.items():
        if isinstance(value, Filters):
            made[key] = padded_filters(value, *ends.half)
        elif isinstance(value, Unit) and ends == FLOAT16:
            made[key] = padded_unit(value)
        elif _is_map(value) and ends.half[key in ("out", "residual")]:
            made[key] = (padded_map(value) if pads else value).astype(np.float16)
    return made


def padded_map(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, H, W, C) with channels padded with zeros for tensor cores."""
    return np.pad(x, [(0, 0), (0, 0), (0, 0), (0, padded_channels(x.shape[3]) - x.shape[3])])


def half_tolerance(inputs: Mapping[str, Any]) -> float:
    """Largest error of an op that rounds one map after the other: those inside a unit, and its result.

    They are rounded independently of one another, so that squares of errors add up.
    """
    unit = inputs.get("unit")
    maps = 1 if unit is None else len(unit.layers) + (unit.scale is not None)
    return float(ROUNDING * maps**0.5)
