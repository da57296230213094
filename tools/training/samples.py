"""Training samples: augmented windows of the grid, reproducible by number.

A window is a part of the grid, mostly around a car: on a grid that is nearly empty it teaches more per
operation than whole frames do. The network is convolutional, so it runs on whole grids afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kernels.voxelize import voxelize
from models.grid import BevSpec
from tools.training.augment import AugmentConfig, augment
from tools.training.computed_tiles import ComputedConfig, draw_tiles
from tools.training.dataset import LabelledFrame, TrainingData
from tools.training.targets import OUTPUT_STRIDE, make_targets

DEEPEST_STRIDE = 16  # of the network: windows start and end on multiples of it

Sample = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]


@dataclass(frozen=True)
class WindowConfig:
    """Which part of the grid a sample shows."""

    rows: int = 352
    cols: int = 400
    around_a_car: float = 0.8  # share of the windows placed to hold a car


@dataclass(frozen=True)
class SampleConfig:
    """How samples are made from frames."""

    simulated_share: float = 0.3  # of the samples, where there are real and simulated frames
    window: WindowConfig = field(default_factory=WindowConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    computed: ComputedConfig = field(default_factory=ComputedConfig)


class SampleMaker:
    """A sequence of samples; number ``i`` is the same in every run with the same seed.

    It has the two methods of a PyTorch map-style data set.

    Args:
        data: frames, and the cars cut out of them.
        spec: the grid that the network will run on.
        config: how samples are made.
        seed: of all that is drawn.
        count: samples of the whole run.
        first: number of the first one to make.
    """

    def __init__(
        self, data: TrainingData, spec: BevSpec, config: SampleConfig, seed: int, count: int, first: int = 0
    ) -> None:
        self.data, self.spec, self.config = data, spec, config
        self.seed, self.count, self.first = seed, count, first

    def __len__(self) -> int:
        return self.count - self.first

    def __getitem__(self, index: int) -> Sample:
        """Grid (rows, cols, channels); score, regression, ignored of `make_targets`; computed tiles of `draw_tiles`."""
        if index >= len(self):
            raise IndexError(index)
        number = self.first + index
        rng = np.random.default_rng((self.seed, number))
        points, boxes, counted, _ = augment(self._frame(number), self.data.objects, self.config.augment, rng)
        spec, window = self.spec, self.config.window
        row, col = self._place(boxes[counted], rng)
        x_min, y_min = spec.x_min_m + row * spec.cell_m, spec.y_min_m + col * spec.cell_m
        shape = (window.rows, window.cols, spec.channels)
        grid = voxelize(points, (x_min, y_min, spec.z_min_m), spec.cell_m, spec.z_bin_m, shape)
        targets = make_targets(
            boxes,
            counted,
            (x_min, y_min),
            spec.cell_m * OUTPUT_STRIDE,
            (window.rows // OUTPUT_STRIDE, window.cols // OUTPUT_STRIDE),
        )
        tiles = draw_tiles(grid.any(2), boxes, (x_min, y_min), spec.cell_m, self.config.computed, rng)
        return grid, *targets, tiles[None]

    def _frame(self, number: int) -> LabelledFrame:
        """The frame of a sample: of both kinds in turn, every frame once per round, in a new order each round."""
        share = self.config.simulated_share if self.data.simulated and self.data.real else bool(self.data.simulated)
        simulated_before = int(number * share)
        simulated = int((number + 1) * share) > simulated_before
        frames = self.data.simulated if simulated else self.data.real
        turn, place = divmod(simulated_before if simulated else number - simulated_before, len(frames))
        return frames[np.random.default_rng((self.seed, turn, 1)).permutation(len(frames))[place]]

    def _place(self, cars: NDArray[np.float32], rng: np.random.Generator) -> tuple[int, int]:
        """First row and column of a window, aligned to the network's deepest stride."""
        spec, window = self.spec, self.config.window
        x, y = cars[:, 0], cars[:, 1]
        # Turning moves what is far ahead to beyond the sides.
        cars = cars[(x >= spec.x_min_m) & (x < spec.x_max_m) & (y >= spec.y_min_m) & (y < spec.y_max_m)]
        size, limit = (window.rows, window.cols), (spec.rows - window.rows, spec.cols - window.cols)
        first = [int(rng.integers(0, most + 1)) for most in limit]
        if len(cars) and rng.random() < window.around_a_car:
            car = cars[rng.integers(len(cars))]
            cells = ((car[0] - spec.x_min_m) / spec.cell_m, (car[1] - spec.y_min_m) / spec.cell_m)
            first = [int(cell - rng.uniform(0.1, 0.9) * side) for cell, side in zip(cells, size, strict=True)]
        return tuple(  # type: ignore[return-value]
            min(max(start, 0), most) // DEEPEST_STRIDE * DEEPEST_STRIDE
            for start, most in zip(first, limit, strict=True)
        )
