"""Samples for the road-mask network: coarse grids with the road and the vehicles under them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from detector.labels import CAR
from kernels.workspace import Workspace
from models.grid import BevSpec
from models.mask_network import OUTPUT_STRIDE, mask_input, mask_spec
from tools.simulation.drive import DriveFrame, simulate_drive
from tools.training.augment import AugmentConfig, Motion, augment
from tools.training.dataset import MIN_POINTS_TO_LEARN, CutObject, LabelledFrame, cut_objects
from tools.training.road_labels import ROAD, UNKNOWN, road_labels
from tools.training.targets import vehicle_cells

ROAD_SPEC = BevSpec(cell_m=0.4)  # of rasters of recorded frames
FINE = 4  # places per side of an output cell at which the raster is asked

Sample = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class MaskDataConfig:
    """What the mask network learns from."""

    front_frames: int = 800  # simulated, as the camera sees them
    surround_frames: int = 260  # simulated, whole sweeps: they may be turned all the way
    real_share: float = 0.3  # of the samples, where there are real frames
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(pasted_cars=6, height_m=0.4))
    vehicle_margin_m: float = 0.4  # around a box: cells that it touches


@dataclass(frozen=True)
class MaskFrame:
    """A labelled frame and what its ground is.

    Attributes:
        frame: points and boxes.
        road: (R, C) uint8 of `ROAD`, `NOT_ROAD`, `UNKNOWN`.
        spec: the grid of the raster; heights mean nothing.
        surround: whether the points are a whole sweep.
        hits: (M,) int64, points on each box; empty where nobody asks.
    """

    frame: LabelledFrame
    road: NDArray[np.uint8]
    spec: BevSpec
    surround: bool = False
    hits: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def simulated_frames(config: MaskDataConfig, seed: int) -> Iterable[MaskFrame]:
    """Simulated frames, each world seen three times."""
    for count, full in ((config.front_frames, False), (config.surround_frames, True)):
        for drive_frame in simulate_drive(count, seed + full, full=full, step_s=3.0, frames_per_world=3):
            yield from_simulation(drive_frame, full)


def from_simulation(found: DriveFrame, full: bool) -> MaskFrame:
    """A simulated frame, its cars all round."""
    objects = found.objects
    cars = np.array([kind == CAR for kind in objects.kinds], bool)
    frame = LabelledFrame(
        found.frame.id,
        found.frame.points,
        objects.boxes.astype(np.float32).reshape(-1, 7),
        cars & (objects.hits >= MIN_POINTS_TO_LEARN),
        found.labels,
        found.frame.calibration,
    )
    return MaskFrame(frame, found.road.road.astype(np.uint8), found.road.spec, full, objects.hits)


def from_recording(frame: LabelledFrame) -> MaskFrame:
    """A recorded frame: the road is what its points say."""
    return MaskFrame(frame, road_labels(frame.points, ROAD_SPEC.cell_m), ROAD_SPEC)


@dataclass(frozen=True)
class MaskData:
    """What the mask network learns from: recorded frames, simulated ones, and the cars to paste into either."""

    real: list[MaskFrame]
    simulated: list[MaskFrame]
    objects: list[CutObject]

    @classmethod
    def of(cls, real: list[LabelledFrame], simulated: Iterable[MaskFrame]) -> MaskData:
        """Labels the road of the recorded frames, and cuts out their cars."""
        return cls([from_recording(frame) for frame in real], list(simulated), cut_objects(real))


class MaskSampleMaker:
    """A sequence of samples; number ``i`` is the same in every run with the same seed. See `SampleMaker`."""

    def __init__(self, data: MaskData, spec: BevSpec, config: MaskDataConfig, seed: int, count: int) -> None:
        self.data = data
        self.spec, self.config, self.seed, self.count = mask_spec(spec), config, seed, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Sample:
        """Grid (rows, cols, FEATURES); target and weight, (2, rows / 2, cols / 2) float32 both: road, vehicles."""
        if number >= self.count:
            raise IndexError(number)
        rng = np.random.default_rng((self.seed, number))
        real = self.data.real and rng.random() < self.config.real_share
        frames = self.data.real if real else self.data.simulated
        return self.make(frames[rng.integers(len(frames))], rng)

    def make(self, frame: MaskFrame, rng: np.random.Generator) -> Sample:
        """One sample of a frame."""
        config, spec = self.config.augment, self.spec
        if frame.surround:
            config = replace(config, rotation_rad=np.pi)
        points, boxes, counted, motion = augment(frame.frame, self.data.objects, config, rng)
        grid = mask_input(points, spec, Workspace())
        return grid, *mask_targets(frame, boxes, counted, motion, spec, self.config.vehicle_margin_m)


def mask_targets(
    frame: MaskFrame,
    boxes: NDArray[np.float32],
    counted: NDArray[np.bool_],
    motion: Motion,
    spec: BevSpec,
    margin_m: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Target and weight of a sample, both (2, rows / 2, cols / 2) float32: share of road, vehicle or not."""
    cell_m = spec.cell_m * OUTPUT_STRIDE
    shape = (spec.rows // OUTPUT_STRIDE, spec.cols // OUTPUT_STRIDE)
    kind = road_at(frame, motion, spec, cell_m / FINE, (shape[0] * FINE, shape[1] * FINE))
    kind = kind.reshape(shape[0], FINE, shape[1], FINE).swapaxes(1, 2).reshape(*shape, FINE * FINE)
    known = (kind != UNKNOWN).sum(2)
    road = (kind == ROAD).sum(2) / np.maximum(known, 1)
    origin = (spec.x_min_m, spec.y_min_m)
    vehicle = vehicle_cells(boxes[counted], origin, cell_m, shape, margin_m)
    unclear = vehicle_cells(boxes[~counted], origin, cell_m, shape, margin_m) & ~vehicle
    target = np.stack([road, vehicle]).astype(np.float32)
    weight = np.stack([known == FINE * FINE, ~unclear]).astype(np.float32)
    return target, weight


def road_at(
    frame: MaskFrame, motion: Motion, spec: BevSpec, cell_m: float, shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """(rows, cols) uint8: the raster of a frame that was moved, on other cells; unknown beyond its border."""
    x = spec.x_min_m + (np.arange(shape[0])[:, None] + 0.5) * cell_m
    y = spec.y_min_m + (np.arange(shape[1])[None, :] + 0.5) * cell_m
    x, y = motion.origin_of(x, y)
    row = np.floor((x - frame.spec.x_min_m) / frame.spec.cell_m).astype(int)
    col = np.floor((y - frame.spec.y_min_m) / frame.spec.cell_m).astype(int)
    inside = (row >= 0) & (row < frame.road.shape[0]) & (col >= 0) & (col < frame.road.shape[1])
    kind = np.full(shape, UNKNOWN, np.uint8)
    kind[inside] = frame.road[row[inside], col[inside]]
    return kind
