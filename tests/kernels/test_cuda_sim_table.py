"""Every CUDA kernel in Numba's simulator, in a process of its own: the simulator is chosen before the first import."""

import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def test_simulator_cases_pass():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-m", "simulator", "--durations=5", str(FOLDER)]
    done = subprocess.run(command, env=environment, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"[1-9]\d* passed", last) and "skipped" not in last, last
