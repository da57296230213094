"""Executor and pipeline on CUDA in Numba's simulator, in a process of its own: chosen before the first import."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CASES = (
    "tests/models/test_sparse_cuda.py",
    "tests/detector/test_pipeline_cuda.py",
    "tests/tools/test_tune.py",
    "tests/tools/test_gpu_check.py",
)


def test_simulator_cases_pass():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-m", "simulator", "--durations=5", *CASES]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"[1-9]\d* passed", last) and "skipped" not in last, last
