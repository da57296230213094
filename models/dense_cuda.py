"""The dense executor on arrays that stay on the GPU: onnxruntime's CUDA provider, bound to their addresses.

Tested with onnxruntime on a CPU in the place of the GPU's; it has not run on a GPU yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from kernels.decode import REGRESSION_CHANNELS
from kernels.launch import cuda, stream, to_device
from models.dense import FELL_BACK, cuda_providers, import_onnxruntime
from models.errors import ModelError
from models.network import INPUT_NAME, REGRESSION_NAME, SCORE_NAME, Network

_NHWC = "_nhwc"  # behind the names of the ends that are turned round


class CudaDenseExecutor:
    """Runs a network on every cell. NHWC in and out, on the device; the transposes are part of the network.

    Args:
        network: what `DenseExecutor` accepts.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
        ModelError: if it cannot run the network on a GPU.
    """

    device = "cuda"

    def __init__(self, network: Network) -> None:
        runtime = import_onnxruntime()
        self._stream = cuda.stream()
        self._filled, self._done = cuda.event(), cuda.event()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        first, *others = cuda_providers(runtime)
        providers = [(first, {"user_compute_stream": str(int(self._stream))}), *others]
        try:
            self._session = runtime.InferenceSession(channels_last(network), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{network.path}: onnxruntime cannot run it on CUDA: {reason}") from error
        if self._session.get_providers()[0] != first:
            raise ModelError(f"device cuda: {FELL_BACK}")
        shapes = _shapes(network)
        self._run_options = runtime.RunOptions()
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the host goes on
        self._maps = [to_device(np.zeros(shapes[name], np.float32)) for name in (SCORE_NAME, REGRESSION_NAME)]

    def run(self, grid: Any, tiles: Any) -> tuple[Any, Any]:
        """Score (rows, cols) and regression (rows, cols, 8) maps, float32, at the output stride.

        They are views of buffers that the next run overwrites. Everything is queued: this thread's stream waits for it.

        Args:
            grid: (rows, cols, channels) float32 BEV grid on the device.
            tiles: taken because every executor takes them; the dense one computes all cells whatever they say.
        """
        self._filled.record(stream())
        self._filled.wait(self._stream)
        binding = self._session.io_binding()
        binding.bind_input(INPUT_NAME + _NHWC, "cuda", 0, np.float32, (1, *grid.shape), _address(grid))
        for name, made in zip((SCORE_NAME, REGRESSION_NAME), self._maps, strict=True):
            binding.bind_output(name + _NHWC, "cuda", 0, np.float32, tuple(made.shape), _address(made))
        self._session.run_with_iobinding(binding, self._run_options)
        self._done.record(self._stream)
        self._done.wait(stream())
        score, regression = (made.reshape(tuple(made.shape[1:])) for made in self._maps)
        return score.reshape(tuple(score.shape[:2])), regression


def _address(array: Any) -> int:
    return int(array.__cuda_array_interface__["data"][0])


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """(1, rows, cols, channels) of input and outputs."""
    spec, stride = network.info.grid, network.info.output_stride
    cells = -(-spec.rows // stride), -(-spec.cols // stride)
    return {
        INPUT_NAME: (1, *spec.shape),
        SCORE_NAME: (1, *cells, 1),
        REGRESSION_NAME: (1, *cells, REGRESSION_CHANNELS),
    }


def channels_last(network: Network) -> bytes:
    """The network as an ONNX file whose input and outputs are NHWC, their names ending in ``_nhwc``."""
    model = onnx.load_from_string(network.content)
    ends = {
        name: onnx.helper.make_tensor_value_info(name + _NHWC, onnx.TensorProto.FLOAT, shape)
        for name, shape in _shapes(network).items()
    }
    graph = model.graph
    nodes = [
        onnx.helper.make_node("Transpose", [INPUT_NAME + _NHWC], [INPUT_NAME], perm=(0, 3, 1, 2)),
        *graph.node,
        *(
            onnx.helper.make_node("Transpose", [name], [name + _NHWC], perm=(0, 2, 3, 1))
            for name in (SCORE_NAME, REGRESSION_NAME)
        ),
    ]
    for field, values in (
        (graph.node, nodes),
        (graph.input, [ends[INPUT_NAME]]),
        (graph.output, [ends[SCORE_NAME], ends[REGRESSION_NAME]]),
    ):
        kept = list(values)
        del field[:]
        field.extend(kept)
    content: bytes = model.SerializeToString()
    return content
