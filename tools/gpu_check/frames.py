"""The frames of the checks: points of simulated sweeps, kept as whole centimetres so that they travel with the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("frames.npz")
STEP_M = 0.01


def save_frames(frames: list[NDArray[np.float32]], path: Path = FILE) -> None:
    """Keeps points (N, 4) float32 of some frames, rounded to `STEP_M` and 1/255 of the intensity."""
    arrays = {}
    for number, points in enumerate(frames):
        arrays[f"xyz{number}"] = np.round(points[:, :3] / STEP_M).astype(np.int16)
        arrays[f"intensity{number}"] = np.round(points[:, 3] * 255).astype(np.uint8)
    np.savez_compressed(path, **arrays)


def load_frames(path: Path = FILE) -> list[NDArray[np.float32]]:
    """The frames, (N, 4) float32 each."""
    with np.load(path, allow_pickle=False) as kept:
        numbers = range(len(kept.files) // 2)
        return [
            np.column_stack([kept[f"xyz{n}"] * np.float32(STEP_M), kept[f"intensity{n}"] / np.float32(255)]).astype(
                np.float32
            )
            for n in numbers
        ]
