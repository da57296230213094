"""Network files: metadata round trip, refusals, and the dense executor against NumPy."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kernels.tiles import ActiveTiles, TileSpec
from models.dense import DenseExecutor
from models.errors import ModelError
from models.grid import BevSpec
from models.masks import MASK_SOURCES
from models.network import INPUT_NAME, METADATA_KEY, REGRESSION_NAME, SCORE_NAME, NetworkInfo, load_network

SPEC = BevSpec(x_max_m=0.8, y_min_m=-0.4, y_max_m=0.8, z_min_m=0, z_max_m=0.4)  # 8 x 12 cells, 5 channels
INFO = NetworkInfo("tiny", SPEC, 4, ("Car",), 0.4, "none", {"steps": 1}, {"Car": {}})


def tiny_model(score_name=SCORE_NAME):
    """score = sigmoid(mean of channel 0 over 4x4 cells), regression = eight copies of channel 1's top left cell."""
    score_weight = np.zeros((1, 5, 4, 4), np.float32)
    score_weight[0, 0] = 1 / 16
    regression_weight = np.zeros((8, 5, 4, 4), np.float32)
    regression_weight[:, 1, 0, 0] = np.arange(8)
    nodes = [
        helper.make_node("Conv", [INPUT_NAME, "w"], ["logit"], strides=[4, 4]),
        helper.make_node("Sigmoid", ["logit"], [score_name]),
        helper.make_node("Conv", [INPUT_NAME, "v"], [REGRESSION_NAME], strides=[4, 4]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [1, 5, 8, 12])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (score_name, REGRESSION_NAME)],
        [numpy_helper.from_array(score_weight, "w"), numpy_helper.from_array(regression_weight, "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def write_model(path, model, info=INFO):
    if info is not None:
        model.metadata_props.add(key=METADATA_KEY, value=info.to_json())
    path.write_bytes(model.SerializeToString())
    return path


def test_metadata_round_trip(tmp_path):
    network = load_network(write_model(tmp_path / "tiny.onnx", tiny_model()))
    assert network.info == INFO
    assert len(network.sha256) == 64


def test_dense_executor_equals_numpy(tmp_path):
    executor = DenseExecutor(load_network(write_model(tmp_path / "tiny.onnx", tiny_model())), "cpu", threads=1)
    grid = np.random.default_rng(0).normal(size=SPEC.shape).astype(np.float32)
    score, regression = executor.run(grid, ActiveTiles.all(TileSpec.covering((8, 12), 4)))
    blocks = grid.reshape(2, 4, 3, 4, 5)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-blocks[..., 0].mean(axis=(1, 3)))), rtol=1e-5)
    np.testing.assert_allclose(regression, grid[::4, ::4, 1:2] * np.arange(8, dtype=np.float32), rtol=1e-5)
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
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
    good = load_network(write_model(tmp_path / "good.onnx", tiny_model()))
    with pytest.raises(ModelError, match="device 'tpu': expected one of auto, cpu, cuda"):
        DenseExecutor(good, "tpu")


def test_all_cells_cover_the_grid():
    mask = MASK_SOURCES["all"](np.zeros((704, 801, 2), np.float32), SPEC)
    assert mask.shape == (1, 88, 101) and mask.dtype == np.float32 and mask.all()
