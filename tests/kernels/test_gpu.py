"""What is told where no GPU will do, each case with a driver and a device made up for it."""

from types import SimpleNamespace

import numpy as np
import pytest

from kernels import gpu
from kernels.launch import SIMULATED


class Kernel:
    """A kernel that writes a number, or raises."""

    def __init__(self, outcome):
        self.outcome = outcome

    def __getitem__(self, _):
        return self

    def __call__(self, target):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        target.array[0] = self.outcome


class DeviceArray:
    def __init__(self, *_):
        self.array = np.zeros(1, np.float32)

    def copy_to_host(self):
        return self.array


def problem(monkeypatch, driver=(13, 0), compiler=(13, 1), capability=(9, 0), outcome=1):
    device = SimpleNamespace(name=b"Card", compute_capability=capability)
    runtime = SimpleNamespace(get_version=lambda: compiler)
    module = SimpleNamespace(runtime=runtime, get_current_device=lambda: device, device_array=DeviceArray)
    monkeypatch.setattr(gpu, "cuda", module)
    monkeypatch.setattr(gpu, "_probe_cuda", Kernel(outcome))
    monkeypatch.setattr(gpu, "cuda_driver_answers", lambda: driver is not None)
    monkeypatch.setattr(gpu, "driver_version", lambda: driver)
    return gpu.gpu_problem()


@pytest.mark.skipif(SIMULATED, reason="the simulator is always fit")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, ""),
        ({"driver": None}, "no NVIDIA driver answers, or it sees no GPU; check nvidia-smi"),
        ({"driver": (12, 4), "outcome": OSError("PTX")},
         "the driver is too old: it runs CUDA 12.4, the compiler here makes code for CUDA 13.1; "
                              "update the driver, or pip install 'numba-cuda[cu12]'"),
        ({"capability": (7, 0)}, "Card has compute capability 7.0, expected at least 7.5"),
        ({"outcome": 0}, "Card runs a kernel and nothing comes of it; check nvidia-smi"),
        ({"outcome": OSError("no\nnvvm")},
         "Numba cannot run a kernel: no nvvm; check nvidia-smi and pip show numba-cuda"),
    ],
)  # fmt: skip
def test_one_line_for_every_reason(monkeypatch, settings, words):
    assert problem(monkeypatch, **settings) == words


def test_without_a_driver_there_is_no_version(monkeypatch):
    monkeypatch.setattr(gpu, "load_driver", lambda: None)
    assert gpu.driver_version() == (0, 0) and not gpu.cuda_driver_answers()
