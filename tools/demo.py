"""`make demo`: simulate a short drive, detect on it, evaluate it, and show what it cost and where it lies.

The three steps are the commands a user would type; this program prints each before running it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector.labels import CAR

console = Console(highlight=False)


def run_command(*words: str) -> None:
    """Runs one `roadblocks` command, shown as the user would type it; a failure ends the demo with its code."""
    console.print(Text(f"$ roadblocks {shlex.join(words)}", style="bold"))
    code = subprocess.run([sys.executable, "-m", "detector", *words], check=False).returncode
    if code:
        sys.exit(code)


def summary_table(out: Path, drive: Path) -> Table:
    """One table of stage latencies, AP and paths, from the files that the commands left in ``out``."""
    summary = json.loads((out / "run.json").read_text())["summary"]
    ap = json.loads((out / "ap.json").read_text())[CAR]
    table = Table(title=f"roadblocks on {summary['good']} simulated frames", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for stage, row in summary["stages"].items():
        table.add_row("total, load to nms" if stage == "total" else stage, f"{row['p50_ms']:.1f} ms", "median")
    table.add_section()
    for metric, name in (("bev", "BEV, IoU 0.7"), ("3d", "3D, IoU 0.7"), ("bev_50", "BEV, IoU 0.5")):
        row = ap[metric]["R40"]
        values = " / ".join(f"{row[level]:.1f}" for level in ("easy", "moderate", "hard"))
        table.add_row(f"Car AP {name}", values, "easy / moderate / hard")
    table.add_section()
    for what, path in (
        ("pictures", out / "pictures"),
        ("KITTI labels", out / "label_2"),
        ("JSON Lines", out / "detections.jsonl"),
        ("the drive", drive),
    ):
        table.add_row(what, str(path), "")
    return table


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--frames", type=click.IntRange(1), default=20, show_default=True, help="Frames to simulate.")
@click.option("--seed", type=int, default=6, show_default=True, help="Another seed is another world.")
def main(folder: Path, frames: int, seed: int) -> None:
    """Simulate, detect and evaluate in FOLDER."""
    drive, out = folder / "drive", folder / "out"
    run_command("sample", str(drive), "--frames", str(frames), "--seed", str(seed), "--overwrite")
    run_command("detect", str(drive), "-o", str(out), "--render")
    run_command("evaluate", str(out), str(drive), "--json", str(out / "ap.json"))
    console.print(summary_table(out, drive))


if __name__ == "__main__":
    main()
