"""Runs that are killed (SIGKILL) before one line of the code that writes, and gone on from: as a program, see `main`.

A process of its own, because it forks, which a process with Numba's threads had better not. The detector is a stand-in
without a network: what is tested is the writing.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import numpy as np

from detector import run
from detector.calibration import Calibration, write_object_calibration
from detector.config import Config
from detector.errors import SourceError
from detector.sources import open_sources
from detector.types import Detections, Frame, FrameResult

AXES = np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
CALIBRATION = Calibration(AXES, np.array([[300, 0, 620, 0], [0, 300, 180, 0], [0, 0, 1, 0.0]]))
WRITERS = {"run.py", "sinks.py", "files.py"}


class StandIn:
    """Finds one car per point."""

    device = "cpu"
    network = SimpleNamespace(path=Path("none.onnx"), sha256="0")

    def __init__(self, score: float) -> None:
        self.config = Config(score=score)

    def detect(self, frame: Frame, clock: Any) -> FrameResult:
        size = np.tile(np.array([4, 2, 1.5, self.config.score], np.float32), (len(frame), 1))
        scores = np.full(len(frame), 0.5 + self.config.score / 2, np.float32)
        found = Detections(np.hstack([frame.points[:, :3], size]), scores, ("Car",) * len(frame))
        return FrameResult(frame, found, clock.elapsed_ms, 1, 1, warnings=frame.warnings)


def write_drives(folder: Path) -> list[Path]:
    """Two recordings of a few frames, one of them without points, one broken."""
    drives = [folder / name for name in ("one", "two ü")]
    for count, drive in enumerate(drives, start=2):
        for name in ("velodyne", "calib"):
            (drive / name).mkdir(parents=True)
        for index in range(count):
            points = np.full((index, 4), [10 + index, 1, -1, 0.5], np.float32)
            points.tofile(drive / "velodyne" / f"{index:06d}.bin")
            write_object_calibration(drive / "calib" / f"{index:06d}.txt", CALIBRATION)
    (drives[1] / "velodyne" / "000001.bin").write_bytes(b"x" * 17)
    return drives


def detect(drives: list[Path], out: Path, score: float, resume: bool) -> None:
    run.detect_sources(StandIn(score), open_sources(drives), out, run.RunOptions(resume=resume))


def go_on(drives: list[Path], out: Path, other: dict[str, Any]) -> None:
    """Repeats a killed run with --resume. Refused, it had not begun: the other run's output is there untouched."""
    try:
        detect(drives, out, 0.75, resume=True)
    except SourceError:
        assert {name: found for name, found in content(out).items() if not name.endswith(".part")} == other
        detect(drives, out, 0.75, resume=False)


def content(out: Path) -> dict[str, Any]:
    """Everything under a folder: bytes by name, of the files whose times may differ what must be equal."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name == "timing.jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in record.items() if key != "stage_ms"} for record in records]
        elif path.name == "run.json":
            summary = json.loads(path.read_text())["summary"]
            found[name] = [summary[key] for key in ("frames", "skipped", "faults", "interrupted")]
        else:
            found[name] = path.read_bytes()
    return found


def killed_before(line: int, work: Callable[[], None]) -> bool:
    """Does the work in a child that is killed before it runs the writers' line of this number; False if it ended."""
    child = os.fork()
    if child == 0:
        left = [line]

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            if Path(frame.f_code.co_filename).name not in WRITERS or "detector" not in frame.f_code.co_filename:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main() -> None:
    """``crash_points.py FOLDER STEP``: kills before every STEP-th line; prints what went wrong as JSON."""
    folder, step = Path(sys.argv[1]), int(sys.argv[2])
    run.log.disabled = True
    run.revision = run.versions = run.machine = lambda: "not asked"  # which takes longer than the run
    os.fsync = lambda _: None  # is about power cuts, which this is not
    drives = write_drives(folder / "drives")
    expected = {}
    for score in (0.25, 0.75):
        detect(drives, folder / f"whole {score}", score, resume=False)
        expected[score] = content(folder / f"whole {score}")
    wrong, points = [], 0
    for over_another in (False, True):
        line = 1
        while True:
            out = folder / f"out {over_another} {line}"
            if over_another:
                detect(drives, out, 0.25, resume=False)
            if not killed_before(line, lambda out=out: detect(drives, out, 0.75, resume=False)):
                break
            killed_before(3 * line % 400, lambda out=out: go_on(drives, out, expected[0.25]))
            go_on(drives, out, expected[0.25])
            found = content(out)
            points += 1
            if found != expected[0.75]:
                differing = sorted(
                    name for name in found | expected[0.75] if found.get(name) != expected[0.75].get(name)
                )
                wrong.append({"over another run": over_another, "line": line, "files": differing})
            line += step
    sys.stdout.write(json.dumps({"points": points, "wrong": wrong}))


if __name__ == "__main__":
    main()
