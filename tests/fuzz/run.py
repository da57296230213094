"""``python -m tests.fuzz.run TARGET [libFuzzer's options and folders]``: fuzzing guided by coverage (``make fuzz``)."""

from __future__ import annotations

import logging
import sys
import warnings

import atheris

# Not the kernels: Numba could not read them any more.
READERS = [
    *(f"detector.{name}" for name in ("calibration", "config", "files", "frame_checks", "labels", "point_files")),
    *(f"models.{name}" for name in ("graph", "graph_checks", "grid", "network", "plan", "steps")),
    "yaml",
]

with atheris.instrument_imports(include=READERS):
    from tests.fuzz.targets import check


def main() -> None:
    """Runs one target until libFuzzer is told to stop or finds something."""
    name = sys.argv[1]
    warnings.simplefilter("error")
    logging.getLogger("roadblocks").disabled = True  # thousands of lines a second
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda data: check(name, data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
