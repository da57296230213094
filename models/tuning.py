"""What `roadblocks tune` found out for a machine and a network, kept between runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import llvmlite.binding
import numba

from kernels.gpu import gpu_name
from kernels.jit import cache_home
from models.errors import ModelError
from models.network import Network
from models.plan import StageChoice
from models.sparse_cuda import wants_half


def unit_name(device: str = "cpu", precision: str = "auto", threads: int | None = None) -> str:
    """What choices hold for: this processor with so many threads, or this GPU with float16 or float32.

    Raises:
        ModelError: if the GPU does not know the precision.
    """
    if device == "cuda":
        return f"{gpu_name()}\n{'float16' if wants_half(precision) else 'float32'}"
    return f"{llvmlite.binding.get_host_cpu_name()}\n{threads or numba.config.NUMBA_NUM_THREADS}"


def _version() -> str:
    try:
        return metadata.version("roadblocks")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "not installed"


def tuning_file(network: Network, unit: str) -> Path:
    """Where the choices for this network, this version and a unit, see `unit_name`, are kept."""
    parts = (network.sha256, unit, _version())
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_home() / "tuning" / f"{network.info.name}-{digest}.json"


def load_choices(network: Network, unit: str) -> dict[int, StageChoice]:
    """The choices for a unit by stride; empty where nobody has tuned.

    Raises:
        ModelError: if the file is damaged.
    """
    path = tuning_file(network, unit)
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {int(stride): StageChoice(**choice) for stride, choice in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a tuning file ({error}); delete it, or run: roadblocks tune") from error


def save_choices(network: Network, choices: Mapping[int, StageChoice], unit: str) -> Path:
    """Keeps the choices; returns the file, which appears whole or not at all."""
    path = tuning_file(network, unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({str(stride): asdict(choice) for stride, choice in choices.items()}, indent=1))
    partial.replace(path)
    return path
