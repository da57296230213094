"""The model cards in ``models/README.md``: what network files and records say of every shipped detector."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from detector.labels import CAR
from detector.matching import DIFFICULTIES
from models.grid import BevSpec
from models.mask_network import SUFFIX
from models.network import Network, NetworkInfo, load_network, network_folder
from models.plan import make_plan
from tools.benchmark.failure_page import failure_text
from tools.benchmark.pages import NAMES, config_option, markdown, measured, records_of


def cards() -> str:
    """A card for every detector beside its mask network."""
    files = [file for file in sorted(network_folder().glob("*.onnx")) if not file.name.endswith(SUFFIX)]
    return "\n\n".join(card(load_network(file)) for file in files)


def card(network: Network) -> str:
    """What is known of one detector."""
    name = network.info.name
    parts = [f"## {name}", purpose(network.info), facts_table(network), accuracy(network), scores(network)]
    for file, record in _records("failures", network):
        parts.append(outdated(record, network) + failure_text(record, file, config_option(network.info.name)))
    return "\n\n".join([part for part in parts if part])


def _records(kind: str, network: Network) -> list[tuple[str, dict[str, Any]]]:
    """Names and contents of the records of a network, those of recorded frames first."""
    found = [(file, each) for file, each in records_of(kind).items() if each.get("network") == network.info.name]
    return sorted(found, key=lambda pair: pair[1].get("simulated") is not None)


def outdated(record: Mapping[str, Any], network: Network) -> str:
    """What a card says before numbers of other weights than those that lie here; empty before those of these."""
    if record.get("sha256") == network.sha256:
        return ""
    return f"**Measured with earlier weights, SHA-256 `{str(record.get('sha256'))[:12]}…`.** "


def purpose(info: NetworkInfo) -> str:
    """What it finds, and where."""
    grid = info.grid
    ahead = f"from {-grid.x_min_m:g} m behind" if grid.all_round else f"from {grid.x_min_m:g}"
    where = "all round" if grid.all_round else "ahead of the sensor only"
    return (
        f"Finds {', '.join(info.classes)} {where}: {ahead} to {grid.x_max_m:g} m ahead, {-grid.y_min_m:g} m to the "
        f"right and {grid.y_max_m:g} m to the left of a LiDAR {-info.ground_z_m:g} m above the ground "
        "([other mountings](../docs/sensors.md)). Boxes have place, size and heading; no tracks, no speeds."
    )


def facts_table(network: Network) -> str:
    """Files, sizes, cost and training of the detector and of the mask network beside it."""
    mask = network.path.with_name(network.path.name.removesuffix(".onnx") + SUFFIX)
    networks = [network, *([load_network(mask)] if mask.is_file() else [])]
    columns = [facts(each) for each in networks]
    names = list(dict.fromkeys(key for column in columns for key in column))
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return markdown(["", "detector", "mask network"][: 1 + len(columns)], rows, "---")


def facts(network: Network) -> dict[str, str]:
    """What a file says of itself, in words."""
    info = network.info
    operations = make_plan(network).operations
    training = {f"training: {key}": _plain(value) for key, value in sorted(info.training.items())}
    return {
        "file": f"`{network.path.name}`, {len(network.content):,} bytes",
        "SHA-256": f"`{network.sha256}`",
        "licence": info.licence,
        "outputs": ", ".join(info.classes),
        "grid": grid_text(info.grid),
        "output cells": f"{info.output_stride * info.grid.cell_m:g} m",
        "weights": f"{parameters(network):,}",
        "multiply-adds, whole grid": f"{operations / 2e9:.2f} billion",
        **training,
        **({} if network.path.name.endswith(SUFFIX) else finding(info)),
    }


def finding(info: NetworkInfo) -> dict[str, str]:
    """What only detectors say of themselves."""
    return {"AP at export, BEV IoU 0.7, occupancy mask": _exported(info.ap), "display score": f"{info.display_score:g}"}


def _plain(value: Any) -> str:
    """A value of the metadata, on one line of a table."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.split()).replace("|", "\\|")


