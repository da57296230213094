"""The command ``python -m tools.soak``."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.progress import Progress
from rich.table import Table

from detector.cli import emit_json, messages, results
from detector.machine import busy_warning, origin
from detector.pipeline import Pipeline
from tools.soak.frames import SWEEPS, make_sweeps
from tools.soak.run import DRIFT_FRAMES, broken_limits, soak


@click.command()
@click.option("--frames", type=click.IntRange(1), default=20_000, show_default=True, help="How many to run.")
@click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of the network. Default: all cores.")
@click.option("--sweeps", type=click.IntRange(1), default=SWEEPS, show_default=True, help="Simulated before the run.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of sweeps and frames.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def main(
    frames: int, config: str, device: str | None, threads: int | None, sweeps: int, seed: int, json_file: str | None
) -> None:
    """Run a pipeline for long: memory, open files, threads, boxes and latency must stay what they are.

    Exit codes: 0 all limits kept, 1 one broken.
    """
    where = origin()
    warning = busy_warning()
    if warning:
        messages.print(warning, style="yellow")
    with messages.status("simulating sweeps …"):
        points = make_sweeps(sweeps, seed)
    with Progress(console=messages, transient=True) as progress:
        task = progress.add_task("soak", total=frames)
        record = soak(
            lambda: Pipeline.from_config(config, device=device, threads=threads),
            points,
            frames,
            seed,
            lambda count: progress.advance(task, count),
        )
    broken = broken_limits(record)
    record = {**where, "command": " ".join(["python -m tools.soak", *sys.argv[1:]]), **record, "broken": broken}
    if json_file != "-":
        results.print(record_table(record))
    if json_file:
        emit_json(json_file, record)
    if broken:
        sys.exit(1)


def record_table(record: dict[str, Any]) -> Table:
    """The record in a few lines, what is broken last."""
    table = Table("what", "found", title=f"{record['frames']} frames through {record['pipelines']} pipelines")
    for name, unit in (("memory", " MB"), ("files", ""), ("threads", "")):
        course = record[name]
        found = f"{course['first']:.0f}{unit} → {course['last']:.0f}{unit}, at most {course['most']:.0f}{unit}"
        table.add_row(name, found)
    drift = "too few probes" if record["drift"] is None else f"{record['drift']:+.1%}"
    judged = "" if record["frames"] >= DRIFT_FRAMES else f" (not judged under {DRIFT_FRAMES} frames)"
    table.add_row("latency over reference kernel", f"{drift}{judged}, {record['probes']} timed probes")
    table.add_row("probes with other boxes", str(len(record["changed"])))
    for line in record["broken"]:
        table.add_row("[red]broken[/red]", line)
    return table


if __name__ == "__main__":
    main(prog_name="python -m tools.soak")
