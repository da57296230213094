"""The layers of SBNet's tables: their weights for our kernels, and the same as an ONNX model.

Two forms of the bottleneck unit, 1×1 C→K, 3×3 K→K, 1×1 K→C, then the addition:

- pre-activation (SBNet's): batch normalisation and ReLU before each convolution. The ONNX model keeps every
  normalisation as an operator; onnxruntime folds those that follow a convolution. Ours folds the same ones.
- folded: convolution with bias, ReLU between them and after the addition, as a network is exported for inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from kernels.filters import Filters
from kernels.unit import Unit

Float32 = NDArray[np.float32]

INPUT, OUTPUT = "x", "y"
EPSILON = 1e-5  # of the normalisations
OPSET, IR_VERSION = 17, 9
KERNELS = (1, 3, 1)  # sides of a bottleneck's convolutions


@dataclass(frozen=True, eq=False)
class Norm:
    """Batch normalisation, ``scale * (x - mean) / sqrt(variance + EPSILON) + shift``, each (C,) float32."""

    scale: Float32
    shift: Float32
    mean: Float32
    variance: Float32

    @classmethod
    def random(cls, rng: np.random.Generator, channels: int) -> Norm:
        """Statistics as a trained network has them: not 0 and 1."""
        scale, variance = rng.uniform(0.5, 1.5, (2, channels)).astype(np.float32)
        shift, mean = rng.normal(0, 0.2, (2, channels)).astype(np.float32)
        return cls(scale, shift, mean, variance)

    def factors(self) -> tuple[Float32, Float32]:
        """(a, b), each (C,) float32, such that the normalisation is ``a * x + b``."""
        a = self.scale / np.sqrt(self.variance + np.float32(EPSILON))
        return a, self.shift - a * self.mean


@dataclass(frozen=True, eq=False)
class PreActivationUnit:
    """SBNet's unit as it is trained: ``norms[i]`` and ReLU come before the convolution with ``weights[i]``."""

    weights: tuple[Float32, ...]
    norms: tuple[Norm, ...]

    @classmethod
    def random(cls, rng: np.random.Generator, channels: int, width: int) -> PreActivationUnit:
        """A unit with C ``channels`` at its ends and K = ``width`` inside."""
        ends = (channels, width, width, channels)
        weights = tuple(random_weights(rng, side, *pair) for side, *pair in zip(KERNELS, ends, ends[1:], strict=False))
        return cls(weights, tuple(Norm.random(rng, inside) for inside in ends[:-1]))

    def folded(self) -> Unit:
        """The same unit for `residual_unit`: every normalisation but the first goes into the convolution before it."""
        (scale, shift), *after = (norm.factors() for norm in self.norms)
        last = self.weights[-1].shape[3]
        ends = [*after, (np.ones(last, np.float32), np.zeros(last, np.float32))]
        layers = (same_size(weights * a, b) for weights, (a, b) in zip(self.weights, ends, strict=True))
        return Unit(tuple(layers), scale, shift)


def random_weights(rng: np.random.Generator, side: int, inside: int, outside: int) -> Float32:
    """(side, side, C, K) float32 that keep the size of what ReLU gives them (He et al., ICCV 2015)."""
    return rng.normal(0, np.sqrt(2 / (side * side * inside)), (side, side, inside, outside)).astype(np.float32)


def same_size(weights: Float32, bias: Float32 | None = None) -> Filters:
    """A convolution with stride 1 whose output is as large as its input; without a bias it is 0."""
    bias = np.zeros(weights.shape[3], np.float32) if bias is None else bias
    return Filters(weights, bias, 1, (weights.shape[0] // 2,) * 2)


def folded_unit(rng: np.random.Generator, channels: int, width: int) -> Unit:
    """A random unit in the folded form."""
    ends = (channels, width, width, channels)
    layers = []
    for side, inside, outside in zip(KERNELS, ends, ends[1:], strict=False):
        layers.append(
            same_size(random_weights(rng, side, inside, outside), rng.normal(0, 0.2, outside).astype(np.float32))
        )
    return Unit(tuple(layers), relu=True)


class _Graph:
    """Operators one after the other; each method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def conv(self, x: str, weights: Float32, bias: Float32 | None = None) -> str:
        inputs = [x, self._constant(weights.transpose(3, 2, 0, 1)), *([] if bias is None else [self._constant(bias)])]
        side = weights.shape[0]
        return self._node("Conv", inputs, kernel_shape=[side, side], pads=[side // 2] * 4)

    def norm(self, x: str, norm: Norm) -> str:
        numbers = (norm.scale, norm.shift, norm.mean, norm.variance)
        return self._node("BatchNormalization", [x, *map(self._constant, numbers)], epsilon=EPSILON)

    def relu(self, x: str) -> str:
        return self._node("Relu", [x])

    def add(self, x: str, y: str) -> str:
        return self._node("Add", [x, y])

    def model(self, result: str, shape: tuple[int, int], channels: int) -> bytes:
        """The file: NCHW float32 of batch 1, from `INPUT` to `OUTPUT`, as many channels out as in."""
        self.nodes[-1].output[0] = OUTPUT
        assert result == f"t{len(self.nodes) - 1}"
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, *shape]) for name in (INPUT, OUTPUT)
        ]
        graph = helper.make_graph(self.nodes, "layers", ends[:1], ends[1:], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        return content

    def _node(self, kind: str, inputs: Sequence[str], **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _constant(self, values: Float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name


def conv_model(filters: Filters, shape: tuple[int, int]) -> bytes:
    """A single convolution on maps of ``shape``, without the bias (which must be 0)."""
    assert not filters.bias.any()
    graph = _Graph()
    return graph.model(graph.conv(INPUT, filters.weights), shape, filters.channels[0])


def pre_activation_model(units: Sequence[PreActivationUnit], shape: tuple[int, int]) -> bytes:
    """Units one after the other in SBNet's form."""
    graph, x = _Graph(), INPUT
    for unit in units:
        hidden = x
        for weights, norm in zip(unit.weights, unit.norms, strict=True):
            hidden = graph.conv(graph.relu(graph.norm(hidden, norm)), weights)
        x = graph.add(hidden, x)
    return graph.model(x, shape, units[0].weights[0].shape[2])


def folded_model(units: Sequence[Unit], shape: tuple[int, int]) -> bytes:
    """Units one after the other in the folded form."""
    graph, x = _Graph(), INPUT
    for unit in units:
        hidden = x
        for layer in unit.layers[:-1]:
            hidden = graph.relu(graph.conv(hidden, layer.weights, layer.bias))
        x = graph.relu(graph.add(graph.conv(hidden, unit.layers[-1].weights, unit.layers[-1].bias), x))
    return graph.model(x, shape, units[0].channels)
