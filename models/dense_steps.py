"""Pieces of a network that tiles cannot run, through onnxruntime on whole maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.dense import import_onnxruntime
from models.errors import ModelError
from models.plan import Plan
from models.steps import DenseStep

Float32 = NDArray[np.float32]


class DenseRunner:
    """One `DenseStep`.

    Args:
        model: the ONNX model that it is a piece of, with the shapes of all values.
        step: the piece.
        threads: CPU threads.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
        ModelError: if onnxruntime refuses the piece.
    """

    def __init__(self, model: Any, step: DenseStep, threads: int) -> None:
        runtime = import_onnxruntime()
        self.step = step
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Numba's threads follow at once: spinning workers would steal their cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            piece = _piece(model, step).SerializeToString()
            self._session = runtime.InferenceSession(piece, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise self._refused(error) from error

    def run(self, maps: dict[str, Float32], values: dict[str, Any]) -> None:
        """Reads its sources and writes its targets: NHWC maps, or values that only such pieces exchange.

        Raises:
            ModelError: if onnxruntime cannot run the piece after all.
        """
        feed = {
            name: np.ascontiguousarray(maps[name].transpose(0, 3, 1, 2)) if name in maps else values[name]
            for name in self.step.sources
        }
        try:
            results = self._session.run(list(self.step.targets), feed)
        except Exception as error:  # as above
            raise self._refused(error) from error
        for name, value in zip(self.step.targets, results, strict=True):
            if name in maps:
                maps[name][...] = value.transpose(0, 2, 3, 1)
            else:
                values[name] = value

    def _refused(self, error: Exception) -> ModelError:
        reason = " ".join(str(error).split())[:300]
        return ModelError(f"{self.step.operator}: neither tiles nor onnxruntime can run it: {reason}")


def dense_runners(plan: Plan, threads: int) -> dict[int, DenseRunner]:
    """A runner for every dense step of a plan, by the step's ``id``; raises as `DenseRunner`."""
    steps = [line.step for line in plan.steps]
    return {id(step): DenseRunner(plan.graph.model, step, threads) for step in steps if isinstance(step, DenseStep)}


def _piece(model: Any, step: DenseStep) -> Any:
    """The nodes of the step as a model of their own."""
    graph = model.graph
    known = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}
    read = {name for node in step.nodes for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    constant_nodes = [node for node in graph.node if node.op_type == "Constant" and set(node.output) & read]
    nodes = [*(node for node in constant_nodes if node not in step.nodes), *step.nodes]
    made = {name for node in nodes for name in node.output}
    piece = onnx.helper.make_graph(
        nodes,
        "piece",
        [known[name] for name in step.sources if name not in made],
        [known[name] for name in step.targets],
        constants,
    )
    return onnx.helper.make_model(piece, opset_imports=model.opset_import, ir_version=model.ir_version)
