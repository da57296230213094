"""``python -m tools.benchmark docs``: tables in README and docs, written from the kernel table and from records."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from detector.cli import messages
from detector.errors import ExitCode, RoadblocksError
from detector.files import write_whole
from detector.matching import DIFFICULTIES
from kernels.op import Exact, Op
from kernels.table import OPS

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "benchmarks"
NAMES = {"bev": "BEV, IoU 0.7", "3d": "3D, IoU 0.7", "bev_50": "BEV, IoU 0.5", "3d_50": "3D, IoU 0.5"}


def read_record(name: str) -> Any:
    """What ``benchmarks/NAME.json`` holds."""
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns after the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(record: dict[str, Any], command: str, file: str) -> str:
    """Where numbers come from, in one line."""
    machine = record["machine"]
    return (
        f"`{command}`, {record['date'][:10]}, revision `{record['revision']}`, {machine['cores']} cores of "
        f"{machine['cpu']}, Python {machine['python']}, onnxruntime {record['versions']['onnxruntime']} "
        f"(`benchmarks/{file}.json`)."
    )


def op_rows() -> str:
    """The table of ops."""
    lines = ["| op | computes | backends agree | CUDA | module |", "|---|---|---|---|---|"]
    for op in OPS:
        module = inspect.getmodule(op.function)
        file = f"kernels/{module.__name__.split('.')[-1]}.py" if module else "?"
        cuda = str(len(op.cuda)) if op.cuda else "–"
        lines.append(f"| `{op.name}` | {op.summary} | {_equality(op)} | {cuda} | [`{file}`](../{file}) |")
    return "\n".join(lines)


def _equality(op: Op) -> str:
    if isinstance(op.equality, Exact):
        return "exactly"
    return f"to {op.equality.tolerance:g}: {op.equality.reason}"


def headline() -> str:
    """What it is about, in one sentence."""
    record = read_record("pipeline")
    dense, sparse = (record["modes"][mode]["total"]["p50_ms"] for mode in ("dense", "sparse"))
    _, accuracy, *_ = read_record("accuracy")["runs"]
    return (
        f"**{sparse:.0f} ms for a KITTI frame on {record['machine']['cores']} CPU cores, {dense:.0f} ms dense through "
        f"onnxruntime: {record['speedup']['sparse']['total']:.1f}× faster at the same accuracy** "
        f"(BEV AP {accuracy['difference']['bev']['points']:+.2f} points)."
    )


def stream_rows() -> str:
    """What overlap brings, and latency at rates."""
    record = read_record("stream")
    lines = []
    for through in record["throughput"]:
        low, high = through["speedup_range"]
        lines.append(
            f"- Overlap, network on {through['threads']} of {record['machine']['cores']} cores: "
            f"**{through['speedup']:.2f}×** the frames per second of a loop of `detect` "
            f"({low:.2f} to {high:.2f}, {through['turns']} turns of {through['frames']} frames)."
        )
    for latest in record["latest"]:
        ms, peaks = latest["latency"], latest["peak_mb"]
        arrived = latest["frames"] + latest["dropped"]
        lines.append(
            f"- `latest` at {latest['rate_hz']:g} Hz: of {arrived} frames **{latest['dropped']} dropped**; latency p50 "
            f"{ms['p50_ms']:.0f}, p95 {ms['p95_ms']:.0f}, **p99 {ms['p99_ms']:.0f}**, longest {ms['max_ms']:.0f} ms; "
            f"memory {peaks['start']:.0f} MB at the first result, {peaks['end']:.0f} MB at the end."
        )
    command = "python -m tools.benchmark stream $KITTI_RAW"
    return "\n".join([*lines, "", measured(record, command, "stream")])


def simulator_rows() -> str:
    """How fast the simulator is."""
    record = read_record("sweeps")
    sensor = record["sensor"]
    return (
        f"Whole turns of {sensor['beams']} × {sensor['rays_per_turn']:,} beams: **{record['sweeps_per_s']:.0f} sweeps "
        f"a second**, {record['frames_per_s']:.0f} frames with labels, tracks and road, medians of "
        f"{len(record['worlds'])} worlds. {measured(record, 'python -m tools.benchmark sweeps', 'sweeps')}"
    )


def latency_rows() -> str:
    """Milliseconds per stage, dense and sparse, and their ratios."""
    record = read_record("pipeline")
    modes, facts, speedup = record["modes"], record["facts"]["sparse"], record["speedup"]
    names = {"dense": "dense", "sparse": "sparse", "tiles_all": "sparse, all tiles active"}
    rows = [
        [stage.replace("total", "**total**")]
        + [f"{modes[mode][stage]['p50_ms']:.2f} / {modes[mode][stage]['p99_ms']:.2f}" for mode in names]
        for stage in modes["dense"]
        if modes["dense"][stage]["max_ms"]  # nothing is written
    ]
    text = (
        f"{facts['frames']} frames, {record['turns']} turns, milliseconds p50 / p99. Active tiles: "
        f"{facts['tile_fraction']:.1%} of the grid on average. Dense is onnxruntime at {record['dense_gflops']:.0f} "
        f"GFLOP/s, {record['dense_gflops'] / record['gemm_gflops']:.0%} of what a matrix product reaches here. "
        f"**Sparse over dense: network {speedup['sparse']['backbone']:.1f}×, "
        f"frame {speedup['sparse']['total']:.1f}×**; with all tiles "
        f"active the network is {speedup['tiles_all']['backbone']:.1f}× as fast as dense."
    )
    origin = measured(record, "python -m tools.benchmark pipeline $KITTI", "pipeline")
    return f"{markdown(['stage', *names.values()], rows)}\n\n{text}\n\n{origin}"


def sbnet_rows() -> str:
    """SBNet's tables beside the paper's column."""
    records = read_record("sbnet")
    rows = []
    for row in records:
        layers = "3×3 convolution" if row["kind"] == "conv" else f"{row['units']} residual units"
        folded = f"{row['ours_folded']:.1f}×" if "ours_folded" in row else ""
        name = f"{row['stage']}: {layers}, {row['height']}×{row['width']}×{row['channels']}, {row['mask']} mask"
        times = (f"{row['dense_ms']:.1f}", f"{row['sparse_ms']:.2f}")
        rows.append([name, f"{row['sparsity']:.0%}", f"{row['sbnet']:.2f}×", f"**{row['ours']:.1f}×**", folded, *times])
    head = ["layers", "empty", "SBNet", "here", "BN folded", "dense ms", "sparse ms"]
    return f"{markdown(head, rows)}\n\n{measured(records[0], 'python -m tools.benchmark sbnet', 'sbnet')}"


def accuracy_rows() -> str:
    """AP of dense and sparse execution."""
    record = read_record("accuracy")
    dense, default, *_ = record["runs"]
    rows = []
    for metric, name in NAMES.items():
        one, other = (run["ap"][metric]["R40"] for run in (dense, default))
        pairs = [f"{one[difficulty]:.1f} / {other[difficulty]:.1f}" for difficulty in DIFFICULTIES]
        rows.append([name, *pairs, _interval(default["difference"][metric])])
    table = markdown(["dense / sparse", *DIFFICULTIES, "moderate, sparse minus dense [95 %]"], rows)
    text = f"Mask {_mask_name(default['mask'])}, {default['tile_fraction']:.1%} of the tiles active."
    command = "python -m tools.benchmark accuracy $KITTI --split configs/splits/kitti_val.txt"
    return f"{table}\n\n{text}\n\n{measured(record, command, 'accuracy')}"


def _mask_name(mask: dict[str, Any]) -> str:
    return f"`{mask['source']}` above {mask['threshold']:g} with a margin of {mask['margin_m']:g} m"


def mask_rows() -> str:
    """Every source of the mask at its defaults, and cars that the default loses."""
    record = read_record("masks")
    rows = [
        [
            f"{_mask_name(run)}{' (default)' if run['source'] == record['preferred'] else ''}",
            f"{run['tile_fraction']['p50']:.1%} / {run['tile_fraction']['p95']:.1%}",
            f"{run['car_cells_inside']:.1%}",
            f"{run['cars_wholly_inside']:.1%}",
            f"{run['mask_ms']:.1f}",
            f"{run['frame_ms']:.1f}",
            f"{run['ap']['bev']:.1f}",
            _interval(run["difference"]),
            f"{len(run['lost'])} of {run['cars_found_dense']}",
        ]
        for run in record["sources"]
    ]
    head = ["mask", "tiles p50 / p95", "car cells inside", "cars wholly inside", "mask ms", "frame ms"]
    table = markdown([*head, "BEV AP", "minus all tiles [95 %]", "cars lost"], rows)
    default = next(run for run in record["sources"] if run["source"] == record["preferred"])
    lost = ", ".join(f"`{car}`" for car in default["lost"]) or "none"
    text = (
        f"{record['frames']} frames. Cars lost: moderate ones found with all tiles (BEV IoU 0.5, at the score that "
        f"pictures show) and not with the mask; by the default: {lost} (frame, and place among the cars and vans of "
        "its label file)."
    )
    command = "python -m tools.benchmark masks $KITTI --split configs/splits/kitti_val.txt"
    return f"{table}\n\n{text}\n\n{measured(record, command, 'masks')}"


def mounting_rows() -> str:
    """Road IoU on simulated drives, and cars inside the default mask with the sensor mounted otherwise."""
    record = read_record("road")
    rows = [
        [name, *(f"{facts[key]:.1%}" for key in ("tile_fraction", "car_cells_inside", "cars_wholly_inside"))]
        for name, facts in record["conditions"].items()
    ]
    iou, cars = record["road_iou"], next(iter(record["conditions"].values()))["cars"]
    text = (
        f"On {record['frames']} simulated frames of worlds that training never saw, road IoU at cells of 0.8 m is "
        f"**{iou['seen']:.3f}** where the sensor sees the ground (a point in the cell or next to it) and "
        f"{iou['everywhere']:.3f} over the whole grid. On as many whole sweeps, with {cars} cars of 10 points and more:"
    )
    table = markdown(["condition", "active tiles", "car cells inside", "cars wholly inside"], rows)
    return f"{text}\n\n{table}\n\n{measured(record, 'python -m tools.benchmark road', 'road')}"


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['points']:+.2f} [{difference['low']:+.2f}, {difference['high']:+.2f}]"


def claim_rows() -> str:
    """Kernels against what they have to beat."""
    record = read_record("kernels")
    rows = [
        [
            claim["name"],
            f"{claim['ours']}: {claim['ours_ms']:.3g} ms",
            f"{claim['baseline']}: {claim['baseline_ms']:.3g} ms",
            f"{claim['ratio']:.3g}",
            f"{'≥' if claim['at_least'] else '≤'} {claim['wanted']:g}",
        ]
        for claim in record["claims"]
    ]
    origin = measured(record, "python -m tools.benchmark kernels --frames $KITTI/training", "kernels")
    return f"{markdown(['', 'ours', 'against', 'ratio', 'wanted'], rows)}\n\n{origin}"


# What is written where: page, name of the section, its text.
SECTIONS: tuple[tuple[Path, str, Callable[[], str]], ...] = (
    (ROOT / "docs" / "kernels.md", "ops", op_rows),
    (ROOT / "docs" / "kernels.md", "claims", claim_rows),
    (ROOT / "docs" / "masks.md", "sources", mask_rows),
    (ROOT / "docs" / "masks.md", "mountings", mounting_rows),
    (ROOT / "README.md", "headline", headline),
    (ROOT / "README.md", "stream", stream_rows),
    (ROOT / "README.md", "simulator", simulator_rows),
    (ROOT / "README.md", "latency", latency_rows),
    (ROOT / "README.md", "accuracy", accuracy_rows),
    (ROOT / "README.md", "sbnet", sbnet_rows),
)


def render(page: str, name: str, text: str, file: Path) -> str:
    """The page with the text in its section.

    Raises:
        RoadblocksError: if the page has no place for it.
    """
    first, last = f"<!-- {name}: written by python -m tools.benchmark docs --write -->", f"<!-- end of {name} -->"
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise RoadblocksError(f"{file}: no place for its section '{name}', expected the lines '{first}' and '{last}'")
    return f"{before}{first}\n{text}\n{last}{after}"


@click.command()
@click.option("--write", is_flag=True, help="Write the pages; without it, only tell which are old.")
def docs(write: bool) -> None:
    """Keep the tables in README and docs as the kernel table and the records in benchmarks/ are."""
    old = []
    for file, name, make in SECTIONS:
        page = file.read_text(encoding="utf-8")
        wanted = render(page, name, make(), file)
        if page == wanted:
            continue
        if write:
            write_whole(file, wanted)
        else:
            old.append(f"{file}: its section '{name}' is old; run python -m tools.benchmark docs --write")
    for line in old:
        messages.print(line, soft_wrap=True)
    if old:
        sys.exit(ExitCode.FAILED)
