"""``python -m tools.benchmark ablations``: what each part of the training recipe brings, network beside network."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.progress import track
from rich.table import Table

from detector.cli import messages
from detector.config import load_config
from detector.errors import ConfigError
from detector.paired import paired_difference
from models.mask_network import SUFFIX
from models.network import load_network
from tools.benchmark.accuracy import Run, labelled_source
from tools.benchmark.pages import ap_cell
from tools.benchmark.report import emit, origin

EXECUTIONS = ("dense", "sparse")
COMPARED = ("bev", "3d")  # metrics, AP R40 moderate


def beside_mask(network: Path, mask: Path, folder: Path) -> Path:
    """A copy of a network in a folder of its own, with the mask network that all of them are to be measured with."""
    copy = folder / network.name
    shutil.copyfile(network, copy)
    shutil.copyfile(mask, copy.with_name(copy.stem + SUFFIX))
    return copy


def row(name: str, network: Path, run: Run, base: Run) -> dict[str, Any]:
    """What a network reaches, and how far it is from the first one."""
    info = load_network(network).info
    found = {metric: run.facts["ap"][metric]["R40"]["moderate"] for metric in COMPARED}
    apart = {metric: asdict(paired_difference(run.found, base.found, run.truth, metric)) for metric in COMPARED}
    return {
        "name": name,
        "execution": run.facts["execution"],
        "training": info.training,
        "ap": found,
        **({} if run is base else {"difference": apart}),
    }


def ablation_table(record: dict[str, Any]) -> Table:
    """A row per network and execution."""
    table = Table("network", "execution", *COMPARED, title=f"Car AP R40 moderate, {record['frames']} frames")
    for each in record["rows"]:
        apart = each.get("difference", {})
        cells = (ap_cell(each["ap"][metric], apart.get(metric)) for metric in COMPARED)
        table.add_row(each["name"], each["execution"], *cells)
    return table


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.option("--split", type=click.Path(path_type=Path, exists=True), help="File that lists the frame ids to count.")
@click.option(
    "--network",
    "named",
    multiple=True,
    required=True,
    metavar="NAME=ONNX",
    help="A network and what to call it; the others are compared with the first.",
)
@click.option("--config", default="kitti", show_default=True, help="Whose mask network and settings all of them get.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def ablations(source: Path, split: Path | None, named: tuple[str, ...], config: str, json_file: str | None) -> None:
    """AP of networks that were trained in different ways, dense and sparse, against the first of them.

    \b
    python -m tools.benchmark ablations $KITTI --split configs/splits/kitti_val.txt \\
        --network "all of it=runs/kitti.onnx" --network "no pasted cars=runs/no_pasted_cars.onnx"
    """
    networks = [_named(text) for text in named]
    settings = load_config(config)
    mask = load_network(settings.model).path
    chosen, labels = labelled_source(source, split)
    rows: list[dict[str, Any]] = []
    base: dict[str, Run] = {}
    for name, network in track(networks, "networks", console=messages, transient=True):
        for execution in EXECUTIONS:
            with tempfile.TemporaryDirectory() as folder:
                model = beside_mask(network, mask.with_name(mask.stem + SUFFIX), Path(folder))
                run = Run.of(replace(settings, model=str(model), execution=execution), chosen, labels, split)
            rows.append(row(name, network, run, base.setdefault(execution, run)))
    record = {"frames": len(chosen.frames), "rows": rows, **origin()}
    emit(json_file, record, ablation_table(record))


def _named(text: str) -> tuple[str, Path]:
    name, sign, file = text.partition("=")
    if not sign or not name or not Path(file).is_file():
        raise ConfigError(f"--network {text}: no such file; expected NAME=ONNX, such as 'two cycles=runs/kitti.onnx'")
    return name, Path(file)
