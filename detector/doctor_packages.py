"""Checks of the installed packages: what is needed, what excludes one another, what is missing."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from importlib import metadata

from detector.doctor import Finding, State

# Distribution → what it is for, and the extra that brings it.
OPTIONAL = {
    "onnxruntime": ("dense execution", "cpu"),
    "onnxruntime-gpu": ("dense execution on a GPU", "gpu"),
    "numba-cuda": ("kernels on a GPU", "gpu"),
    "open3d": (".pcd and .ply files, and a viewer", "viz"),
    "rerun-sdk": ("the viewer of streams", "viewer"),
    "matplotlib": ("charts", "plots"),
    "torch": ("training", "train"),
}


def check_packages(config: str) -> Iterator[Finding]:
    """Versions, variants, providers, BLAS."""
    yield from _required()
    versions = {name: version_of(name) for name in OPTIONAL}
    yield from runtime_variants(versions)
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = "; ".join(
        f"{name} for {use} (extra '{extra}')" for name, (use, extra) in OPTIONAL.items() if not versions[name]
    )
    yield Finding("packages", "optional", installed or "none", advice=f"not installed: {missing}" if missing else "")
    if importlib.util.find_spec("onnxruntime") is not None:
        yield _providers()
    if versions["open3d"]:
        yield _open3d()
    yield _thread_pools()


def version_of(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _required() -> Iterator[Finding]:
    version = version_of("roadblocks")
    if version is None:
        advice = "the commands models, profile, sample and tune are missing: pip install . in the checkout"
        yield Finding("packages", "roadblocks", "runs from a folder, not installed", State.WARNING, advice)
        return
    wanted = [line for line in metadata.requires("roadblocks") or [] if "extra ==" not in line]
    bad = [problem for problem in map(unmet, wanted) if problem]
    if bad:
        yield Finding("packages", "required", "; ".join(bad), State.FAILURE, "pip install --upgrade 'roadblocks'")
    else:
        yield Finding("packages", "required", f"roadblocks {version} and its {len(wanted)} requirements")


def unmet(requirement: str) -> str | None:
    """What is wrong with a requirement of the form "name>=version"; None if nothing."""
    name, _, least = requirement.partition(">=")
    version = version_of(name.strip())
    if version is None:
        return f"{name} is not installed"
    return f"{name} is {version}, expected {least} or newer" if _numbers(version) < _numbers(least) else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def runtime_variants(versions: dict[str, str | None]) -> Iterator[Finding]:
    """Of onnxruntime for CPUs and for GPUs, one Python package, the last one installed overwrites the other."""
    both = versions["onnxruntime"] and versions["onnxruntime-gpu"]
    if both:
        advice = "pip uninstall onnxruntime onnxruntime-gpu, then install one: 'roadblocks[cpu]' or 'roadblocks[gpu]'"
        found = "onnxruntime and onnxruntime-gpu are both installed and overwrite one another"
        yield Finding("packages", "onnxruntime", found, State.WARNING, advice)


def _providers() -> Finding:
    """What onnxruntime can run on."""
    try:
        import onnxruntime

        return Finding("packages", "providers", ", ".join(onnxruntime.get_available_providers()))
    except Exception as error:  # a half overwritten package fails in many ways
        found = f"onnxruntime cannot be used ({type(error).__name__}: {error})"
        advice = "dense execution needs it: pip install --force-reinstall 'roadblocks[cpu]', or [gpu]"
        return Finding("packages", "providers", found, State.WARNING, advice)


def _open3d() -> Finding:
    from detector.errors import MissingExtraError
    from detector.point_files import import_open3d

    try:
        import_open3d(".pcd and .ply files need open3d")
    except MissingExtraError as error:
        return Finding("packages", "open3d", "installed, cannot be loaded", State.WARNING, str(error))
    return Finding("packages", "open3d", "can be loaded")


def _thread_pools() -> Finding:
    """BLAS and OpenMP libraries in this process."""
    import numpy as np
    import threadpoolctl

    np.linalg.norm(np.eye(2))  # NumPy's BLAS is loaded by now
    pools = threadpoolctl.threadpool_info()
    names = [f"{pool['internal_api']} {pool['version'] or ''} ({pool['num_threads']} threads)" for pool in pools]
    runtimes = {pool["prefix"] for pool in pools if pool["user_api"] == "openmp"}
    found = ", ".join(dict.fromkeys(names)) or "none"
    if len(runtimes) > 1:
        advice = "two OpenMP libraries in one process may crash or wait for one another; keep the packages of one kind"
        return Finding("packages", "BLAS, OpenMP", found, State.WARNING, advice)
    return Finding("packages", "BLAS, OpenMP", found)
