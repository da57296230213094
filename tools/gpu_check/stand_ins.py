"""Stand-ins for packages that a plain CUDA image lacks: enough of them to read the shipped networks, and no more.

The checks are to run where only NumPy, Numba and PyTorch are installed. `detector.pipeline` imports PyYAML and Pillow,
which a pipeline made from a `Config` never calls, and onnx, of which it wants the reader: protobuf's wire format is
simple, and the shipped networks consist of five operators.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

# Fields by message: number → name and kind; "*" marks what repeats. After onnx.proto of ONNX.
_SCHEMA: dict[str, dict[int, tuple[str, str]]] = {
    "Model": {
        1: ("ir_version", "int"),
        7: ("graph", "Graph"),
        8: ("opset_import", "Opset*"),
        14: ("metadata_props", "Entry*"),
    },
    "Opset": {1: ("domain", "str"), 2: ("version", "int")},
    "Entry": {1: ("key", "str"), 2: ("value", "str")},
    "Graph": {
        1: ("node", "Node*"),
        5: ("initializer", "Tensor*"),
        11: ("input", "Value*"),
        12: ("output", "Value*"),
        13: ("value_info", "Value*"),
        15: ("sparse_initializer", "int*"),
    },
    "Node": {1: ("input", "str*"), 2: ("output", "str*"), 4: ("op_type", "str"), 5: ("attribute", "Attribute*")},
    "Attribute": {
        1: ("name", "str"),
        2: ("f", "float"),
        3: ("i", "int"),
        4: ("s", "bytes"),
        8: ("ints", "int*"),
        20: ("type", "int"),
    },
    "Tensor": {
        1: ("dims", "int*"),
        2: ("data_type", "int"),
        8: ("name", "str"),
        9: ("raw_data", "bytes"),
        14: ("data_location", "int"),
    },
    "Value": {1: ("name", "str"), 2: ("type", "Type")},
    "Type": {1: ("tensor_type", "TensorType")},
    "TensorType": {1: ("elem_type", "int"), 2: ("shape", "Shape")},
    "Shape": {1: ("dim", "Dim*")},
    "Dim": {1: ("dim_value", "int")},
}
_EMPTY: dict[str, Any] = {"int": 0, "str": "", "bytes": b"", "float": 0.0}
_DTYPES = {1: np.float32, 7: np.int64}
_ATTRIBUTE = {1: "f", 2: "i", 3: "s", 7: "ints"}


class _Message(SimpleNamespace):
    def HasField(self, name: str) -> bool:
        """Whether the file gives it."""
        return name in self.found

    def ListFields(self) -> list[Any]:
        """None of them: shipped networks keep their weights inside, which is what these are asked for."""
        return []


def install() -> list[str]:
    """Puts a stand-in in the place of each package that is not installed; returns their names."""
    made = {
        "yaml": lambda: _module("yaml", SafeLoader=object),
        "PIL": lambda: _module("PIL", Image=SimpleNamespace(DecompressionBombError=OSError)),
        "onnx": _onnx,
    }
    missing = [name for name in made if _is_missing(name)]
    for name in missing:
        sys.modules[name] = made[name]()
    return missing


def _is_missing(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return True
    return False


def _module(module: str, **members: Any) -> ModuleType:
    made = ModuleType(module)
    made.__spec__ = ModuleSpec(module, None)  # others ask whether it is there
    made.__dict__.update(members)
    return made


def _onnx() -> ModuleType:
    helper = SimpleNamespace(get_attribute_value=lambda attribute: getattr(attribute, _ATTRIBUTE[attribute.type]))
    return _module(
        "onnx",
        load_from_string=lambda content: _read("Model", memoryview(content)),
        shape_inference=SimpleNamespace(infer_shapes=infer_shapes),
        numpy_helper=SimpleNamespace(to_array=to_array),
        helper=helper,
        TensorProto=SimpleNamespace(EXTERNAL=1, FLOAT=1),
        checker=SimpleNamespace(DEFAULT_CONTEXT=SimpleNamespace(), check_node=lambda node, context: None),
    )


def to_array(tensor: Any) -> Any:
    """The numbers of a constant."""
    return np.frombuffer(tensor.raw_data, _DTYPES[tensor.data_type]).reshape(tensor.dims)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value - (1 << 64) if value >> 63 else value, at


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Numbers and raw values of a message's fields."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        length = {1: 8, 5: 4}.get(wire)
        if length is None:
            length, at = _varint(data, at)
        yield key >> 3, data[at : at + length]
        at += length


def _read(kind: str, data: memoryview) -> _Message:
    message = _Message(found=set())
    for name, wanted in _SCHEMA[kind].values():
        repeats = wanted.endswith("*")
        setattr(message, name, [] if repeats else _EMPTY[wanted] if wanted in _EMPTY else _read(wanted, data[:0]))
    for number, raw in _fields(data):
        if number not in _SCHEMA[kind]:
            continue
        name, wanted = _SCHEMA[kind][number]
        message.found.add(name)
        if wanted == "int*" and not isinstance(raw, int):  # packed
            at = 0
            while at < len(raw):
                value, at = _varint(raw, at)
                getattr(message, name).append(value)
            continue
        value = _value(wanted.rstrip("*"), raw)
        if wanted.endswith("*"):
            getattr(message, name).append(value)
        else:
            setattr(message, name, value)
    return message


def _value(kind: str, raw: Any) -> Any:
    if kind == "int":
        return raw
    if kind == "float":
        return struct.unpack("<f", raw)[0]
    if kind in ("str", "bytes"):
        return bytes(raw).decode() if kind == "str" else bytes(raw)
    return _read(kind, raw)


def infer_shapes(model: Any, strict_mode: bool = True) -> Any:
    """Adds the shapes of all values to a model of the shipped networks' operators.

    Raises:
        ValueError: if there is another operator.
    """
    graph = model.graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in graph.input:
        shapes[value.name] = [size.dim_value for size in value.type.tensor_type.shape.dim]
    for node in graph.node:
        shapes[node.output[0]] = _shape(node, shapes)
    graph.value_info = [_shaped(name, shape) for name, shape in shapes.items()]
    graph.output = [_shaped(value.name, shapes[value.name]) for value in graph.output]
    return model


def _shape(node: Any, shapes: dict[str, list[int]]) -> list[int]:
    first = shapes[node.input[0]]
    if node.op_type in ("Add", "Relu", "Sigmoid", "BatchNormalization"):
        return first
    if node.op_type not in ("Conv", "ConvTranspose"):
        raise ValueError(f"operator {node.op_type}: install onnx to run such a network")
    values = {attribute.name: attribute.ints for attribute in node.attribute}
    weights, strides = shapes[node.input[1]], values.get("strides", [1, 1])
    pads = values.get("pads", [0] * 4)
    if node.op_type == "ConvTranspose":
        return [1, weights[1], *(first[2 + a] * strides[a] for a in (0, 1))]
    cells = [(first[2 + a] + pads[a] + pads[2 + a] - weights[2 + a]) // strides[a] + 1 for a in (0, 1)]
    return [1, weights[0], *cells]


def _shaped(name: str, shape: list[int]) -> Any:
    dims = [_Message(dim_value=size, found={"dim_value"}) for size in shape]
    tensor = _Message(shape=_Message(dim=dims), found={"shape"})
    return _Message(name=name, type=_Message(tensor_type=tensor))
