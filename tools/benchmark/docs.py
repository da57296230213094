"""``python -m tools.benchmark docs``: tables in README and docs, written from the kernel table and from records."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from detector.cli import messages
from detector.errors import ExitCode, RoadblocksError
from detector.files import write_whole
from detector.matching import DIFFICULTIES
from kernels.op import Exact, Op
from kernels.table import OPS
from tools.benchmark.cards import cards
from tools.benchmark.mask_page import budget_rows, mask_rows, mounting_rows
from tools.benchmark.pages import NAMES, ROOT, interval, markdown, mask_name, measured, read_record, records_of
from tools.benchmark.score_page import score_rows
from tools.benchmark.sensor_page import sensor_rows
from tools.benchmark.training_page import ablation_rows


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
        f"onnxruntime: {record['speedup']['sparse']['total']:.1f}× faster** "
        f"(BEV AP {accuracy['difference']['bev']['points']:+.2f} points against dense)."
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
        f"GFLOP/s, {record['dense_gflops'] / record['gemm_gflops']:.0%} of what NumPy's matrix product reaches here. "
        f"**Sparse over dense: network {speedup['sparse']['backbone']:.1f}×, "
        f"frame {speedup['sparse']['total']:.1f}×**; with all tiles "
        f"active the network is {speedup['tiles_all']['backbone']:.1f}× as fast as dense."
    )
    origin = measured(record, "python -m tools.benchmark pipeline $KITTI", "pipeline")
    table = markdown(["stage", *names.values()], rows)
    others = [other_latency(file, each) for file, each in records_of("pipeline").items() if each["network"] != "kitti"]
    return "\n\n".join([table, text, origin, *others])


def other_latency(file: str, record: dict[str, Any]) -> str:
    """Milliseconds per frame of another network than the default one, dense and sparse, and their ratios."""
    dense, sparse = (record["modes"][mode]["total"] for mode in ("dense", "sparse"))
    facts, speedup = record["facts"]["sparse"], record["speedup"]["sparse"]
    words = f"$KITTI --config {record['network']} --frames {facts['frames']}"
    return (
        f"**`{record['network']}`**, whole sweeps, {facts['frames']} frames, {record['turns']} turns, p50 / p99: "
        f"{sparse['p50_ms']:.1f} / {sparse['p99_ms']:.1f} ms sparse, {dense['p50_ms']:.1f} / {dense['p99_ms']:.1f} ms "
        f"dense; {facts['tile_fraction']:.1%} of the tiles active; network {speedup['backbone']:.1f}×, frame "
        f"{speedup['total']:.1f}×. {measured(record, f'python -m tools.benchmark pipeline {words}', file)}"
    )


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
        rows.append([name, *pairs, interval(default["difference"][metric])])
    table = markdown(["dense / sparse", *DIFFICULTIES, "moderate, sparse minus dense [95 %]"], rows)
    text = f"Mask {mask_name(default['mask'])}, {default['tile_fraction']:.1%} of the tiles active."
    command = "python -m tools.benchmark accuracy $KITTI --split configs/splits/kitti_val.txt"
    return f"{table}\n\n{text}\n\n{measured(record, command, 'accuracy')}"


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
    (ROOT / "docs" / "scores.md", "scores", score_rows),
    (ROOT / "models" / "README.md", "cards", cards),
    (ROOT / "docs" / "masks.md", "sources", mask_rows),
    (ROOT / "docs" / "masks.md", "mountings", mounting_rows),
    (ROOT / "docs" / "masks.md", "budgets", budget_rows),
    (ROOT / "docs" / "sensors.md", "sensors", sensor_rows),
    (ROOT / "docs" / "training.md", "recipe", partial(ablation_rows, "recipe")),
    (ROOT / "docs" / "training.md", "ablations", partial(ablation_rows, "ablations")),
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
