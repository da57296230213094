"""What travels with the code: points of simulated frames as whole centimetres, and masks of a simulated whole turn.

``python -m tools.gpu_check.frames`` makes the masks anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("frames.npz")
MASKS = Path(__file__).with_name("masks.npz")
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


def save_masks(masks: Mapping[str, NDArray[np.float32]], path: Path = MASKS) -> None:
    """Keeps masks (1, H, W) of 0 and 1, by the names of their rows."""
    packed = {name: np.packbits(mask[0] > 0, axis=1) for name, mask in masks.items()}
    np.savez_compressed(path, **packed)


def load_mask(name: str, shape: tuple[int, int], path: Path = MASKS) -> NDArray[np.float32]:
    """The mask of a row, (1, H, W) float32."""
    with np.load(path, allow_pickle=False) as kept:
        return np.unpackbits(kept[name], axis=1, count=shape[1])[None].astype(np.float32)


def make_masks() -> dict[str, NDArray[np.float32]]:
    """Masks of SBNet's rows but the synthetic ones."""
    # Imported here: the simulator needs packages that a plain CUDA image lacks.
    from tools.benchmark.sbnet_rows import read_rows
    from tools.simulation.drive import simulate_drive

    points = next(iter(simulate_drive(1, seed=0, full=True))).frame.points
    return {row.name: row.masks([points])[0] for row in read_rows() if row.mask != "synthetic"}


if __name__ == "__main__":
    save_masks(make_masks())
