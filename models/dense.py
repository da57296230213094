"""The dense executor: the whole network on the whole grid, through onnxruntime."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.decode import REGRESSION_CHANNELS
from kernels.gpu import cuda_driver_answers
from kernels.tiles import ActiveTiles
from models.errors import MissingExtraError, ModelError
from models.network import INPUT_NAME, REGRESSION_NAME, SCORE_NAME, Network

log = logging.getLogger("roadblocks")
Float32 = NDArray[np.float32]
DEVICES = ("auto", "cpu", "cuda")
FELL_BACK = "onnxruntime fell back to the CPU; check CUDA 13 and cuDNN 9, or choose device cpu"


class DenseExecutor:
    """Runs a network on every cell. NHWC in and out; ONNX's NCHW stays inside.

    Args:
        network: the network.
        device: "cpu", "cuda", or "auto": CUDA where onnxruntime and the machine have it.
        threads: CPU threads, None for all cores.
        spinning: onnxruntime's workers wait busily between operators. Without it they may wake on the core of the
            thread that waits for them, which doubled the time of whole runs on 2 cores; turn it off where
            multi-threaded work follows at once, from which they would steal cores.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
        ModelError: if the device cannot be had, or onnxruntime refuses the network.
    """

    def __init__(
        self, network: Network, device: str = "auto", threads: int | None = None, spinning: bool = True
    ) -> None:
        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        providers = _providers(runtime, device)
        try:
            self._session = runtime.InferenceSession(network.content, options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no public base class
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{network.path}: onnxruntime cannot run it: {reason}") from error
        self._check_ends(network)
        self.device = "cuda" if self._session.get_providers()[0].startswith("CUDA") else "cpu"
        if len(providers) > 1 and self.device != "cuda":
            if device == "cuda":
                raise ModelError(f"device cuda: {FELL_BACK}")
            log.warning("%s", FELL_BACK)
        spec = network.info.grid
        self._input = np.zeros((1, spec.channels, spec.rows, spec.cols), np.float32)

    def _check_ends(self, network: Network) -> None:
        """Names and sizes of the network's input and outputs, against its metadata."""
        inputs = [value.name for value in self._session.get_inputs()]
        outputs = [value.name for value in self._session.get_outputs()]
        if inputs != [INPUT_NAME] or not {SCORE_NAME, REGRESSION_NAME} <= set(outputs):
            raise ModelError(
                f"{network.path}: inputs {inputs} and outputs {outputs}, "
                f"expected ['{INPUT_NAME}'] and ['{SCORE_NAME}', '{REGRESSION_NAME}']"
            )
        spec, stride = network.info.grid, network.info.output_stride
        cells = [-(-spec.rows // stride), -(-spec.cols // stride)]
        expected = {
            INPUT_NAME: [1, spec.channels, spec.rows, spec.cols],
            SCORE_NAME: [1, 1, *cells],
            REGRESSION_NAME: [1, REGRESSION_CHANNELS, *cells],
        }
        for value in (*self._session.get_inputs(), *self._session.get_outputs()):
            shape = expected.get(value.name, value.shape)
            # A size that the file leaves open is a name or None.
            fits = len(shape) == len(value.shape) and all(
                found == wanted for found, wanted in zip(value.shape, shape, strict=True) if isinstance(found, int)
            )
            if not fits:
                raise ModelError(f"{network.path}: '{value.name}' is {value.shape}, its metadata says {shape}")

    def run(self, grid: Float32, tiles: ActiveTiles) -> tuple[Float32, Float32]:
        """Score (rows, cols) and regression (rows, cols, 8) maps, float32, at the output stride.

        Args:
            grid: (rows, cols, channels) float32 BEV grid.
            tiles: taken because every executor takes them; the dense one computes all cells whatever they say.
        """
        np.copyto(self._input[0], grid.transpose(2, 0, 1))
        score, regression = self._session.run([SCORE_NAME, REGRESSION_NAME], {INPUT_NAME: self._input})
        return score[0, 0], np.ascontiguousarray(regression[0].transpose(1, 2, 0))


def import_onnxruntime() -> Any:
    """The package, or an error that says how to get it.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime is not installed; expected for dense execution: pip install 'roadblocks[cpu]', "
            "or 'roadblocks[gpu]' with an NVIDIA GPU"
        ) from error
    return onnxruntime


def _providers(runtime: Any, device: str) -> list[str]:
    if device not in DEVICES:
        raise ModelError(f"device '{device}': expected one of {', '.join(DEVICES)}")
    available = "CUDAExecutionProvider" in runtime.get_available_providers()
    if device == "cuda" and not available:
        raise ModelError("device cuda: this onnxruntime has no CUDA; install 'roadblocks[gpu]' instead of [cpu]")
    if device == "cuda" and not cuda_driver_answers():
        raise ModelError("device cuda: no NVIDIA driver answers; check nvidia-smi, or use --device cpu")
    if available and device != "cpu" and cuda_driver_answers():
        return cuda_providers(runtime)
    return ["CPUExecutionProvider"]


def cuda_providers(runtime: Any) -> list[str]:
    """CUDA's, and what takes its place where it cannot; loads its libraries."""
    # The extra `gpu` brings CUDA and cuDNN as Python packages, where the loader does not look by itself.
    runtime.preload_dlls()
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]
