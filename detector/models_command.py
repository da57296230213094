"""`roadblocks models`: what networks there are, and how one is run on tiles."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from detector.cli import FriendlyGroup, results
from models.network import load_network, network_folder
from models.plan import Plan, make_plan
from models.steps import DenseStep
from models.tuning import load_choices, tuning_file, unit_name


@click.group(cls=FriendlyGroup)
def models() -> None:
    """Networks: what is shipped, and how a file runs on tiles."""


@models.command("list")
def list_networks() -> None:
    """Shipped networks with their grid and accuracy."""
    table = Table("network", "grid", "classes", "BEV AP R40 at 0.7 (easy, moderate, hard)")
    table.add_column("licence", min_width=len("non-commercial)"))
    for path in sorted(network_folder().glob("*.onnx")):
        info = load_network(path).info
        values = info.ap.get("Car", {}).get("bev", {}).get("R40", {})
        accuracy = " / ".join(f"{values[level]:.1f}" for level in ("easy", "moderate", "hard")) if values else "–"
        size = f"{info.grid.rows}×{info.grid.cols}, {info.grid.cell_m:g} m"
        table.add_row(*map(escape, (info.name, size, ", ".join(info.classes), accuracy, info.licence)))
    results.print(table)


@models.command()
@click.argument("network", metavar="NAME|FILE")
def show(network: str) -> None:
    """The plan of a network: every step, its tiles, sparse or dense, and why.

    \b
    roadblocks models show kitti
    roadblocks models show mine.onnx
    """
    loaded = load_network(Path(network) if network.endswith(".onnx") else network)
    choices = load_choices(loaded, unit_name())
    plan = make_plan(loaded, choices)
    results.print(plan_table(plan))
    tuned = f"tuned: {tuning_file(loaded, unit_name())}"
    source = tuned if choices else "defaults; `roadblocks tune` measures on this machine"
    results.print(f"{plan.operations / 1e9:.1f} GFLOP on all tiles. Tile sizes: {source}", soft_wrap=True)


def plan_table(plan: Plan) -> Table:
    """One line a step."""
    table = Table("step", "map", "stage", "tile", "GFLOP", "runs")
    for line in plan.steps:
        if isinstance(line.step, DenseStep):
            # Names come from the file; rich would take [brackets] in them for its own.
            table.add_row(escape(line.step.operator), "", "", "", "", escape(f"densely: {line.why}"))
            continue
        made, tile = line.made, f"{line.tile_cells}×{line.tile_cells}"
        assert made is not None
        operations = f"{line.step.operations(made) / 1e9:.2f}"
        table.add_row(line.step.operator, f"{made.rows}×{made.cols}", f"/{made.stride}", tile, operations, "on tiles")
    return table
