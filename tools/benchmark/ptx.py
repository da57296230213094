"""``python -m tools.benchmark ptx``: what the assembler makes of every CUDA kernel; needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from importlib import metadata
from typing import Any

import click
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from detector.errors import MissingExtraError, RoadblocksError
from kernels.machine_code import CAPABILITIES, compile_kernel
from kernels.op import CudaKernel, Op
from kernels.table import OPS
from tools.benchmark.report import emit, origin

COMPILER = ("numba-cuda", "cuda-core")


def check_compiler() -> None:
    """Refuses to go on without the CUDA compiler.

    Raises:
        MissingExtraError: if a package of it is not installed.
    """
    for package in COMPILER:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError as error:
            raise MissingExtraError(
                f"{package} is not installed; expected for compiling CUDA kernels: pip install 'roadblocks[test]', "
                "or 'roadblocks[gpu]' with an NVIDIA GPU"
            ) from error


def kernels_of(ops: Sequence[Op]) -> dict[tuple[str, str], tuple[CudaKernel, list[str]]]:
    """Kernels by name and signature, each with the names of the ops that use it."""
    found: dict[tuple[str, str], tuple[CudaKernel, list[str]]] = {}
    for op in ops:
        for kernel in op.cuda:
            found.setdefault((kernel.kernel.__name__, kernel.signature), (kernel, []))[1].append(op.name)
    return found


def describe(kernel: CudaKernel, ops: Sequence[str], capability: tuple[int, int]) -> dict[str, Any]:
    """A kernel's row, as the JSON file holds it.

    Returns:
        ``kernel``, ``signature``, ``ops``, ``capability`` ("sm_90"), ``threads`` of a block, ``registers`` of a
        thread, ``spill_bytes`` and ``stack_bytes``; whether ``tensor_cores`` and ``float64`` as found.

    Raises:
        MissingExtraError: if a library of the compiler is missing.
    """
    try:
        code = compile_kernel(kernel, capability)
    except ImportError as error:
        raise MissingExtraError(
            f"the CUDA compiler is incomplete ({error}); expected its libraries: pip install 'roadblocks[test]', "
            "or 'roadblocks[gpu]' with an NVIDIA GPU"
        ) from error
    return {
        "kernel": kernel.kernel.__name__,
        "signature": kernel.signature,
        "ops": list(ops),
        "capability": "sm_{}{}".format(*capability),
        "threads": kernel.threads,
        "registers": code.registers,
        "spill_bytes": code.spill_bytes,
        "stack_bytes": code.stack_bytes,
        "tensor_cores": code.uses_tensor_cores,
        "float64": code.uses_float64,
    }


def code_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of `describe`."""
    table = Table(title="CUDA kernels as machine code")
    table.add_column("kernel", no_wrap=True)
    for name in ("for", "regs", "spill B", "stack B", "tensor", "double"):
        table.add_column(name, justify="right", no_wrap=name == "for")
    for row in rows:
        spill, stack = (f"[red]{row[key]}[/]" if row[key] else "0" for key in ("spill_bytes", "stack_bytes"))
        marks = ("yes" if row[key] else "" for key in ("tensor_cores", "float64"))
        half = " float16" if "float16" in row["signature"] and "float16" not in row["kernel"] else ""
        table.add_row(row["kernel"].lstrip("_") + half, row["capability"], str(row["registers"]), spill, stack, *marks)
    return table


@click.command()
@click.option("--ops", "pattern", default="*", show_default=True, help="Kernels of which ops, e.g. 'sparse_*'.")
@click.option("--json", "json_file", help="Write the rows as JSON; - is stdout.")
def ptx(pattern: str, json_file: str | None) -> None:
    """Compile every CUDA kernel for A100 and H100: registers, spills, tensor cores, double precision."""
    check_compiler()
    found = kernels_of([op for op in OPS if fnmatch(op.name, pattern)])
    if not found:
        names = ", ".join(op.name for op in OPS if op.cuda)
        raise RoadblocksError(f"--ops {pattern}: no CUDA kernel, expected a pattern for some of {names}")
    work = [(*kernel, capability) for kernel in found.values() for capability in CAPABILITIES]
    rows = [describe(*item) for item in track(work, "compile", console=messages, transient=True)]
    emit(json_file, {"kernels": rows, **origin()}, code_table(rows))
