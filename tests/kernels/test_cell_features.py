"""`cell_features` by hand; the table compares it with its reference on every backend."""

import numpy as np
import pytest

from kernels.cell_features import cell_features, cell_features_reference

NAN = np.nan


@pytest.mark.parametrize("function", [cell_features, cell_features_reference])
def test_features_by_hand(function):
    points = [[0.1, 0.1, -1.5, 0.5], [0.3, 0.2, -1.0, 1.5], [0.9, 0.5, 9, NAN], [0.9, 0.5, -9, 0], [0.5, 0.1, NAN, 1]]
    points += [[NAN, 0.1, -1, 1], [5, 5, -1, 1], [0.5, 0.5, -1.2505, 0.2]] + 40 * [[0.0, 0.4, -2.0, 0.0]]
    found = function(np.array(points, np.float32), (0.0, 0.0, -2.0), 2.0, 0.4, (3, 2))
    assert found.shape == (3, 2, 22) and found.dtype == np.float32
    bands = {(0, 0): [2, 4], (0, 1): [0], (1, 1): [2], (2, 1): [0, 8]}
    for cell in np.ndindex(3, 2):
        assert np.flatnonzero(found[cell][6:]).tolist() == bands.get(cell, []), cell
    found = found[:, :, :6]
    np.testing.assert_allclose(found[0, 0], [2 / 16, 0.75, 0.5, 1.0, (127 + 255) / 2 / 255, 1], atol=1e-6)
    np.testing.assert_allclose(found[0, 1], [1, 0, 0, 0, 0, 1], err_msg="more than 16 points are 16")
    np.testing.assert_allclose(found[1, 1], [1 / 16, 0.749, 0.749, 0.749, 51 / 255, 1], atol=1e-6)
    np.testing.assert_allclose(found[2, 1], [2 / 16, 1, 0, 2, 0, 1], err_msg="heights are cut off, NaN is dark")
    assert not found[1, 0].any() and not found[2, 0].any(), "a point without a height counts nowhere"


def test_nothing_is_left_of_the_frame_before():
    points = np.full((5, 4), 0.5, np.float32)
    assert cell_features(points, (0, 0, 0), 1.0, 1.0, (2, 2)).any()
    assert not cell_features(points[:0], (0, 0, 0), 1.0, 1.0, (2, 2)).any()
    with pytest.raises(ValueError, match="expected positive numbers"):
        cell_features(points, (0, 0, 0), 1.0, 0.0, (2, 2))
