"""Network files: metadata round trip, refusals, and the dense executor against NumPy."""

import dataclasses

import numpy as np
import onnx
import pytest

from kernels.gpu import cuda_driver_answers
from kernels.tiles import ActiveTiles, TileSpec
from models.dense import DenseExecutor
from models.errors import ModelError
from models.network import NetworkInfo, load_network
from models.plan import make_plan
from tests.tiny_network import CAR_SIZE, INFO, SPEC, tiny_model, write_model


def test_metadata_round_trip(tmp_path):
    network = load_network(write_model(tmp_path / "tiny.onnx"))
    assert network.info == INFO
    assert len(network.sha256) == 64


def test_dense_executor_equals_numpy(tmp_path):
    executor = DenseExecutor(load_network(write_model(tmp_path / "tiny.onnx")), "cpu", threads=1)
    grid = np.random.default_rng(0).normal(size=SPEC.shape).astype(np.float32)
    score, regression = executor.run(grid, ActiveTiles.all(TileSpec.covering((8, 12), 4)))
    patches = grid.reshape(2, 4, 3, 4, SPEC.channels)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(4.5 - patches[..., 0].sum(axis=(1, 3)))), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.exp(regression[..., 3:6]), np.broadcast_to(CAR_SIZE, (2, 3, 3)), rtol=1e-6)
    assert score.shape == (2, 3) and regression.shape == (2, 3, 8) and executor.device == "cpu"


def test_a_missing_network_names_the_shipped_ones():
    with pytest.raises(ModelError, match=r"nosuch: no such network; expected an .onnx file or one of: kitti"):
        load_network("nosuch")


@pytest.mark.parametrize("content", [b"", b"not a network at all", b"\x08\x08" * 1000])
def test_not_onnx(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken.onnx: "):
        load_network(path)


def test_foreign_network_without_metadata(tmp_path):
    with pytest.raises(ModelError, match="no 'roadblocks' metadata"):
        load_network(write_model(tmp_path / "foreign.onnx", tiny_model(), info=None))


def test_external_weights_are_refused(tmp_path):
    model = tiny_model()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "../elsewhere")
    with pytest.raises(ModelError, match="keeps weights in other files"):
        load_network(write_model(tmp_path / "external.onnx", model))


def test_external_weights_are_refused_wherever_they_hide(tmp_path):
    """In a node's attribute, where reading them would follow the path out of the folder."""
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 80))
    model = tiny_model()
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, str(tmp_path / "secret.bin"))
    tensor.ClearField("raw_data")
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[0]
    with pytest.raises(ModelError, match="keeps weights in other files"):
        load_network(write_model(tmp_path / "external.onnx", model))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file(tmp_path, share):
    path = write_model(tmp_path / "cut.onnx")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match=r"cut\.onnx: "):
        make_plan(load_network(path))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0", "x" * 5000 + ".onnx"])
def test_names_that_are_none(name):
    with pytest.raises(ModelError, match=r"no such network|cannot be read"):
        load_network(name)


@pytest.mark.parametrize("name", ["../../evil", "/etc/x", "a\\b", "a\nb", "", "x" * 1000, None, 7])
def test_a_name_that_could_lead_elsewhere(name):
    with pytest.raises(ModelError, match="network metadata: name"):
        dataclasses.replace(INFO, name=name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 10_000, "network metadata"),
        ('{"grid": {"cell_m": 1' + "0" * 5000 + "}}", "network metadata"),
        ('{"grid": {"cell_m": 1' + "0" * 400 + "}}", "BEV grid"),
        ('{"grid": {"cell_m": NaN}}', "BEV grid"),
        ('{"grid": {"x_max_m": 1e9, "y_max_m": 1e9}}', "cells, expected at most"),
        ("[]", "expected the fields"),
        ("{}", "grid"),
        ('{"grid": {"cell_meters": 1}}', "unknown keys"),
        ('{"grid": {}, "classes": ["Car"]}', "missing"),
        ("{", "network metadata"),
    ],
)
def test_broken_metadata(text, words):
    with pytest.raises(ModelError, match=words):
        NetworkInfo.from_json(text)


def test_wrong_names_and_devices(tmp_path):
    renamed = load_network(write_model(tmp_path / "renamed.onnx", tiny_model(score_name="heat")))
    with pytest.raises(ModelError, match=r"outputs \['heat', 'regression'\], expected"):
        DenseExecutor(renamed, "cpu")
    good = load_network(write_model(tmp_path / "good.onnx"))
    with pytest.raises(ModelError, match="device 'tpu': expected one of auto, cpu, cuda"):
        DenseExecutor(good, "tpu")


@pytest.mark.gpu
def test_cuda_equals_cpu(tmp_path):
    network = load_network(write_model(tmp_path / "tiny.onnx"))
    grid = np.random.default_rng(0).normal(size=SPEC.shape).astype(np.float32)
    tiles = ActiveTiles.all(TileSpec.covering((8, 12), 4))
    executor = DenseExecutor(network, "cuda")
    assert executor.device == "cuda"
    for found, expected in zip(executor.run(grid, tiles), DenseExecutor(network, "cpu").run(grid, tiles), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-3)  # TF32 in cuDNN's convolutions


@pytest.mark.skipif(cuda_driver_answers(), reason="an NVIDIA driver answers here")
def test_cuda_without_a_driver_is_one_clear_line(tmp_path):
    with pytest.raises(ModelError, match="device cuda: "):
        DenseExecutor(load_network(write_model(tmp_path / "tiny.onnx")), "cuda")
    assert DenseExecutor(load_network(tmp_path / "tiny.onnx"), "auto").device == "cpu"


@pytest.mark.parametrize(
    "changes",
    [{"classes": ()}, {"output_stride": "4"}, {"output_stride": 0}, {"display_score": "x"}, {"display_score": 1.5}],
)
def test_metadata_that_makes_no_sense(changes):
    with pytest.raises(ModelError, match=r"network metadata: .* expected"):
        dataclasses.replace(INFO, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"output_stride": 8}, "'score' is"), ({"grid": dataclasses.replace(SPEC, x_max_m=3.2)}, "'grid' is")],
)
def test_metadata_that_does_not_fit_the_network(tmp_path, changes, words):
    path = write_model(tmp_path / "odd.onnx", info=dataclasses.replace(INFO, **changes))
    with pytest.raises(ModelError, match=words):
        DenseExecutor(load_network(path), "cpu")
