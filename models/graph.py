"""An ONNX graph, read into steps that tiles can run; what tiles cannot run stays a piece of ONNX."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from kernels.filters import Filters
from models.errors import ModelError
from models.graph_checks import check_nodes, check_sizes
from models.steps import ConvStep, DenseStep, Map, PointwiseStep, PoolStep, Step

Float32 = NDArray[np.float32]


class NotTileable(Exception):
    """A node that tiles cannot run; the text says why."""


@dataclass
class Graph:
    """Steps in the order in which they run.

    Attributes:
        model: the ONNX model, with the shapes of all values.
        input_name: name of the only input.
        outputs: names of the outputs.
        maps: what is a map, by the name of the value.
        steps: what makes them.
    """

    model: Any
    input_name: str
    outputs: tuple[str, ...]
    maps: dict[str, Map]
    steps: list[Step] = field(default_factory=list)


def read_graph(content: bytes, where: str, dense_strides: frozenset[int] = frozenset()) -> Graph:
    """The steps of an ONNX model with one input (1, C, H, W).

    Batch normalisation is folded into the convolution before it; ReLU and additions are attached to it.

    Args:
        content: the file.
        where: its name, for messages.
        dense_strides: strides whose maps are left to onnxruntime because that was measured to be faster.

    Raises:
        ModelError: if it is no valid ONNX model, or its input is not one image of known size.
    """
    try:
        model = onnx.load_from_string(content)
        check_nodes(model)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:  # onnx and protobuf raise unrelated classes
        raise ModelError(f"{where}: not a valid ONNX model: {' '.join(str(error).split())[:300]}") from error
    return _Reader(model, where, constants, dense_strides).read()


class _Reader:
    """Turns one node after the other into a step, or into part of one that is already there."""

    def __init__(
        self, model: Any, where: str, constants: dict[str, NDArray[Any]], dense_strides: frozenset[int]
    ) -> None:
        self.where = where
        self.dense_strides = dense_strides
        self.constants = constants
        graph = model.graph
        inputs = [value for value in graph.input if value.name not in self.constants]
        self.shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
        shape = self.shapes[inputs[0].name] if len(inputs) == 1 else None
        if shape is None or len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            found = {value.name: self.shapes[value.name] for value in inputs}
            raise ModelError(f"{where}: inputs {found}; expected one of fixed size (1, channels, rows, cols)")
        if inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(inputs[0].type.tensor_type.elem_type)
            raise ModelError(f"{where}: the input is {kind}, expected FLOAT")
        check_sizes(self.shapes, where)
        _, channels, rows, cols = shape
        name, outputs = inputs[0].name, tuple(value.name for value in graph.output)
        self.graph = Graph(model, name, outputs, {name: Map(rows, cols, channels, 1)})
        self.readers = Counter(name for node in graph.node for name in node.input)
        self.readers.update(outputs)

    def read(self) -> Graph:
        for node in self.graph.model.graph.node:
            try:
                if node.op_type not in _HANDLERS:
                    raise NotTileable(f"operator {node.op_type} is not known")
                if len(node.output) != 1:
                    raise NotTileable(f"{node.op_type} has {len(node.output)} outputs")
                _HANDLERS[node.op_type](self, node, _attributes(node))
            except NotTileable as reason:
                self.dense(node, str(reason))
            except (LookupError, ValueError, TypeError, ArithmeticError) as error:  # onnxruntime is the judge
                self.dense(node, f"malformed: {' '.join(str(error).split())[:100]}")
        return self.graph

    def map_of(self, name: str) -> Map:
        """The map of this name."""
        if name not in self.graph.maps:
            raise NotTileable(f"{name} is no map of one image")
        return self.graph.maps[name]

    def constant(self, name: str) -> Float32:
        """The constant of this name, as float32."""
        if name not in self.constants:
            raise NotTileable(f"{name} is no constant")
        with np.errstate(over="ignore"):  # of float64; checked next
            return self.finite(np.ascontiguousarray(self.constants[name], np.float32), name)

    def finite(self, values: Float32, name: str) -> Float32:
        """The values, of a weight or of what weights make together.

        Raises:
            ModelError: if one is no number: every map would be none.
        """
        if not np.isfinite(values).all():
            raise ModelError(f"{self.where}: the weights of '{name}' hold NaN or infinity, expected finite numbers")
        return values

    def new_map(self, node: Any, stride: int) -> Map:
        """The map that the node makes."""
        shape = self.shapes.get(node.output[0])
        if shape is None or len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise NotTileable(f"output of shape {shape}")
        made = Map(shape[2], shape[3], shape[1], stride)
        first = self.graph.maps[self.graph.input_name]
        if (made.rows, made.cols) != (-(-first.rows // stride), -(-first.cols // stride)):
            raise NotTileable(f"{made.rows}×{made.cols} cells are not the grid at stride {stride}")
        return made

    def add(self, step: Step, made: Map) -> None:
        """Appends a step and its map."""
        if made.stride in self.dense_strides:
            raise NotTileable(f"stage /{made.stride} was measured to be faster densely")
        self.graph.steps.append(step)
        for target in (step.target,) if not isinstance(step, DenseStep) else step.targets:
            self.graph.maps[target] = made

    def maker(self, name: str, kind: type) -> Any | None:
        """The step that makes a map which nobody else reads, if it is of this kind and ends without activation."""
        if self.readers[name] != 1:
            return None
        found = [step for step in self.graph.steps if isinstance(step, kind) and getattr(step, "target", None) == name]
        if not found or getattr(found[0], "relu", False) or getattr(found[0], "activation", "none") != "none":
            return None
        return found[0] if len(found) == 1 else None

    def move(self, step: Any, **changes: Any) -> None:
        """Puts a changed step at the end in place of the old one: its only reader is what it is merged with."""
        self.graph.steps.remove(step)
        made = self.graph.maps.pop(step.target)
        self.add(replace(step, **changes), made)

    def dense(self, node: Any, why: str) -> None:
        """Leaves a node to onnxruntime, together with such a node right before it."""
        steps, nodes = self.graph.steps, (node,)
        if steps and isinstance(steps[-1], DenseStep):
            before = steps.pop()
            assert isinstance(before, DenseStep)
            nodes, why = (*before.nodes, node), before.why if why in before.why else f"{before.why}; {why}"
        made = {name for one in nodes for name in one.output}
        read = {name for one in nodes for name in one.input if name and name not in self.constants}
        inside = Counter(name for one in nodes for name in one.input)
        targets = tuple(name for name in sorted(made) if self.readers[name] > inside[name])
        steps.append(DenseStep(nodes, tuple(sorted(read - made)), targets, why))
        first = self.graph.maps[self.graph.input_name]
        for name in targets:
            shape = self.shapes.get(name)
            if shape is not None and len(shape) == 4 and shape[0] == 1 and min(shape) >= 1:
                stride = max(1, round(first.rows / shape[2]))
                self.graph.maps[name] = Map(shape[2], shape[3], shape[1], stride)


def _shape(value: Any) -> tuple[int, ...] | None:
    """Sizes of a value, -1 where open; None if its rank is."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    return tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)


