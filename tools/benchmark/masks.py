"""Masks of the benchmark: SBNet's rectangle, and masks made from LiDAR sweeps.

All lie on the grid of SBNet's tables, 80 m across × 140.8 m along, the sensor in the middle; rows run across (y),
columns along (x), as the tables print their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.errors import RoadblocksError
from detector.sources import open_sources

Float32 = NDArray[np.float32]

WIDTH_M, LENGTH_M = 80.0, 140.8
FINE = (400, 704)  # cells in which points are counted: 0.2 m
SMOOTHING_M = 1.0
GROUND_BIN_M = 0.1  # to find the height of the ground
ABOVE_GROUND_M = 0.3
TOLERANCE = 0.02  # of a mask's sparsity
SHARED = Path(__file__).resolve().parents[3] / "shared"
FULL_SWEEPS = ("kitti_raw", "argoverse")  # folders of SHARED that hold nothing but whole turns


def sparsity_of(mask: Float32) -> float:
    """Share of a mask's cells that are 0."""
    return 1 - np.count_nonzero(mask) / mask.size


def top_left(shape: tuple[int, int], sparsity: float) -> Float32:
    """SBNet's synthetic mask, (1, H, W) float32: a rectangle of the map's proportions in its first corner."""
    mask = np.zeros((1, *shape), np.float32)
    rows = max(1, round(shape[0] * (1 - sparsity) ** 0.5))
    mask[:, :rows, : round((1 - sparsity) * shape[0] * shape[1] / rows)] = 1
    return mask


def sweep_mask(points: Float32, shape: tuple[int, int], sparsity: float, above_ground: bool) -> Float32:
    """A mask, (1, H, W) float32, from a sweep: where points are dense once smoothed, as much of the map as asked.

    Args:
        points: (N, 4) float32, the whole turn of a LiDAR: x, y, z [m], intensity.
        shape: of the map; its sides divide `FINE`.
        sparsity: share of cells outside the mask.
        above_ground: take only points above the ground: what stands on the road, without the road.

    Raises:
        RoadblocksError: if the points do not reach over that much of the map.
    """
    from scipy.ndimage import gaussian_filter  # imported here: tools.gpu_check runs without SciPy

    if above_ground:
        points = points[points[:, 2] > _ground_m(points) + ABOVE_GROUND_M]
    ranges = ((-WIDTH_M / 2, WIDTH_M / 2), (-LENGTH_M / 2, LENGTH_M / 2))
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], FINE, ranges)
    # A cell counts once however many points it holds: else all of the mask would lie around the sensor.
    density = gaussian_filter((counts > 0).astype(np.float64), SMOOTHING_M * FINE[0] / WIDTH_M)
    rows, cols = (fine // size for fine, size in zip(FINE, shape, strict=True))
    density = density.reshape(shape[0], rows, shape[1], cols).mean((1, 3))
    mask: Float32 = (density > np.quantile(density, sparsity)).astype(np.float32)[None]
    if abs(sparsity_of(mask) - sparsity) > TOLERANCE:
        raise RoadblocksError(
            f"a sweep of {len(points)} points leaves {sparsity_of(mask):.2f} of the map empty, "
            f"expected {sparsity:.2f}; take sweeps of a whole turn"
        )
    return mask


def _ground_m(points: Float32) -> float:
    """The height that most points have [m]."""
    bins = np.floor(points[:, 2] / GROUND_BIN_M).astype(np.int64)
    values, counts = np.unique(bins, return_counts=True)
    return float(values[counts.argmax()] + 0.5) * GROUND_BIN_M


def read_sweeps(folders: Sequence[Path], count: int) -> tuple[list[Float32], str]:
    """Points of about ``count`` sweeps spread over all frames of the folders, and where they come from.

    Without folders those of `SHARED` that hold whole turns, or simulated sweeps where there are none.
    """
    folders = list(folders) or [SHARED / name for name in FULL_SWEEPS if (SHARED / name).is_dir()]
    if not folders:
        from tools.simulation.drive import simulate_drive  # imported here: tools.gpu_check runs without SciPy

        drive = simulate_drive(count, seed=0, full=True, step_s=1.0)
        return [found.frame.points for found in drive], f"{count} simulated sweeps, one a second"
    # Frames of one layout may all bear one name, so every folder of point files is a source of its own.
    files = [frame for folder in folders for source in open_sources([*_recordings(folder)]) for frame in source.frames]
    chosen = np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))
    names = ", ".join(folder.name for folder in folders)
    return [files[number].load().points for number in chosen], f"{len(chosen)} real sweeps of {names}"


def _recordings(folder: Path) -> list[Path]:
    """The folder, or what is in it where it holds recordings of no known layout side by side."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and any(path.glob("*.bin")))
    return inner or [folder]
