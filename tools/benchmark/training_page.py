"""The measurements on ``docs/training.md``."""

from __future__ import annotations

from typing import Any

from tools.benchmark.ablations import COMPARED, EXECUTIONS
from tools.benchmark.pages import NAMES, interval, markdown, measured, read_record

COMMAND = 'python -m tools.benchmark ablations $KITTI --split configs/splits/kitti_val.txt --network "NAME=ONNX" …'


def ablation_rows(name: str) -> str:
    """A row per network of ``benchmarks/NAME.json``: AP dense and sparse, and how far it is from the first."""
    record = read_record(name)
    by_name: dict[str, dict[str, Any]] = {}
    for row in record["rows"]:
        by_name.setdefault(row["name"], {})[row["execution"]] = row
    rows = [[each, *(cell for metric in COMPARED for cell in _cells(runs, metric))] for each, runs in by_name.items()]
    head = [cell for metric in COMPARED for cell in (f"{NAMES[metric]}, {' / '.join(EXECUTIONS)}", "sparse [95 %]")]
    return f"{markdown(['network', *head], rows)}\n\n{measured(record, COMMAND, name)}"


def _cells(runs: dict[str, Any], metric: str) -> tuple[str, str]:
    pair = " / ".join(f"{runs[execution]['ap'][metric]:.1f}" for execution in EXECUTIONS)
    difference = runs["sparse"].get("difference")
    return pair, interval(difference[metric]) if difference else ""
