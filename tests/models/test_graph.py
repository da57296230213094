"""Reading ONNX: what is merged into what, and one clear error for each file that cannot be used."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from rich.errors import MarkupError

from detector.cli import main
from models.errors import ModelError
from models.graph import read_graph
from models.network import INPUT_NAME, Network, load_network
from models.plan import StageChoice, make_plan
from models.sparse import TileExecutor
from models.steps import ConvStep, DenseStep, PointwiseStep, PoolStep
from tests.models.small_networks import Builder, everything_network, residual_network
from tests.tiny_network import INFO, SPEC, tiny_model, write_model


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
    steps = read_graph(net.network(1).content, "small").steps
    assert words in next(step.why for step in steps if isinstance(step, DenseStep))


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


# Hostile files. Each is small, whatever it asks for.


def hostile(change):
    """The tiny network, changed by a function of its graph."""
    model = tiny_model()
    change(model.graph)
    return network_of(model)


def double_again_and_again(graph):
    """Joins a map with itself, forty times: 10^12 times as many channels."""
    names = ["grid", *(f"d{index}" for index in range(40))]
    graph.node.extend(helper.make_node("Concat", [x, x], [y], axis=1) for x, y in pairwise(names))


def declare(dims, data_type=TensorProto.FLOAT):
    """Lets a weight claim other sizes or another type than its bytes have."""

    def change(graph):
        graph.initializer[0].dims[:] = dims
        graph.initializer[0].data_type = data_type

    return change


def read_ahead(graph):
    graph.node[0].input[0] = graph.node[1].output[0]


def make_twice(graph):
    graph.node[2].output[0] = graph.node[0].output[0]


def hide_an_attribute(graph):
    graph.node[0].attribute.append(helper.make_attribute("pads", "none"))


def other_input_type(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def sparse(graph):
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [10**9, 10**9])
    )


def weights_of(value):
    """Fills the first weights."""

    def change(graph):
        tensor = graph.initializer[0]
        tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), value, np.float32), tensor.name))

    return change


def conv_without_weights(graph):
    del graph.node[0].input[1:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (double_again_and_again, r"holds \d+ values, all together \d+; expected at most"),
        (declare([10**6, 10**6]), "not a valid ONNX model"),
        (declare([-1, 5]), "not a valid ONNX model"),
        (declare([1, 5, 4, 4], 999), "not a valid ONNX model"),
        (declare([1, 5, 4, 4], TensorProto.STRING), "not a valid ONNX model"),
        (declare([1, 5, 4, 4], TensorProto.DOUBLE), "not a valid ONNX model"),
        (read_ahead, "Conv reads 'score' before it is made"),
        (make_twice, "Conv makes 'logit' a second time"),
        (hide_an_attribute, "not a valid ONNX model"),
        (other_input_type, "not a valid ONNX model|is FLOAT16, expected FLOAT"),
        (sparse, "sparse weights are not read"),
        (weights_of(np.nan), "the weights of 'w' hold NaN or infinity"),
        (weights_of(-np.inf), "the weights of 'w' hold NaN or infinity"),
        (conv_without_weights, "not a valid ONNX model"),
    ],
)
def test_hostile_graphs_are_refused_before_memory_is_taken(change, words):
    with pytest.raises(ModelError, match=words) as caught:
        make_plan(hostile(change))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(("part", "value"), [(0, 3e38), (3, -1.0), (3, -1e-5), (2, 3e38)])
@pytest.mark.filterwarnings("error")
def test_normalisation_that_overflows_is_refused(part, value):
    """Found by fuzzing: what weights and normalisation make together was infinite, with a warning of NumPy's."""
    net = Builder(np.random.default_rng(0), 32, 32, 4)
    x = net.conv(INPUT_NAME, 4)
    net.heads(net.norm(x))
    names = [tensor.name for tensor in net.weights]
    tensor = net.weights[names.index(next(node for node in net.nodes if node.op_type[0] == "B").input[1 + part])]
    tensor.CopyFrom(numpy_helper.from_array(np.full(4, value, np.float32), tensor.name))
    with pytest.raises(ModelError, match="hold NaN or infinity"):
        read_graph(net.network(1).content, "small")


def test_metadata_of_another_grid_or_stride_is_told():
    network = network_of(tiny_model())
    with pytest.raises(ModelError, match=r"'grid' is \(1, 8, 12, 5\), its metadata says \(1, 16, 12, 5\)"):
        make_plan(replace(network, info=replace(INFO, grid=replace(SPEC, x_max_m=12.8))))
    with pytest.raises(ModelError, match=r"'score' is \(1, 2, 3, 1\), its metadata says \(1, 8, 12, 1\)"):
        make_plan(replace(network, info=replace(INFO, output_stride=1)))


def test_names_in_a_file_are_not_taken_for_markup(tmp_path):
    model = tiny_model()
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "[/red]", "own"
    result = CliRunner().invoke(main, ["models", "show", str(write_model(tmp_path / "a.onnx", model))])
    assert "Traceback" not in result.output and not isinstance(result.exception, MarkupError)
