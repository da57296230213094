"""Checks of the machine: processor, memory, threads."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from detector.doctor import Finding, State
from detector.machine import busy_warning, machine

# What decides how wide the kernels' vectors are, or is asked for when numbers are compared.
FEATURES = ("avx512f", "avx512vnni", "avx2", "fma", "sse4.2", "neon", "sve")
LEAST_MEMORY_GB = 2.0  # a pipeline of the shipped network takes 0.9
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def check_machine(config: str) -> Iterator[Finding]:
    """Processor, memory, system, load."""
    facts = machine()
    yield Finding("machine", "processor", f"{facts['cores']} cores of {facts['cpu']}")
    yield Finding("machine", "system", f"{facts['system']}, Python {facts['python']}")
    yield _memory()
    yield _features()
    busy = busy_warning()
    if busy:
        yield Finding("machine", "load", busy, State.WARNING, "measure when nothing else runs")


def _memory() -> Finding:
    memory_gb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    if memory_gb >= LEAST_MEMORY_GB:
        return Finding("machine", "memory", f"{memory_gb:.1f} GB")
    advice = f"detect wants some {LEAST_MEMORY_GB:g} GB; run one at a time"
    return Finding("machine", "memory", f"{memory_gb:.1f} GB", State.WARNING, advice)


def _features() -> Finding:
    import llvmlite.binding

    has = llvmlite.binding.get_host_cpu_features()
    found = " ".join(name for name in FEATURES if has.get(name)) or "none of " + " ".join(FEATURES)
    if platform.machine() in ("x86_64", "AMD64") and not has.get("avx2"):
        advice = "kernels run several times slower; a virtual machine should pass its host's processor through"
        return Finding("machine", "CPU features", found, State.WARNING, advice)
    return Finding("machine", "CPU features", found)


def check_threads(config: str) -> Iterator[Finding]:
    """How many threads the network gets, and what keeps it from more."""
    import numba

    cores, threads = int(machine()["cores"]), int(numba.config.NUMBA_NUM_THREADS)
    if threads < cores:
        advice = f"NUMBA_NUM_THREADS={os.environ.get('NUMBA_NUM_THREADS', '?')} is set; unset it to use all cores"
        yield Finding("threads", "Numba", f"{threads} of {cores} cores", State.WARNING, advice)
    else:
        yield Finding("threads", "Numba", f"{threads} on {cores} cores")
    quota = cpu_quota(CPU_QUOTA)
    if quota is not None and quota < threads:
        advice = f"threads wait for one another: run with --threads {max(1, int(quota))}, or raise the limit"
        yield Finding("threads", "container", f"limited to {quota:g} cores", State.WARNING, advice)


def cpu_quota(file: Path) -> float | None:
    """Cores that the control group of this process may use at once; None without a limit.

    Args:
        file: ``cpu.max`` of cgroup v2: "QUOTA PERIOD" or "max PERIOD", microseconds.
    """
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None
