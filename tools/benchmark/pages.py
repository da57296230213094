"""What pages are made of: records, tables, and where numbers come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks"
NAMES = {"bev": "BEV, IoU 0.7", "3d": "3D, IoU 0.7", "bev_50": "BEV, IoU 0.5", "3d_50": "3D, IoU 0.5"}


def read_record(name: str) -> Any:
    """What ``benchmarks/NAME.json`` holds."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def records_of(kind: str) -> dict[str, Any]:
    """All records of a kind, by the names of their files: KIND, and those of other networks or sources, KIND_ANY."""
    files = [path for path in sorted(RECORDS.glob(f"{kind}*.json")) if path.stem.removeprefix(kind)[:1] in ("", "_")]
    return {path.stem: read_record(path.stem) for path in files}


def config_option(network: str) -> str:
    """What the command of a measurement needs for a network that is not the default one."""
    return "" if network == "kitti" else f" --config {network}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "---:") -> str:
    """A table; columns after the first are aligned right unless told otherwise."""
    lines = [head, ["---", *[align] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(record: dict[str, Any], command: str, file: str) -> str:
    """Where numbers come from, in one line."""
    machine = record["machine"]
    return (
        f"`{command}`, {record['date'][:10]}, revision `{record['revision']}`, {machine['cores']} cores of "
        f"{machine['cpu']}, Python {machine['python']}, onnxruntime {record['versions']['onnxruntime']} "
        f"(`benchmarks/{file}.json`)."
    )


def interval(difference: dict[str, float]) -> str:
    """A paired difference with its interval."""
    return f"{difference['points']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}]"


def ap_cell(ap: float, difference: dict[str, float] | None) -> str:
    """AP [%], and where it is compared with another its paired difference."""
    return f"{ap:.2f}" if difference is None else f"{ap:.2f} ({interval(difference)})"


def mask_name(mask: dict[str, Any]) -> str:
    """A mask with its limits."""
    return f"`{mask['source']}` above {mask['threshold']:g} with a margin of {mask['margin_m']:g} m"
