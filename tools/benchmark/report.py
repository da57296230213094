"""What every record says of itself, and where tables and JSON go."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from detector.cli import messages, results
from detector.files import write_json
from detector.machine import machine, revision, versions
from models.errors import MissingExtraError

BUSY = 0.5  # load average from which a measurement is told to be doubtful


def origin() -> dict[str, Any]:
    """Machine, versions, revision, date and load average of a record."""
    return {
        "machine": machine(),
        "versions": versions(),
        "revision": revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": round(os.getloadavg()[0], 2),
    }


def warn_if_busy() -> None:
    """Tells on stderr that other programs run here."""
    if os.getloadavg()[0] > BUSY:
        load = f"{os.getloadavg()[0]:.1f}"
        messages.print(f"other programs run here (load {load}): the numbers will suffer", style="yellow")


def emit(json_file: str | None, record: Any, *tables: Table) -> None:
    """Writes the record as JSON to a file, or to stdout for "-"; prints the tables unless stdout is JSON's."""
    if json_file == "-":
        click.echo(json.dumps(record, indent=1))
        return
    for table in tables:
        results.print(table)
    if json_file:
        write_json(Path(json_file), record)


def make_figure(title: str) -> tuple[Any, Any]:
    """A matplotlib figure with one pair of axes, to be saved.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib is not installed; expected for plots: pip install '.[plots]'") from error
    figure = Figure(figsize=(8, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    return figure, axes