def _exported(ap: Mapping[str, Any]) -> str:
    """Easy, moderate and hard, as the metadata have them."""
    values = ap.get(CAR, {}).get("bev", {}).get("R40", {})
    return " / ".join(f"{values[name]:.1f}" for name in DIFFICULTIES) if values else ""


def grid_text(grid: BevSpec) -> str:
    """A grid in one line."""
    return (
        f"{grid.rows} × {grid.cols} cells of {grid.cell_m:g} m; x {grid.x_min_m:g} to {grid.x_max_m:g}, "
        f"y {grid.y_min_m:g} to {grid.y_max_m:g}, z {grid.z_min_m:g} to {grid.z_max_m:g} m"
    )


def parameters(network: Network) -> int:
    """Numbers that were learned: what is stored for convolutions and normalisations."""
    graph = onnx.load_from_string(network.content).graph
    read = {name for node in graph.node if node.op_type in WEIGHTED for name in node.input}
    return sum(math.prod(tensor.dims) for tensor in graph.initializer if tensor.name in read)


WEIGHTED = ("Conv", "ConvTranspose", "BatchNormalization", "Gemm", "MatMul", "PRelu")


def accuracy(network: Network) -> str:
    """AP by difficulty and by range, dense and sparse, of every record of this network."""
    texts = []
    for file, record in _records("accuracy", network):
        dense, sparse, *_ = record["runs"]
        heading = f"**Accuracy**, car AP R40 [%], dense / sparse, {record['frames']} frames."
        options = f"--split configs/splits/kitti_val.txt{config_option(network.info.name)}"
        command = f"python -m tools.benchmark accuracy $KITTI {options}"
        note = (
            f"{sparse['tile_fraction']:.1%} of the tiles active. By range every car counts that is labelled and no "
            "more occluded and truncated than hard allows; KITTI's own difficulties end at 43 m, where a car is 25 "
            "pixels high."
        )
        tables = [f"{outdated(record, network)}{heading}", by_difficulty(dense, sparse), by_range(dense, sparse), note]
        texts.append("\n\n".join([*tables, measured(record, command, file)]))
    return (
        "\n\n".join(texts) or "**Accuracy**: no record of this network; the table above has what its export measured."
    )


def by_difficulty(dense: Mapping[str, Any], sparse: Mapping[str, Any]) -> str:
    """A row per metric."""
    rows = [
        [name, *(_pair(run["ap"][metric]["R40"][level] for run in (dense, sparse)) for level in DIFFICULTIES)]
        for metric, name in NAMES.items()
    ]
    return markdown(["", *DIFFICULTIES], rows)


def by_range(dense: Mapping[str, Any], sparse: Mapping[str, Any]) -> str:
    """A row per metric, a column per band of range."""
    head = [f"{band} ({facts['cars']} cars)" for band, facts in dense["ranges"].items()]
    rows = [
        [name, *(_pair(run["ranges"][band][metric] for run in (dense, sparse)) for band in dense["ranges"])]
        for metric, name in NAMES.items()
    ]
    return markdown(["", *head], rows)


def _pair(values: Sequence[float] | Any) -> str:
    return " / ".join(f"{value:.1f}" for value in values)


def scores(network: Network) -> str:
    """What the display score brings."""
    texts = []
    for _, record in _records("scores", network):
        display = record["runs"][-1]["display"]
        texts.append(
            f"{outdated(record, network)}**Display score {record['display_score']:g}**: from it on precision "
            f"{display['precision']:.1%} and recall {display['recall']:.1%} (moderate, BEV IoU 0.7, sparse); "
            "other thresholds and what a score is worth: [docs/scores.md](../docs/scores.md)."
        )
    return "\n\n".join(texts)
