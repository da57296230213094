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

from kernels.jit import cache_home
from models.errors import ModelError
from models.network import Network
from models.plan import StageChoice


def tuning_file(network: Network, threads: int | None = None) -> Path:
    """Where the choices for this network, this machine, this number of threads and this version are kept."""
    cores = threads or numba.config.NUMBA_NUM_THREADS
    parts = (network.sha256, llvmlite.binding.get_host_cpu_name(), str(cores), metadata.version("roadblocks"))
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_home() / "tuning" / f"{network.info.name}-{digest}.json"


def load_choices(network: Network, threads: int | None = None) -> dict[int, StageChoice]:
    """The choices by stride; empty where nobody has tuned.

    Raises:
        ModelError: if the file is damaged.
    """
    path = tuning_file(network, threads)
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {int(stride): StageChoice(**choice) for stride, choice in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a tuning file ({error}); delete it, or run: roadblocks tune") from error


def save_choices(network: Network, choices: Mapping[int, StageChoice], threads: int | None = None) -> Path:
    """Keeps the choices; returns the file, which appears whole or not at all."""
    path = tuning_file(network, threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({str(stride): asdict(choice) for stride, choice in choices.items()}, indent=1))
    partial.replace(path)
    return path
