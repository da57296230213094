"""Mask sources on points known by heart."""

import json

import numpy as np
import pytest
from PIL import Image

from models.errors import ModelError
from models.grid import BevSpec
from models.mask_network import MASK_STRIDE, mask_spec
from models.masks import LIMITS, SOURCES, kind_of, mask_source

SPEC = BevSpec(x_max_m=16.0, y_min_m=-8.0, y_max_m=8.0, z_min_m=-2, z_max_m=0, cell_m=0.1, z_bin_m=0.5)
NOTHING = np.zeros((0, 4), np.float32)


def test_all_covers_the_grid():
    mask = mask_source("all", SPEC, None)(NOTHING)
    assert mask.shape == (40, 40) == mask_spec(SPEC).shape[:2] and mask.dtype == np.float32
    assert (mask > LIMITS["all"].threshold).all()


def test_occupancy_is_the_height_above_what_lies_near():
    source = mask_source("occupancy", SPEC, None)
    # Ground and a roof 1.5 m apart in one cell; a lone point beside ground 1 m away; ground alone; one outside.
    points = [[0.05, -7.95, -1.9, 0], [0.05, -7.95, -0.3, 0], [8, 0, -0.9, 0], [8, 1, -1.9, 0], [40, 0, -1, 1]]
    mask = source(np.array(points, np.float32))
    found = {(row, col): float(mask[row, col]) for row, col in np.argwhere(mask > -1)}
    assert mask.dtype == np.float32
    assert found == {(0, 0): 1.5, (20, 20): 1.0, (20, 22): 0.0}
    assert (source(NOTHING) == -1).all(), "no trace of the frame before"


def test_a_mask_cell_covers_its_grid_cells():
    cells = np.random.default_rng(0).integers(0, 160, (50, 2))
    points = np.column_stack([cells[:, 0] * 0.1 + 0.05, cells[:, 1] * 0.1 - 7.95, np.full(50, -1), np.ones(50)])
    expected = np.zeros((40, 40), bool)
    expected[cells[:, 0] // MASK_STRIDE, cells[:, 1] // MASK_STRIDE] = True
    assert np.array_equal(mask_source("occupancy", SPEC, None)(points.astype(np.float32)) >= 0, expected)


@pytest.mark.parametrize("name", [name for name in SOURCES if "road" in name or "foreground" in name])
def test_predicted_masks_ask_for_a_network(name):
    with pytest.raises(ModelError, match="no mask network beside it; expected mask occupancy or all"):
        mask_source(name, SPEC, None)


def test_every_source_has_limits():
    assert {kind_of(name) for name in SOURCES} == set(LIMITS) and kind_of("map:a:b.png") in LIMITS
    assert not {kind_of(wrong) for wrong in ("map", "road:x", "street")} & set(LIMITS)


def test_a_map_is_a_source(tmp_path):
    Image.fromarray(np.eye(40, dtype=np.uint8)).save(tmp_path / "road.png")
    place = {"frame": "ego", "x_min_m": 0, "y_min_m": -8, "cell_m": 0.4}
    (tmp_path / "road.png.json").write_text(json.dumps(place))
    mask = mask_source(f"map:{tmp_path / 'road.png'}", SPEC, None)(NOTHING)
    assert mask.shape == (40, 40) and mask.diagonal().all() and not mask[5, 20]
