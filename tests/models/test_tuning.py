"""The cache of tuned tile sizes."""

import pytest

from models.errors import ModelError
from models.plan import StageChoice
from models.tuning import load_choices, save_choices, tuning_file
from tests.models.small_networks import residual_network


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.setenv("ROADBLOCKS_CACHE", str(tmp_path))
    return residual_network(0, 32, 32)


def test_what_was_saved_is_loaded(network):
    assert load_choices(network) == {}
    choices = {2: StageChoice(16, fuse_units=True), 4: StageChoice(4, dense=True)}
    path = save_choices(network, choices)
    assert path == tuning_file(network) and load_choices(network) == choices
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no partial file is left"


def test_another_network_or_number_of_threads_has_its_own(network):
    save_choices(network, {2: StageChoice(16)})
    assert load_choices(network, threads=77) == {}
    assert load_choices(residual_network(1, 32, 32)) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"2": {"size": 3}}', '{"x": {"tile_cells": 8}}'])
def test_a_damaged_file_is_one_clear_error(network, text):
    path = save_choices(network, {})
    path.write_text(text)
    with pytest.raises(ModelError, match=r"not a tuning file .* delete it, or run: roadblocks tune"):
        load_choices(network)
