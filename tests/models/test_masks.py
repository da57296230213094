"""Mask sources on points known by heart."""

import numpy as np

from models.grid import BevSpec
from models.masks import MASK_SOURCES, MASK_STRIDE, mask_shape

SPEC = BevSpec(x_max_m=16.0, y_min_m=-8.0, y_max_m=8.0, z_min_m=-2, z_max_m=0, cell_m=0.1, z_bin_m=0.5)
NOTHING = np.zeros((0, 4), np.float32)


def test_all_covers_the_grid():
    mask = MASK_SOURCES["all"](SPEC)(NOTHING)
    assert mask.shape == (1, 40, 40) == (1, *mask_shape(SPEC)) and mask.dtype == np.float32 and mask.all()


def test_occupied_is_where_points_are_at_any_height():
    source = MASK_SOURCES["occupied"](SPEC)
    points = np.array([[0.05, -7.95, -1, 0], [8.0, 0.0, 5, 0], [15.9, 7.9, -9, 1], [40, 0, -1, 1]], np.float32)
    mask = source(points)
    assert mask.dtype == np.float32
    assert np.argwhere(mask).tolist() == [[0, 0, 0], [0, 20, 20], [0, 39, 39]]
    assert not source(NOTHING).any(), "no trace of the frame before"


def test_a_mask_cell_covers_its_grid_cells():
    cells = np.random.default_rng(0).integers(0, 160, (50, 2))
    points = np.column_stack([cells[:, 0] * 0.1 + 0.05, cells[:, 1] * 0.1 - 7.95, np.full(50, -1), np.ones(50)])
    expected = np.zeros((40, 40), np.float32)
    expected[cells[:, 0] // MASK_STRIDE, cells[:, 1] // MASK_STRIDE] = 1
    assert np.array_equal(MASK_SOURCES["occupied"](SPEC)(points.astype(np.float32))[0], expected)
