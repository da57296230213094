"""The dense executor bound to addresses: onnxruntime runs on the CPU, and host memory plays the device's."""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from kernels.tiles import ActiveTiles, TileSpec
from models import dense_cuda, execute
from models.dense import FELL_BACK, DenseExecutor
from models.dense_cuda import CudaDenseExecutor
from models.errors import ModelError
from tests.models.small_networks import residual_network

runtime = pytest.importorskip("onnxruntime")
TILES = ActiveTiles.all(TileSpec.covering((32, 32), 16))


class Array:
    """Looks like an array on the device."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    @property
    def __cuda_array_interface__(self):
        return {"data": self.values.__array_interface__["data"]}

    def reshape(self, shape):
        return Array(self.values.reshape(shape))


class Binding:
    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def bind_input(self, name, *place):
        self.inputs[name] = self.memory(*place)

    def bind_output(self, name, *place):
        self.outputs[name] = self.memory(*place)

    @staticmethod
    def memory(device, number, dtype, shape, address):
        assert (device, number) == ("cuda", 0)
        content = (ctypes.c_char * (np.dtype(dtype).itemsize * int(np.prod(shape)))).from_address(address)
        return np.frombuffer(content, dtype).reshape(shape)


class Session:
    """Of the CUDA provider, played by the CPU's."""

    fell_back = False

    def __init__(self, content, options, providers):
        assert providers[0] == ("CUDAExecutionProvider", {"user_compute_stream": "5"})
        self.real = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.io_binding = Binding

    def get_providers(self):
        return ["CPUExecutionProvider" if self.fell_back else "CUDAExecutionProvider"]

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1", "the host would wait"
        QUEUED.append("run")
        for name, value in zip(binding.outputs, self.real.run(list(binding.outputs), binding.inputs), strict=True):
            binding.outputs[name][:] = value


QUEUED = []


class Event:
    def record(self, on):
        QUEUED.append(f"record on {int(on)}")

    def wait(self, on):
        QUEUED.append(f"{int(on)} waits")


@pytest.fixture
def stand_in(monkeypatch):
    QUEUED.clear()
    made = SimpleNamespace(
        SessionOptions=runtime.SessionOptions,
        RunOptions=runtime.RunOptions,
        InferenceSession=Session,
        preload_dlls=lambda: None,
    )
    monkeypatch.setattr(dense_cuda, "import_onnxruntime", lambda: made)
    monkeypatch.setattr(dense_cuda, "cuda", SimpleNamespace(stream=lambda: 5, event=Event))
    monkeypatch.setattr(dense_cuda, "to_device", Array)


def test_it_equals_the_dense_executor(stand_in):
    network = residual_network(0, 32, 32)
    executor, expected = CudaDenseExecutor(network), DenseExecutor(network, "cpu", 1)
    for seed in range(2):
        grid = np.random.default_rng(seed).random(network.info.grid.shape, np.float32)
        for found, wanted in zip(executor.run(Array(grid), TILES), expected.run(grid, TILES), strict=True):
            np.testing.assert_allclose(found.values, wanted, atol=1e-6)
            assert found.shape == wanted.shape
    assert QUEUED[:5] == ["record on 0", "5 waits", "run", "record on 5", "0 waits"], "nobody else waits"


def test_one_that_fell_back_is_refused(stand_in, monkeypatch):
    monkeypatch.setattr(Session, "fell_back", True)
    with pytest.raises(ModelError, match=FELL_BACK):
        CudaDenseExecutor(residual_network(0, 32, 32))


@pytest.mark.parametrize(
    ("device", "problem", "bound"), [("cuda", "", True), ("cuda", "old", False), ("cpu", "", False)]
)
def test_it_is_taken_where_both_find_the_gpu(device, problem, bound, monkeypatch):
    """Numba has to make the grid there; where it cannot, onnxruntime takes it from the host."""
    monkeypatch.setattr(execute, "DenseExecutor", lambda *_: SimpleNamespace(device=device))
    monkeypatch.setattr(execute, "CudaDenseExecutor", lambda network: "bound")
    monkeypatch.setattr(execute, "gpu_problem", lambda: problem)
    made = execute.make_executor(residual_network(0, 32, 32), "dense", "auto")
    assert (made == "bound") == bound