def _attributes(node: Any) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _geometry(values: dict[str, Any], kernel: tuple[int, int], same: bool) -> tuple[int, tuple[int, int]]:
    """Stride and padding above and left; refuses what the kernels do not compute."""
    strides, pads = values.get("strides", [1, 1]), values.get("pads", [0, 0, 0, 0])
    if values.get("group", 1) != 1 or set(values.get("dilations", [1])) != {1}:
        raise NotTileable("grouped or dilated")
    if values.get("auto_pad", b"NOTSET") != b"NOTSET" or len(set(strides)) != 1 or len(strides) != 2:
        raise NotTileable(f"strides {strides}, auto_pad {values.get('auto_pad')}")
    # The middle of a window may be off the middle of the cells that it stands for by half of them.
    if same and any(abs(kernel[axis] - strides[0] - 2 * pads[axis]) > strides[0] for axis in (0, 1)):
        raise NotTileable(f"padding {list(pads)} shifts the map")
    return strides[0], (pads[0], pads[1])


def _conv(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    weights = reader.constant(node.input[1])
    if weights.ndim != 4:
        raise NotTileable(f"weights of shape {weights.shape}")
    source = reader.map_of(node.input[0])
    if values.get("group", 1) == 1 and weights.shape[1] != source.channels:
        raise NotTileable(f"weights for {weights.shape[1]} channels on a map of {source.channels}")
    stride, padding = _geometry(values, weights.shape[2:], same=True)
    made = reader.new_map(node, source.stride * stride)
    bias = reader.constant(node.input[2]) if len(node.input) > 2 else np.zeros(len(weights), np.float32)
    filters = Filters(np.ascontiguousarray(weights.transpose(2, 3, 1, 0)), bias, stride, padding)
    reader.add(ConvStep(node.input[0], node.output[0], filters), made)


def _conv_transpose(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    weights = reader.constant(node.input[1])
    source = reader.map_of(node.input[0])
    if weights.ndim != 4 or weights.shape[0] != source.channels:
        raise NotTileable(f"weights of shape {weights.shape} on a map of {source.channels} channels")
    stride, padding = _geometry(values, weights.shape[2:], same=False)
    if weights.shape[2:] != (stride, stride) or any(values.get("pads", [0])) or any(values.get("output_padding", [0])):
        raise NotTileable(f"transposed kernel {weights.shape[2:]} with stride {stride} and padding {padding}")
    if source.stride % stride:
        raise NotTileable("finer than the grid")
    made = reader.new_map(node, source.stride // stride)
    bias = reader.constant(node.input[2]) if len(node.input) > 2 else np.zeros(weights.shape[1], np.float32)
    filters = Filters(np.ascontiguousarray(weights.transpose(2, 3, 0, 1)), bias, stride, transposed=True)
    reader.add(ConvStep(node.input[0], node.output[0], filters), made)


def _batch_norm(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    gamma, beta, mean, variance = (reader.constant(name) for name in node.input[1:5])
    if {part.shape for part in (gamma, beta, mean, variance)} != {(reader.map_of(node.input[0]).channels,)}:
        raise NotTileable("normalises another number of channels than the map has")
    name = node.output[0]
    with np.errstate(all="ignore"):  # checked at once
        scale = (gamma / np.sqrt(variance + np.float32(values.get("epsilon", 1e-5)))).astype(np.float32)
        shift = reader.finite((beta - mean * scale).astype(np.float32), name)
    reader.finite(scale, name)
    before = reader.maker(node.input[0], ConvStep)
    if before is not None and before.residual is None:
        filters = before.filters
        with np.errstate(all="ignore"):
            weights = reader.finite(filters.weights * scale, name)
            bias = reader.finite(filters.bias * scale + shift, name)
        folded = Filters(weights, bias, filters.stride, filters.padding, filters.transposed)
        reader.move(before, filters=folded, target=node.output[0])
        return
    made = reader.map_of(node.input[0])
    reader.add(PointwiseStep(node.input[0], node.output[0], scale, shift), made)


def _relu(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    conv, pointwise = reader.maker(node.input[0], ConvStep), reader.maker(node.input[0], PointwiseStep)
    if conv is not None:
        reader.move(conv, relu=True, target=node.output[0])
    elif pointwise is not None:
        reader.move(pointwise, activation="relu", target=node.output[0])
    else:
        made = reader.map_of(node.input[0])
        reader.add(PointwiseStep(node.input[0], node.output[0], activation="relu"), made)


def _sigmoid(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    made = reader.map_of(node.input[0])
    reader.add(PointwiseStep(node.input[0], node.output[0], activation="sigmoid"), made)


def _add(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    first, second = (reader.map_of(name) for name in node.input)
    if first != second:
        raise NotTileable(f"adds maps of {first.shape} and {second.shape}")
    for name, other in (tuple(node.input), tuple(reversed(node.input))):
        before = reader.maker(name, ConvStep)
        if before is not None and before.residual is None and name != other:
            reader.move(before, residual=other, target=node.output[0])
            return
    reader.add(PointwiseStep(node.input[0], node.output[0], residual=node.input[1]), first)


def _concat(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    parts = [reader.map_of(name) for name in node.input]
    if values.get("axis") != 1 or len({(part.rows, part.cols, part.stride) for part in parts}) != 1:
        raise NotTileable("concatenates along another axis than the channels, or maps of different sizes")
    made = reader.new_map(node, parts[0].stride)
    start = 0
    for name, part in zip(node.input, parts, strict=True):
        reader.add(PointwiseStep(name, node.output[0], first_channel=start), made)
        start += part.channels


def _max_pool(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    kernel = tuple(values["kernel_shape"])
    stride, padding = _geometry(values, kernel, same=True)
    if len(set(kernel)) != 1 or values.get("ceil_mode", 0) or values.get("storage_order", 0):
        raise NotTileable(f"pools {kernel}, ceil_mode {values.get('ceil_mode', 0)}")
    source = reader.map_of(node.input[0])
    made = reader.new_map(node, source.stride * stride)
    reader.add(PoolStep(node.input[0], node.output[0], kernel[0], stride, padding), made)


def _resize(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    source, shape = reader.map_of(node.input[0]), reader.shapes.get(node.output[0])
    mode, nearest = values.get("coordinate_transformation_mode", b"half_pixel"), values.get("nearest_mode")
    rounding = (mode, nearest or b"round_prefer_floor")
    known = ((b"half_pixel", b"round_prefer_floor"), (b"asymmetric", b"floor"))
    if values.get("mode", b"nearest") != b"nearest" or rounding not in known:
        raise NotTileable(f"resizes by {values.get('mode', b'nearest').decode()}, {rounding[0].decode()}")
    factor = shape[2] // source.rows if shape else 0
    whole = shape is not None and shape[2:] == (source.rows * factor, source.cols * factor)
    if factor < 1 or not whole or source.stride % factor:
        raise NotTileable(f"resizes {source.shape} to {shape}")
    made = reader.new_map(node, source.stride // factor)
    reader.add(PointwiseStep(node.input[0], node.output[0], upsample=factor), made)


def _constant(reader: _Reader, node: Any, values: dict[str, Any]) -> None:
    if "value" not in values:
        raise NotTileable("a constant that is no tensor")
    reader.constants[node.output[0]] = numpy_helper.to_array(values["value"])


_HANDLERS: dict[str, Callable[[_Reader, Any, dict[str, Any]], None]] = {
    "Add": _add,
    "BatchNormalization": _batch_norm,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _max_pool,
    "Relu": _relu,
    "Resize": _resize,
    "Sigmoid": _sigmoid,
}
