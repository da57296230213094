"""Checks of the GPU: driver, packages that need it, onnxruntime's CUDA provider."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

from detector.doctor import Finding, State

PCI_DEVICES = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAY_CLASSES = "0x10de", ("0x03",)
LEAST_DRIVER = 580  # of CUDA 13, which the extra `gpu` brings
QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader")
INSTALL = "install the extra for GPUs in a fresh environment: pip install 'roadblocks[gpu]'"


def check_gpu(config: str) -> Iterator[Finding]:
    """What GPU there is, and whether it can be used."""
    from kernels.gpu import cuda_driver_answers

    if not cuda_driver_answers():
        if has_nvidia_device(PCI_DEVICES):
            advice = "install NVIDIA's driver and see whether nvidia-smi answers; the CPU is used until then"
            yield Finding("gpu", "driver", "an NVIDIA GPU is there, but no driver answers", State.WARNING, advice)
        else:
            yield Finding("gpu", "driver", "no NVIDIA GPU: everything runs on the CPU")
        return
    for line in nvidia_smi():
        yield gpu_finding(line)
    yield from _users_of_the_gpu(config)


def has_nvidia_device(devices: Path) -> bool:
    """Whether the PCI bus has a display or compute device of NVIDIA's, driver or not."""
    for device in devices.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == NVIDIA and kind.startswith(DISPLAY_CLASSES):
            return True
    return False


def nvidia_smi() -> list[str]:
    """A line "name, driver, memory, capability" per GPU; one of question marks where nvidia-smi does not answer."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        answer = "a GPU that nvidia-smi does not describe, ?, ?, ?"
    return [line.strip() for line in answer.splitlines() if line.strip()]


def gpu_finding(line: str) -> Finding:
    """What a line of `nvidia_smi` says."""
    name, driver, memory, capability = (part.strip() for part in line.rsplit(",", 3))
    found = f"{name}, {memory}, compute capability {capability}, driver {driver}"
    major = driver.split(".")[0]
    if major.isdigit() and int(major) < LEAST_DRIVER:
        advice = f"CUDA 13, which the extra 'gpu' brings, wants driver {LEAST_DRIVER} or newer: update it"
        return Finding("gpu", "driver", found, State.WARNING, advice)
    return Finding("gpu", "driver", found)


def _users_of_the_gpu(config: str) -> Iterator[Finding]:
    """Numba's CUDA target and onnxruntime's provider."""
    from kernels.launch import cuda

    if cuda.is_available():
        yield Finding("gpu", "numba-cuda", "can use it")
    else:
        yield Finding("gpu", "numba-cuda", "cannot use it", State.WARNING, INSTALL)
    if importlib.util.find_spec("onnxruntime") is not None:
        yield _cuda_provider(config)


def _cuda_provider(config: str) -> Finding:
    """Whether onnxruntime runs the network on the GPU: the provider may be listed, and its libraries missing."""
    from detector.config import load_config
    from models.dense import DenseExecutor
    from models.errors import RoadblocksError
    from models.network import load_network

    try:
        DenseExecutor(load_network(load_config(config).model), "cuda")
    except RoadblocksError as error:
        return Finding("gpu", "onnxruntime", str(error), State.WARNING, INSTALL)
    return Finding("gpu", "onnxruntime", "runs the network on it")
