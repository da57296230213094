"""``python -m tools.benchmark kernels``: every op of the kernel table on one frame, and the claims made of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from detector.errors import RoadblocksError
from kernels.launch import SIMULATED, cuda, to_device
from kernels.op import Inputs, Op
from kernels.table import OPS
from kernels.workspace import Workspace
from tools.benchmark.claims import Claim, measure_claims, read_frames
from tools.benchmark.report import emit, origin, warn_if_busy
from tools.benchmark.timing import durations_ms, reference_ms

REFERENCE_LIMIT_S = 5.0
SWEEPS = 3
# Maps read and written by the ops that do little else than move cells of tiles; others have no rate that means much.
MAPS_MOVED = {
    "restore_tiles": 2,
    "sparse_gather": 2,
    "sparse_scatter": 2,
    "sparse_scatter_add": 3,
    "tile_pointwise_scale_relu": 2,
    "tile_pointwise_add_sigmoid": 3,
}


def measure_op(op: Op, scale: str, seconds: float, reference: bool = True) -> dict[str, Any]:
    """An op's row, as the JSON file holds it.

    Args:
        op: the op.
        scale: of its inputs, "frame" or "small".
        seconds: how long each backend is measured.
        reference: whether NumPy's reference is measured too.

    Returns:
        ``name``; ``runs``, ``cpu_p50_ms`` and ``cpu_p95_ms`` of the CPU kernel, compiled and warm; ``reference_ms``,
        None where it takes longer than `REFERENCE_LIMIT_S`; ``device_p50_ms`` and ``device_p95_ms``, None without a
        GPU; ``megabytes`` moved and ``gb_per_s`` on the CPU, None where that says little.
    """
    inputs = op.make_inputs(np.random.default_rng(0), scale)
    times = durations_ms(partial(op.function, **inputs, **_workspace(op, False)), seconds)
    p50, p95 = (float(value) for value in np.percentile(times, [50, 95]))
    device_p50, device_p95 = _device_ms(op, inputs, seconds)
    moved = _bytes_moved(op, inputs)
    return {
        "name": op.name,
        "runs": len(times),
        "cpu_p50_ms": p50,
        "cpu_p95_ms": p95,
        "reference_ms": reference_ms(op.name, scale, REFERENCE_LIMIT_S) if reference else None,
        "device_p50_ms": device_p50,
        "device_p95_ms": device_p95,
        "megabytes": moved and moved / 1e6,
        "gb_per_s": moved and moved / p50 / 1e6,
    }


def _workspace(op: Op, device: bool) -> dict[str, Workspace]:
    """What a pipeline passes to ops that take it, so that they allocate nothing."""
    takes = "workspace" in inspect.signature(op.function).parameters
    return {"workspace": Workspace(device)} if takes else {}


def has_device() -> bool:
    """Whether a GPU is there; the simulator's times mean nothing."""
    return not SIMULATED and bool(cuda.is_available())


def device_name() -> str:
    """Name of the GPU, or "cpu" without one."""
    if not has_device():
        return "cpu"
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def _device_ms(op: Op, inputs: Inputs, seconds: float) -> tuple[float | None, float | None]:
    """Median and 95th percentile of a call and the wait for its end."""
    if not op.cuda or not has_device():
        return None, None
    there = {name: to_device(value) for name, value in inputs.items()} | _workspace(op, True)

    def call() -> None:
        op.function(**there)
        cuda.synchronize()

    p50, p95 = np.percentile(durations_ms(call, seconds), [50, 95])
    return float(p50), float(p95)


def _bytes_moved(op: Op, inputs: Inputs) -> int | None:
    """Bytes that have to be read and written at least."""
    if op.name not in MAPS_MOVED:
        return None
    some_map = inputs["out"] if "out" in inputs else inputs["x"]
    cells = len(inputs["tiles"]) * math.prod(inputs["tiles"].spec.size)
    return int(MAPS_MOVED[op.name] * cells * some_map.shape[3] * some_map.itemsize)


def op_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows of `measure_op`."""
    table = Table(title="Kernels, milliseconds: median / 95th percentile")
    table.add_column("op", no_wrap=True)
    for name in ("CPU", "NumPy", "GPU", "GB/s"):
        table.add_column(name, justify="right")
    for row in rows:
        cpu, device = (_cell(row[f"{place}_p50_ms"], row[f"{place}_p95_ms"]) for place in ("cpu", "device"))
        table.add_row(row["name"], cpu, _cell(row["reference_ms"]), device, _cell(row["gb_per_s"]))
    return table


def _cell(*values: float | None) -> str:
    return " / ".join("-" if value is None else f"{value:.3g}" for value in dict.fromkeys(values))


def claim_table(claims: Sequence[Claim]) -> Table:
    """The claims with their verdicts."""
    table = Table("claim", "ours", "against", "ratio", "wanted", title="What is claimed of the kernels")
    for claim in claims:
        sign, colour = ("≥" if claim.at_least else "≤"), ("green" if claim.met else "red")
        table.add_row(
            claim.name,
            f"{claim.ours_ms:.3f} ms: {claim.ours}",
            f"{claim.baseline_ms:.3f} ms: {claim.baseline}",
            f"[{colour}]{claim.ratio:.3g}[/]",
            f"{sign} {claim.wanted:g}",
        )
    return table


@click.command()
@click.option(
    "--frames",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of frames with whole LiDAR turns for the claims; without it they are simulated.",
)
@click.option("--ops", "pattern", default="*", show_default=True, help="Which ops, e.g. 'sparse_*'.")
@click.option("--scale", type=click.Choice(["frame", "small"]), default="frame", show_default=True)
@click.option("--seconds", type=float, default=1.0, show_default=True, help="How long each op is measured.")
@click.option("--rounds", type=click.IntRange(1), default=20, show_default=True, help="Turns of both sides of a claim.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def kernels(frames: Path | None, pattern: str, scale: str, seconds: float, rounds: int, json_file: str | None) -> None:
    """Time every kernel on one frame, and check the claims made of them.

    \b
    python -m tools.benchmark kernels --frames $KITTI/training --json benchmarks/kernels.json
    """
    ops = [op for op in OPS if fnmatch(op.name, pattern)]
    if not ops:
        names = ", ".join(op.name for op in OPS)
        raise RoadblocksError(f"--ops {pattern}: no op of that name, expected a pattern for some of {names}")
    warn_if_busy()
    shown = track(ops, "kernels", console=messages, transient=True)
    rows = [measure_op(op, scale, seconds) for op in shown]
    sweeps, sweeps_from = read_frames(frames, SWEEPS)
    with messages.status("claims"):
        claims = measure_claims(sweeps, rounds)
    record = {
        "device": device_name(),
        "scale": scale,
        "sweeps": sweeps_from,
        "ops": rows,
        "claims": [claim.to_json() for claim in claims],
        **origin(),
    }
    emit(json_file, record, op_table(rows), claim_table(claims))
