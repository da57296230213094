"""Which executor runs a network, by what the configuration asks for and what the machine has."""

from __future__ import annotations

import logging

from kernels.gpu import gpu_problem
from models.dense import DEVICES, DenseExecutor
from models.dense_cuda import CudaDenseExecutor
from models.errors import GpuMemoryError, ModelError, NoGpuError
from models.network import Network
from models.sparse import TileExecutor
from models.sparse_cuda import CudaTileExecutor, check_gpu
from models.tuning import load_choices, unit_name

Executor = DenseExecutor | CudaDenseExecutor | TileExecutor | CudaTileExecutor
log = logging.getLogger("roadblocks")


def make_executor(
    network: Network,
    execution: str = "sparse",
    device: str = "auto",
    precision: str = "auto",
    graph: bool = True,
    threads: int | None = None,
) -> Executor:
    """The executor of a network.

    Args:
        network: the network.
        execution: "sparse": on tiles; "dense": through onnxruntime.
        device: "cpu", "cuda", or "auto": CUDA where a GPU can be used, else the CPU.
        precision: on CUDA, see `CudaTileExecutor`.
        graph: likewise.
        threads: CPU threads, None for all cores.

    Raises:
        NoGpuError: if the device is "cuda" and no GPU can be used.
        ModelError: if the network cannot run in this way.
        MissingExtraError: if it needs onnxruntime and that is not installed.
    """
    if device not in DEVICES:
        raise ModelError(f"device '{device}': expected one of {', '.join(DEVICES)}")
    if execution == "dense":
        dense = DenseExecutor(network, device, threads)
        return CudaDenseExecutor(network) if dense.device == "cuda" and not gpu_problem() else dense
    if device != "cpu":
        try:
            check_gpu()
            choices = load_choices(network, unit_name("cuda", precision))
            return CudaTileExecutor(network, choices, precision, graph=graph)
        except NoGpuError as error:
            go_on_on_the_cpu(device, error)
    return TileExecutor(network, load_choices(network, unit_name(threads=threads)), threads)


def go_on_on_the_cpu(device: str, error: NoGpuError) -> None:
    """Lets the device "auto" go on; that a GPU is there and lacks memory is worth a line.

    Raises:
        NoGpuError: the error, if the device is "cuda".
    """
    if device == "cuda":
        raise error
    level = logging.WARNING if isinstance(error, GpuMemoryError) else logging.DEBUG
    log.log(level, "everything runs on the CPU: %s", error)
