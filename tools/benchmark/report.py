"""What every record says of itself, and where tables and JSON go."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from detector.cli import emit_json, messages, results
from detector.machine import busy_warning
from detector.machine import origin as origin
from detector.profile.charts import import_matplotlib


def warn_if_busy() -> None:
    """Tells on stderr that other programs run here."""
    warning = busy_warning()
    if warning:
        messages.print(warning, style="yellow")


def emit(json_file: str | None, record: Any, *tables: Table) -> None:
    """Writes the record as JSON to a file, or to stdout for "-"; prints the tables unless stdout is JSON's."""
    if json_file != "-":
        results.print(*tables)
    if json_file:
        emit_json(json_file, record)


def make_figure(title: str) -> tuple[Any, Any]:
    """A matplotlib figure with one pair of axes, to be saved.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    figure = import_matplotlib().figure.Figure(figsize=(8, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, fontsize=11)
    return figure, axes
