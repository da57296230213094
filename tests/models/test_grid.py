"""`BevSpec`: whole numbers of cells whatever the origin, and refusal of everything else."""

from __future__ import annotations

import pytest

from models.errors import ModelError
from models.grid import BevSpec


def test_default_is_sbnets_kitti_grid() -> None:
    assert BevSpec().shape == (704, 800, 23)


@pytest.mark.parametrize("x_min_m", [-70.4, 0.0, 5.0, 0.3, -35.2])
@pytest.mark.parametrize("y_min_m", [-40.0, 0.0, 12.7])
@pytest.mark.parametrize("cell_m", [0.1, 0.2])
def test_shape_does_not_depend_on_the_origin(x_min_m: float, y_min_m: float, cell_m: float) -> None:
    spec = BevSpec(x_min_m, x_min_m + 70.4, y_min_m, y_min_m + 80, cell_m=cell_m)
    assert (spec.rows, spec.cols) == (round(70.4 / cell_m), round(80 / cell_m))


@pytest.mark.parametrize(("z_min_m", "z_max_m"), [(-3.0, 1.0), (0.0, 4.0), (0.5, 4.5)])
def test_channels_are_bins_below_above_and_intensity(z_min_m: float, z_max_m: float) -> None:
    spec = BevSpec(z_min_m=z_min_m, z_max_m=z_max_m)
    assert (spec.z_bins, spec.channels) == (20, 23)


@pytest.mark.parametrize(
    "values",
    [
        {"x_max_m": 70.45},
        {"y_min_m": -40.03},
        {"z_bin_m": 0.3},
        {"cell_m": 1e6},  # no cell at all
    ],
)
def test_parts_of_cells_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="expected a whole number"):
        BevSpec(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"x_min_m": 70.4, "x_max_m": 0.0},
        {"x_max_m": 0.0},
        {"y_max_m": float("nan")},
        {"z_max_m": float("inf")},
        {"cell_m": 0.0},
        {"cell_m": -0.1},
        {"z_bin_m": float("nan")},
        {"cell_m": float("inf")},
        {"cell_m": 1e-320},
        {"x_min_m": -1e308, "x_max_m": 1e308},
    ],
)
def test_senseless_ranges_and_steps_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="expected"):
        BevSpec(**values)


def test_dict_round_trip() -> None:
    spec = BevSpec(x_min_m=-70.4, cell_m=0.2)
    assert BevSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("values", [{"cell": 0.1}, {"cell_m": "small"}, {"cell_m": None}])
def test_dict_of_other_keys_or_values_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="expected"):
        BevSpec.from_dict(values)
