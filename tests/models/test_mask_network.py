"""Masks that a network predicts, with one that is known by heart: road below, vehicles above."""

from dataclasses import replace

import numpy as np
import pytest

from detector import Config, Frame, Pipeline
from detector.config import BudgetConfig, MaskConfig
from models.errors import ModelError
from models.mask_network import mask_network_of
from models.masks import LIMITS, PREFERRED, mask_source
from models.network import load_network
from tests.tiny_network import WIDE, write_mask_model, write_wide_model

# In cells of 3.2 m: ground in (0, 0), something on ground in (3, 5), something without ground in (9, 20).
POINTS = np.array(
    [[1, -37, -1.5, 0.1], [10.6, -21.4, -1.5, 0.1], [10.6, -21.4, -0.5, 0.1], [30, 26.5, -0.5, 0.1]], np.float32
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = write_wide_model(tmp_path_factory.mktemp("network") / "wide.onnx")
    write_mask_model(path)
    return path


def cells(mask):
    """Patches of 2 x 2 mask cells that are all set; nothing is set in between."""
    found = mask > 0.5
    whole = found.reshape(found.shape[0] // 2, 2, found.shape[1] // 2, 2)
    assert (whole.all((1, 3)) == whole.any((1, 3))).all()
    return [tuple(cell) for cell in np.argwhere(whole.all((1, 3))).tolist()]


def test_road_and_vehicles_are_where_the_network_says(model):
    network = mask_network_of(load_network(model))
    assert cells(mask_source("road", WIDE, network)(POINTS)) == [(0, 0), (1, 2), (4, 10)]
    vehicles = mask_source("foreground", WIDE, network)
    assert vehicles.ranks and cells(vehicles(POINTS)) == [(1, 2), (4, 10)]
    assert cells(vehicles(POINTS[:1])) == [], "no trace of the frame before"
    assert vehicles(POINTS).shape == (16, 24) and vehicles(POINTS).max() == pytest.approx(1, abs=0.01)


def test_joined_with_occupancy_only_cells_that_rise_above_the_ground_are_left(model):
    network = mask_network_of(load_network(model))
    mask = mask_source("road+occupancy", WIDE, network)(POINTS)
    assert np.argwhere(mask > 0.5).tolist() == [[3, 5]]
    lone = mask_source("foreground+occupancy", WIDE, network)(POINTS)
    assert np.argwhere(lone > 0.5).tolist() == [[3, 5]], "what has no ground near it does not rise above it"


def test_the_default_is_what_the_model_has(model, tmp_path):
    limits = LIMITS[PREFERRED]
    expected = MaskConfig(PREFERRED, limits.threshold, limits.margin_m)
    assert Pipeline(Config(model=str(model), device="cpu")).config.mask == expected
    alone = write_wide_model(tmp_path / "alone.onnx")
    own = MaskConfig(margin_m=0.5)
    found = Pipeline(Config(model=str(alone), device="cpu", mask=own)).config.mask
    assert found == MaskConfig("occupancy", LIMITS["occupancy"].threshold, 0.5)


def test_a_mask_network_for_another_grid_is_refused(tmp_path):
    path = write_wide_model(tmp_path / "wide.onnx")
    write_mask_model(path, replace(WIDE, x_max_m=WIDE.x_max_m + 51.2))
    with pytest.raises(ModelError, match=r"wide.mask.onnx: for BevSpec.*wide.onnx expects BevSpec"):
        mask_network_of(load_network(path))


def test_a_budget_leaves_out_what_is_unlikely(model):
    mask = MaskConfig("foreground", threshold=0.001, margin_m=0.0)
    pipeline = Pipeline(Config(model=str(model), device="cpu", mask=mask, budget=BudgetConfig(tiles=1)))
    prepared = pipeline.prepare(Frame(POINTS))
    assert len(prepared.tiles) > 2, "above so low a threshold the whole grid is"
    found = pipeline.detect(Frame(POINTS))
    assert found.tiles.index[0, 1:].tolist() == [0, 1], "the likely one at 24 m before the unlikely ones at 5 m"
    assert found.tiles_left_out == len(prepared.tiles) - 1
