"""Frames for a soak: a few simulated sweeps, and as many others made of them as are wanted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tools.simulation.drive import simulate_drive

Float32 = NDArray[np.float32]

SWEEPS, SWEEPS_PER_WORLD, STEP_S = 50, 5, 2.0
MOST_POINTS = 200_000
EMPTY_SHARE = 0.02


def make_sweeps(count: int, seed: int) -> list[Float32]:
    """Points of whole simulated turns of several worlds."""
    drive = simulate_drive(count, seed, full=True, step_s=STEP_S, frames_per_world=SWEEPS_PER_WORLD)
    return [found.frame.points for found in drive]


def varied(sweeps: Sequence[Float32], seed: int, number: int) -> Float32:
    """A frame like none before: a sweep rotated about z, with as many of its points as chance wants, or more.

    Args:
        sweeps: (N, 4) float32 each.
        seed: of the run.
        number: of the frame.
    """
    rng = np.random.default_rng((seed, number))
    points = sweeps[rng.integers(len(sweeps))]
    count = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(MOST_POINTS + 1))
    chosen = points[rng.integers(len(points), size=count)] if count > len(points) else rng.permutation(points)[:count]
    angle_rad = rng.uniform(-np.pi, np.pi)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    x, y, z, intensity = chosen.T
    return np.column_stack([cos * x - sin * y, sin * x + cos * y, z, intensity]).astype(np.float32)
