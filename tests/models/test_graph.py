"""Reading ONNX: what is merged into what, and one clear error for each file that cannot be used."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.errors import ModelError
from models.graph import read_graph
from models.network import INPUT_NAME, Network, load_network
from models.plan import StageChoice, make_plan
from models.sparse import TileExecutor
from models.steps import ConvStep, DenseStep, PointwiseStep, PoolStep
from tests.models.small_networks import Builder, everything_network, residual_network
from tests.tiny_network import INFO, tiny_model, write_model


def test_norm_relu_and_addition_are_merged_into_the_convolution():
    graph = read_graph(residual_network(0, 32, 32, units=("basic",)).content, "small")
    assert {type(step) for step in graph.steps} == {ConvStep, PointwiseStep}
    assert [step.activation for step in graph.steps if isinstance(step, PointwiseStep)] == ["sigmoid"]
    stem, first, second = graph.steps[:3]
    assert (stem.relu, stem.residual) == (True, None) and (first.relu, first.residual) == (True, None)
    assert second.relu and second.residual == stem.target
    assert graph.maps[stem.target].shape == (1, 16, 16, 6) and graph.maps[stem.target].stride == 2


def test_a_map_that_others_read_is_not_merged_away():
    net = Builder(np.random.default_rng(0), 32, 32, 4)
    x = net.conv(INPUT_NAME, 4)
    net.heads(net.add(net.relu(x), x))
    graph = read_graph(net.network(1).content, "small")
    kinds = [type(step) for step in graph.steps]
    assert kinds == [ConvStep, PointwiseStep, PointwiseStep, ConvStep, PointwiseStep, ConvStep]
    assert not graph.steps[0].relu


def test_every_known_operator_has_a_step():
    kinds = [type(step) for step in read_graph(everything_network(0).content, "small").steps]
    assert {ConvStep, PointwiseStep, PoolStep, DenseStep} == set(kinds)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [({"group": 2}, "grouped"), ({"dilations": [2, 2]}, "dilated"), ({"padding": 0}, "shifts the map")],
)
def test_odd_convolutions_run_densely_and_say_why(attributes, words):
    net = Builder(np.random.default_rng(0), 32, 32, 4)
    x = net.conv(INPUT_NAME, 4, **({"padding": 2} | attributes if "dilations" in attributes else attributes))
    net.heads(x)
    plan = make_plan(net.network(1))
    assert words in next(line.why for line in plan.steps if isinstance(line.step, DenseStep))


def network_of(model):
    return Network(None, model.SerializeToString(), INFO)


def test_dynamic_rank_is_one_clear_error():
    model = tiny_model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"inputs \{'grid': None\}; expected one of fixed size"):
        make_plan(network_of(model))


@pytest.mark.parametrize("shape", [["n", 5, 8, 12], [2, 5, 8, 12], [1, 5, 8, "cols"], [5, 8, 12]])
def test_open_or_odd_input_sizes(shape):
    model = tiny_model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape))
    with pytest.raises(ModelError, match=r"None: .*expected"):
        make_plan(network_of(model))


def test_no_onnx_and_inconsistent_onnx(tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model at all")
    with pytest.raises(ModelError, match=r"bad.onnx: (not a readable ONNX file|no 'roadblocks' metadata)"):
        load_network(bad)
    model = tiny_model()
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weights.CopyFrom(numpy_helper.from_array(np.zeros((1, 99, 4, 4), np.float32), "w"))
    with pytest.raises(ModelError, match="neither tiles nor onnxruntime can run it"):
        TileExecutor(network_of(model))
    model.graph.node[1].input[0] = "nothing makes this"
    with pytest.raises(ModelError, match=r"not a valid ONNX model|neither tiles nor onnxruntime"):
        TileExecutor(network_of(model))


def test_weights_in_other_files(tmp_path):
    path = write_model(tmp_path / "external.onnx")
    loaded = onnx.load(path)
    tensor = loaded.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../elsewhere.bin")
    path.write_bytes(loaded.SerializeToString())
    with pytest.raises(ModelError, match=r"external\.onnx: keeps weights in other files"):
        load_network(path)


def test_a_file_over_the_limit(tmp_path, monkeypatch):
    path = write_model(tmp_path / "large.onnx")
    monkeypatch.setattr("models.network.MAX_FILE_BYTES", 100)
    with pytest.raises(ModelError, match=r"large.onnx: \d+ bytes, expected at most 100"):
        load_network(path)


def test_tiles_must_cover_whole_tiles_of_the_grid():
    with pytest.raises(ModelError, match="stage /2: tiles of 5 cells; expected a multiple of 16 grid cells"):
        make_plan(residual_network(0, 32, 32), {2: StageChoice(5)})


def test_a_network_without_the_pipeline_s_outputs():
    with pytest.raises(ModelError, match=r"outputs \['other', 'regression'\], expected grid and score, regression"):
        TileExecutor(network_of(tiny_model("other")))
