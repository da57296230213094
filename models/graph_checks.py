"""What is checked of an ONNX graph before it is read: files come from anywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import onnx

from models.errors import ModelError
from models.grid import MAX_VALUES

MAX_ALL_VALUES = 4 * MAX_VALUES  # of all maps together


def check_nodes(model: Any) -> None:
    """Inputs and attributes of every node as its operator wants them, and every value made once, before it is read.

    ONNX's own check of whole models also asks for shapes, which many files leave out and inference finds.

    Raises:
        Exception: with the reason, of ONNX's checker or ours.
    """
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version = model.ir_version
    context.opset_imports = {opset.domain: opset.version for opset in model.opset_import}
    graph = model.graph
    if graph.sparse_initializer:
        raise ValueError("sparse weights are not read; expected dense ones")
    made = {"", *(value.name for value in graph.input), *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        onnx.checker.check_node(node, context)
        unknown = [name for name in node.input if name not in made]
        again = [name for name in node.output if name and name in made]
        if unknown or again:
            what = f"reads '{unknown[0]}' before it is made" if unknown else f"makes '{again[0]}' a second time"
            raise ValueError(f"{node.op_type} {what}")
        made.update(node.output)


def check_sizes(shapes: Mapping[str, tuple[int, ...] | None], where: str) -> None:
    """Refuses files of a few bytes that ask for all memory: a map can be joined with itself again and again.

    Args:
        shapes: of the values by name, -1 where open, None where nothing is known.
        where: the file's name, for messages.

    Raises:
        ModelError: if a value, or all of them, would be too large.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items() if shape and min(shape) > 0}
    largest = max(sizes, key=lambda name: sizes[name])
    if sizes[largest] > MAX_VALUES or sum(sizes.values()) > MAX_ALL_VALUES:
        raise ModelError(
            f"{where}: {largest} holds {sizes[largest]} values, all together {sum(sizes.values())}; "
            f"expected at most {MAX_VALUES} and {MAX_ALL_VALUES}"
        )
