"""Which maps of a plan may be float16 on CUDA, and what steps look like on maps whose channels are padded.

Tensor cores take 16 channels at a time. So a map becomes float16 if it has that many, its channels padded with zeros
to a multiple of 16, and stays float32 as it is otherwise: narrow maps, the grid and the network's outputs, whose
numbers are coordinates. A convolution may lead from one kind to the other; all other steps look at both maps channel
by channel, so that maps which they connect are of one kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.filters import Filters
from kernels.launch import to_device
from kernels.residual_unit_cuda import fits_half
from kernels.tensor_conv_cuda import CHANNEL_MULTIPLE
from kernels.unit import Unit
from models.plan import Plan
from models.steps import ConvStep, DenseStep, PointwiseStep, TileStep, UnitStep

Float32 = NDArray[np.float32]


def half_maps(plan: Plan) -> frozenset[str]:
    """Names of the maps that can be float16."""
    group = {name: name for name in plan.maps}

    def leader(name: str) -> str:
        while group[name] != name:
            name = group[name]
        return name

    for line in plan.steps:
        for one, other in _alike(line.step):
            group[leader(one)] = leader(other)
    exact = {leader(name) for name in _float_maps(plan)}
    return frozenset(name for name in plan.maps if leader(name) not in exact)


def _alike(step: Any) -> Iterator[tuple[str, str]]:
    """Pairs of maps that a step wants to be of one kind."""
    if isinstance(step, ConvStep):
        if step.residual is not None:
            yield step.residual, step.target
    elif not isinstance(step, DenseStep):
        for source in step.sources:
            yield source, step.target


def _float_maps(plan: Plan) -> Iterator[str]:
    """Maps that cannot be float16, whatever they are connected with."""
    yield plan.graph.input_name
    yield from plan.graph.outputs
    yield from (name for name, made in plan.maps.items() if made.channels < CHANNEL_MULTIPLE)
    for line in plan.steps:
        step = line.step
        if isinstance(step, DenseStep):
            yield from (name for name in (*step.sources, *step.targets) if name in plan.maps)
        elif isinstance(step, UnitStep) and line.tile_cells is not None:
            if not fits_half(padded_unit(step.unit), (line.tile_cells,) * 2):
                yield step.target
        elif isinstance(step, PointwiseStep):
            # A part of a concatenation lies between others, where there is no room for padding.
            part, whole = plan.maps[step.source].channels, plan.maps[step.target].channels
            if part != whole and (part % CHANNEL_MULTIPLE or step.first_channel % CHANNEL_MULTIPLE):
                yield step.target


def padded_channels(channels: int) -> int:
    """Channels with what fills them up for tensor cores."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


def step_on_device(step: TileStep, half: frozenset[str] | set[str]) -> TileStep:
    """The step on maps of which those in ``half`` are padded; its scale and shift lie on the device."""
    if isinstance(step, ConvStep):
        ends = (step.source in half, step.target in half)
        return replace(step, filters=padded_filters(step.filters, *ends))
    if isinstance(step, UnitStep):
        return replace(step, unit=padded_unit(step.unit)) if step.source in half else step
    if isinstance(step, PointwiseStep):
        scale, shift = (_padded(numbers, 0, step.source in half) for numbers in (step.scale, step.shift))
        return replace(step, scale=to_device(scale), shift=to_device(shift))
    return step


def _padded(numbers: Float32 | None, axis: int, pad: bool) -> Any:
    """Zeros behind an axis of channels."""
    if numbers is None or not pad:
        return numbers
    width = [(0, 0)] * numbers.ndim
    width[axis] = (0, padded_channels(numbers.shape[axis]) - numbers.shape[axis])
    return np.ascontiguousarray(np.pad(numbers, width))


def padded_filters(filters: Filters, inside: bool = True, outside: bool = True) -> Filters:
    """Filters for maps whose channels are padded, before and behind."""
    weights = _padded(_padded(filters.weights, 2, inside), 3, outside)
    return replace(filters, weights=weights, bias=_padded(filters.bias, 0, outside))


def padded_unit(unit: Unit) -> Unit:
    """The unit with padded channels at its ends; inside, the kernel pads by itself."""
    last = len(unit.layers) - 1
    layers = tuple(padded_filters(layer, number == 0, number == last) for number, layer in enumerate(unit.layers))
    return Unit(layers, _padded(unit.scale, 0, True), _padded(unit.shift, 0, True), unit.relu)


def map_bytes(plan: Plan, half: frozenset[str] | set[str]) -> Mapping[str, int]:
    """Size of every map on the device [bytes]."""
    return {
        name: made.rows * made.cols * (2 * padded_channels(made.channels) if name in half else 4 * made.channels)
        for name, made in plan.maps.items()
    }
