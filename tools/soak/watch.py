"""What is watched during a soak: the process, the probes' boxes and times, a kernel to compare with."""

from __future__ import annotations

import gc
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detector.types import FrameResult
from kernels.table import OPS

REFERENCE_OP = "residual_unit_basic"  # the convolutions that a network mostly is, on the same threads
REFERENCE_CALLS = 5


@dataclass(frozen=True)
class Census:
    """What the process holds at the end of a round: resident memory [bytes], open files, threads."""

    memory: int
    files: int
    threads: int

    @classmethod
    def take(cls) -> Census:
        """Counts, after the garbage has been collected."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        folders = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
        return cls(pages * os.sysconf("SC_PAGE_SIZE"), *folders)


@dataclass
class Probes:
    """What the probes gave.

    Attributes:
        runs: per probe, (number of the frame, latency over reference).
        digests: per probe, of its boxes and scores.
        changed: numbers of frames whose boxes were not those of the time before.
    """

    runs: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)

    def check(self, probe: int, number: int, result: FrameResult) -> None:
        """Compares a result with the one of the time before."""
        found = result.detections
        digest = hashlib.sha256(found.boxes.tobytes() + found.scores.tobytes()).hexdigest()
        if self.digests.setdefault(probe, digest) != digest:
            self.changed.append(number)

    def drift(self, first: int, last: int) -> float | None:
        """How the ratios changed from frames before ``first`` to frames from ``last`` on; None without probes in both.

        Returns:
            Relative: 0.05 is five percent slower.
        """
        changes = []
        for runs in self.runs.values():
            before = [ratio for number, ratio in runs if number < first]
            after = [ratio for number, ratio in runs if number >= last]
            if before and after:
                changes.append(np.median(after) / np.median(before) - 1)
        return float(np.median(changes)) if changes else None


def reference() -> Callable[[], float]:
    """A function that runs the reference kernel and says how long it took [ms], the fastest of some calls."""
    op = next(op for op in OPS if op.name == REFERENCE_OP)
    inputs = op.make_inputs(np.random.default_rng(0), "frame")

    def run_ms() -> float:
        times = []
        for _ in range(REFERENCE_CALLS):
            start_s = time.perf_counter()
            op.function(**inputs)
            times.append(1e3 * (time.perf_counter() - start_s))
        return min(times)

    return run_ms


def course(values: Sequence[float]) -> dict[str, float]:
    """First quarter, last quarter (medians) and extremes of a series; zeros of one that is empty."""
    if not values:
        return dict.fromkeys(("first", "last", "least", "most"), 0.0)
    quarter = max(1, len(values) // 4)
    first, last = (float(np.median(part)) for part in (values[:quarter], values[-quarter:]))
    return {"first": first, "last": last, "least": float(min(values)), "most": float(max(values))}
