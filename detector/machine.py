"""What machine and which versions a number came from, and how much memory it took."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "roadblocks",
    "numpy",
    "numba",
    "scipy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "numba-cuda",
    "cuda-bindings",
    "cuda-core",
    "nvidia-nvvm",
    "nvidia-nvjitlink",
)
BUSY = 0.5  # load average from which a measurement is told to be doubtful


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def machine() -> dict[str, str | int]:
    """Processor, usable cores, system, Python."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter; those not installed are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """Git revision of the checkout this runs from, with "+" if changed; "unknown" outside a checkout."""
    folder = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    if not (folder / ".git").exists():
        return "unknown"
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def origin() -> dict[str, Any]:
    """Machine, versions, revision, date and load average: what every record of a measurement says of itself."""
    return {
        "machine": machine(),
        "versions": versions(),
        "revision": revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 2),
    }


def busy_warning() -> str | None:
    """What to tell before a measurement if other programs run here; None on an idle machine."""
    load = os.getloadavg()[0]
    return f"other programs run here (load {load:.1f}): the numbers will suffer" if load > BUSY else None


def peak_memory_mb() -> float:
    """Most memory that this process has held [MB, 1e6 bytes].

    Linux counts it anew for each program; elsewhere ``getrusage`` has to do, which a child inherits.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
