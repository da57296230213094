"""``python -m tools.kill_test``: `roadblocks detect` killed (SIGKILL) at random instants, and gone on from.

What is left in the end must be what a run in one go writes, byte for byte: nothing lost, nothing doubled.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.progress import Progress
from rich.table import Table

from detector.cli import emit_json, messages, results
from detector.errors import ExitCode, RoadblocksError
from detector.machine import origin
from detector.run import RECORD
from detector.sinks import DETECTIONS, LABELS, PICTURES, TIMING
from tools.simulation.drive import simulate_drive
from tools.simulation.layouts import write_object

AGAIN = 0.5  # share of the runs that are killed once more when they have been gone on from
FROM_START = 0.1  # share of the kills that may come before the first output; starting up is long, and writes nothing
LOOK_S = 0.001


@dataclass
class Runs:
    """Runs of `detect` over one drive, with pictures.

    Attributes:
        command: what is run, but for the output folder.
        span_s: from the first output of a run in one go to its end [s].
        start_s: from its start to its first output [s].
    """

    command: tuple[str, ...]
    span_s: float = 0.0
    start_s: float = 0.0

    def whole(self, out: Path, *options: str) -> None:
        """A run to its end; its times are kept if it starts from nothing."""
        began_s = time.monotonic()
        process = self._start(out, *options)
        self._wait_for_output(process, out)
        first_s = time.monotonic()
        if process.wait() != 0:
            raise RoadblocksError(f"{' '.join(self.command)}: ended with code {process.returncode}, expected 0")
        if not options:
            self.start_s, self.span_s = first_s - began_s, time.monotonic() - first_s

    def killed(self, out: Path, randoms: np.random.Generator, *options: str) -> str | None:
        """A run that is killed; what it was doing, or None if it ended before."""
        process = self._start(out, *options)
        if randoms.random() < FROM_START:
            time.sleep(randoms.uniform(0, self.start_s))
        else:
            if options:  # the files of the run before are there already
                time.sleep(self.start_s)
            else:
                self._wait_for_output(process, out)
            time.sleep(randoms.uniform(0, self.span_s))
        process.kill()
        if process.wait() == 0:
            return None
        if not (out / RECORD).is_file():
            return "starting"
        if not (out / f"{TIMING}.part").is_file():
            return "opening or closing its files"
        return f"after {len((out / f'{TIMING}.part').read_text().splitlines())} frames"

    def _start(self, out: Path, *options: str) -> subprocess.Popen[bytes]:
        command = (*self.command, "-o", str(out), *options)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @staticmethod
    def _wait_for_output(process: subprocess.Popen[bytes], out: Path) -> None:
        while process.poll() is None and not (out / f"{DETECTIONS}.part").is_file():
            time.sleep(LOOK_S)


def read_output(out: Path) -> dict[str, Any]:
    """What must be equal: bytes of labels and detections; of pictures and timings, which hold times, what there is."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.parent.name == LABELS or path.name == DETECTIONS:
            found[name] = path.read_bytes()
        elif path.name == TIMING:
            found[name] = [json.loads(line)["frame"] for line in path.read_text().splitlines()]
        elif path.name == RECORD:
            found[name] = "summary" in json.loads(path.read_text())
        else:
            found[name] = path.parent.name == PICTURES and path.read_bytes()[-8:-4] == b"IEND"
    return found


@click.command()
@click.option("--times", type=click.IntRange(1), default=200, show_default=True, help="Kills.")
@click.option("--frames", type=click.IntRange(1), default=20, show_default=True, help="Frames of the simulated drive.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the drive and the instants.")
@click.option("--config", default="kitti", show_default=True, help="Shipped configuration or a YAML file.")
@click.option("--json", "json_file", help="Write the record as JSON; - is stdout.")
def main(times: int, frames: int, seed: int, config: str, json_file: str | None) -> None:
    """Kill `roadblocks detect` at random instants, go on with --resume, compare with a run in one go."""
    randoms = np.random.default_rng(seed)
    instants: Counter[str] = Counter()
    different: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="roadblocks-kill-") as folder:
        drive = Path(folder, "drive")
        write_object(drive, simulate_drive(frames, seed))
        command = (sys.executable, "-m", "detector", "detect", str(drive), "--config", config, "--render")
        runs = Runs(command)
        runs.whole(Path(folder, "warm"))  # compiles and fills the disk cache, so that the times of the next one count
        runs.whole(Path(folder, "whole"))
        expected = read_output(Path(folder, "whole"))
        with Progress(console=messages, transient=True) as progress:
            task = progress.add_task("kill", total=times)
            while instants.total() < times:
                out = Path(folder, str(instants.total()))
                story = [runs.killed(out, randoms)]
                while randoms.random() < AGAIN and instants.total() + len(story) < times:
                    story.append(runs.killed(out, randoms, "--resume"))
                runs.whole(out, "--resume")
                found = read_output(out)
                wrong = sorted(name for name in found | expected if found.get(name) != expected.get(name))
                if wrong:
                    different.append({"killed": story, "files": wrong})
                instants.update(instant for instant in story if instant is not None)
                progress.update(task, completed=instants.total())
                shutil.rmtree(out)
    record = {**origin(), "frames": frames, "seed": seed, "config": config, "kills": instants.total()}
    record |= {"instants": dict(instants), "different": different}
    table = Table("what the run was doing when it was killed", "kills", title=f"{len(different)} outputs differ")
    for instant, count in sorted(instants.items()):
        table.add_row(instant, str(count))
    if json_file != "-":
        results.print(table)
    if json_file:
        emit_json(json_file, record)
    sys.exit(ExitCode.FAILED if different else ExitCode.OK)


if __name__ == "__main__":
    main()
