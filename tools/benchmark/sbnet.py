"""``python -m tools.benchmark sbnet``: the speed tables of SBNet (CVPR 2018) on this machine, beside the paper's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from detector.errors import RoadblocksError
from tools.benchmark.masks import read_sweeps, sparsity_of
from tools.benchmark.report import emit, origin, warn_if_busy
from tools.benchmark.sbnet_plot import FIGURE_SPARSITIES, draw_figure, figure_rows
from tools.benchmark.sbnet_rows import ROUNDS, Row, measure, read_rows

Float32 = NDArray[np.float32]

SWEEPS = 5
DEVICE = "cpu"


def measure_rows(
    rows: Iterable[Row], sweeps: Sequence[Float32], sweeps_from: str, rounds: int = ROUNDS, folded: bool = True
) -> list[dict[str, Any]]:
    """The rows with their measurements, as the JSON file holds them.

    Args:
        rows: what to measure.
        sweeps: points (N, 4) float32 of whole turns, for the masks that are not synthetic.
        sweeps_from: where they come from.
        rounds: how often dense and sparse take turns.
        folded: whether units are measured in the folded form too.

    Returns:
        Dictionaries: the columns of ``sbnet_tables.csv``; ``ours`` = ``dense_ms / sparse_ms``, ``tile_fraction`` and
        the rest of `Measurement`; of units also ``ours_folded`` and all of that form's `Measurement` as ``folded``;
        ``masks``, ``mask_sparsity``, and what the numbers came from.
    """
    made_on = {"device": DEVICE, **origin()}
    records = []
    for row in rows:
        masks = row.masks(sweeps)
        record = {**asdict(row), "masks": "top-left rectangle" if row.mask == "synthetic" else sweeps_from}
        record["mask_sparsity"] = float(np.median([sparsity_of(mask) for mask in masks]))
        measured = measure(row, masks, rounds=rounds)
        record |= {"ours": measured.speedup, **measured.to_json()}
        if folded and row.kind == "unit":
            other = measure(row, masks, folded=True, rounds=rounds)
            record |= {"ours_folded": other.speedup, "folded": other.to_json()}
        records.append({**record, **made_on})
    return records


def speed_table(records: Sequence[dict[str, Any]]) -> Table:
    """The records beside the paper's column."""
    table = Table(title="Speed-up of sparse over dense, the same layers: SBNet's tables 1 to 4")
    table.add_column("row")
    heads = ("mask", "SBNet", "ours", "folded", "dense ms", "sparse ms", "tile", "method", "tile fraction", "GFLOP")
    for name in (*heads, "dense GFLOP/s"):
        table.add_column(name, justify="left" if name in ("mask", "method") else "right")
    for record in records:
        ahead = "green" if record["ours"] > record["sbnet"] else "red"
        folded = f"{record['ours_folded']:.2f}" if "ours_folded" in record else ""
        table.add_row(
            f"{record['kind']} {record['stage']} × {record['units']}",
            f"{record['mask']} {record['sparsity']:.0%}",
            f"{record['sbnet']:.2f}",
            f"[{ahead}]{record['ours']:.2f}[/]",
            folded,
            f"{record['dense_ms']:.2f}",
            f"{record['sparse_ms']:.2f}",
            str(record["tile_cells"]),
            record["method"],
            f"{record['tile_fraction']:.3f}",
            f"{record['gflop']:.1f}",
            f"{record['dense_gflop_per_s']:.0f}",
        )
    return table


@click.command()
@click.option(
    "--frames",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="Folder of whole LiDAR turns to make masks from; may be given again. Without any: the sweeps in a folder "
    "'shared' beside the checkout, or simulated ones.",
)
@click.option("--rows", "pattern", default="*", show_default=True, help="Which rows, e.g. 'unit/conv-2/*'.")
@click.option("--json", "json_file", help="Write the rows as JSON; - is stdout.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw speed-up over sparsity as PNG (extra 'plots').",
)
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, show_default=True, help="Turns of both sides.")
def sbnet(frames: tuple[Path, ...], pattern: str, json_file: str | None, plot: Path | None, rounds: int) -> None:
    """Measure the speed tables of SBNet (CVPR 2018): sparse tiles against onnxruntime, here and now.

    \b
    python -m tools.benchmark sbnet --json benchmarks/sbnet.json --plot benchmarks/sbnet.png
    """
    rows = [row for row in read_rows() if fnmatch(row.name, pattern)]
    if not rows:
        names = ", ".join(sorted({row.name for row in read_rows()}))
        raise RoadblocksError(f"--rows {pattern}: no row of that name, expected a pattern for some of {names}")
    warn_if_busy()
    sweeps, sweeps_from = read_sweeps(frames, SWEEPS)
    messages.print(f"masks: {sweeps_from}")
    shown = track(rows, "rows", console=messages, transient=True)
    records = measure_rows(shown, sweeps, sweeps_from, rounds)
    emit(json_file, records, speed_table(records))
    if plot:
        shown = track(figure_rows(), "plot", len(FIGURE_SPARSITIES) * 3, console=messages, transient=True)
        draw_figure(measure_rows(shown, sweeps, sweeps_from, rounds, folded=False), plot)
