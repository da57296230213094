"""Same frames, same machine, same bytes, whatever the number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.simulation.drive import simulate_drive
from tools.simulation.layouts import write_object

ROOT = Path(__file__).resolve().parents[2]
# Runs in a process of its own, where Numba has more threads than this machine may have cores.
PROGRAM = """
import hashlib, sys
from pathlib import Path
from detector.config import Config
from detector.pipeline import Pipeline
from detector.run import detect_sources
from detector.sources import open_sources

drive, folder, execution = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
for threads in (1, 2, 4):
    pipeline = Pipeline(Config(execution=execution, device="cpu"), threads)
    detect_sources(pipeline, open_sources([drive]), folder / str(threads))
    digest = hashlib.sha256()
    for path in [folder / str(threads) / "detections.jsonl", *sorted((folder / str(threads) / "label_2").iterdir())]:
        digest.update(path.read_bytes())
    sys.stdout.write(f"{digest.hexdigest()}\\n")
"""


@pytest.mark.parametrize("execution", ["sparse", "dense"])
def test_same_bytes_for_any_number_of_threads(tmp_path: Path, execution: str) -> None:
    write_object(tmp_path / "drive", simulate_drive(2, seed=3))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_NUM_THREADS": "4", "PYTHONHASHSEED": "random"}
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "drive"), str(tmp_path / "out"), execution]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    digests = done.stdout.split()
    assert len(digests) == 3 and len(set(digests)) == 1
    assert any(path.stat().st_size for path in (tmp_path / "out" / "1" / "label_2").iterdir()), "there are boxes"
