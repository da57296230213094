"""The cache of tuned tile sizes."""

from importlib import metadata

import pytest

from models.errors import ModelError
from models.plan import StageChoice
from models.tuning import load_choices, save_choices, tuning_file, unit_name
from tests.models.small_networks import residual_network


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.setenv("ROADBLOCKS_CACHE", str(tmp_path))
    return residual_network(0, 32, 32)


def test_what_was_saved_is_loaded(network):
    assert load_choices(network, unit_name()) == {}
    choices = {2: StageChoice(16, fuse_units=True), 4: StageChoice(4, dense=True)}
    path = save_choices(network, choices, unit_name())
    assert path == tuning_file(network, unit_name()) and load_choices(network, unit_name()) == choices
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no partial file is left"


def test_another_network_or_number_of_threads_has_its_own(network):
    save_choices(network, {2: StageChoice(16)}, unit_name())
    assert load_choices(network, unit_name(threads=77)) == {}
    assert load_choices(residual_network(1, 32, 32), unit_name()) == {}


def test_a_card_has_its_own_for_each_precision(network, monkeypatch):
    """Also where the package is not installed, but run from a checkout."""
    monkeypatch.setattr("models.tuning.gpu_name", lambda: "Card")
    monkeypatch.setattr("models.sparse_cuda.capability", lambda: (9, 0))

    def version(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr("models.tuning.metadata.version", version)
    save_choices(network, {2: StageChoice(16)}, unit_name("cuda", "auto"))
    assert load_choices(network, unit_name("cuda", "float16")) == {2: StageChoice(16)}
    assert load_choices(network, unit_name("cuda", "float32")) == load_choices(network, unit_name()) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"2": {"size": 3}}', '{"x": {"tile_cells": 8}}'])
def test_a_damaged_file_is_one_clear_error(network, text):
    path = save_choices(network, {}, unit_name())
    path.write_text(text)
    with pytest.raises(ModelError, match=r"not a tuning file .* delete it, or run: roadblocks tune"):
        load_choices(network, unit_name())
