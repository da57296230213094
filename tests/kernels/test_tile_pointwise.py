"""`tile_pointwise` against its equation, by hand, by reference and against onnxruntime's operators."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from kernels.launch import to_device, to_host
from kernels.tile_pointwise import ACTIVATIONS, OPS, tile_pointwise, tile_pointwise_reference
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles
from tests.kernels.backends import COMPILED, call

ALL = ActiveTiles.all(TileSpec.covering((4, 6), 4))
SOME = ActiveTiles(np.array([[0, 0, 0]], np.int32), TileSpec((2, 3), (2, 3), (1, 2), (1, 1)))  # rows 1-2, columns 2-4


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_by_hand():
    x = np.array([[[[-1, 3]]]], np.float32)
    out, tiles = np.full((1, 2, 2, 4), 9, np.float32), ActiveTiles.all(TileSpec((1, 2), (1, 2), (0, 0), (1, 1)))
    residual = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    scale, shift = np.array([2, 3], np.float32), np.array([0.5, -10.5], np.float32)
    arguments = {"scale": scale, "shift": shift, "residual": residual, "upsample": 2, "first_channel": 1}
    assert tile_pointwise(x, tiles, out, activation="relu", **arguments) is out
    assert out.tolist() == [[[[9, 0, 0, 9], [9, 0.5, 1.5, 9]], [[9] * 4] * 2]]


def test_cells_outside_the_tiles_keep_their_values():
    x, out = numbers(1, 4, 6, 3), np.full((1, 4, 6, 3), 9, np.float32)
    tile_pointwise(x, SOME, out)
    assert np.array_equal(out[0, 1:3, 2:5], x[0, 1:3, 2:5]) and (out == 9).sum() == out.size - 2 * 3 * 3


def test_sigmoid_of_extremes():
    x = np.array([-np.inf, -1e30, -200, -90, 0, 30, 1e30, np.nan], np.float32).reshape(1, 1, 1, -1)
    tiles = ActiveTiles.all(TileSpec.covering((1, 1), 1))
    found = tile_pointwise(x, tiles, np.empty_like(x), activation="sigmoid").ravel()
    assert found[[0, 1, 2, 4, 5, 6]].tolist() == [0, 0, 0, 0.5, 1, 1] and np.isnan(found[7])
    assert found[3] == pytest.approx(np.exp(-90.0), rel=1e-4), "tiny, but no zero"


def test_relu_keeps_nan():
    x = np.array([-np.inf, -1, np.nan, np.inf], np.float32).reshape(1, 1, 1, -1)
    tiles = ActiveTiles.all(TileSpec.covering((1, 1), 1))
    found = tile_pointwise(x, tiles, np.empty_like(x), activation="relu")
    assert np.array_equal(found.ravel(), np.array([0, 0, np.nan, np.inf], np.float32), equal_nan=True)


def in_onnxruntime(x, second, scale, shift):
    """relu(batch normalisation of x, repeated twice) and the sigmoid of ``second``, side by side; NHWC."""
    resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    constants = {"scale": scale, "shift": shift, "mean": scale * 0, "variance": scale * 0 + 1}
    constants["sizes"] = np.array([1, 1, 2, 2], np.float32)
    nodes = [
        helper.make_node("BatchNormalization", ["x", "scale", "shift", "mean", "variance"], ["a"], epsilon=0.0),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Resize", ["b", "", "sizes"], ["c"], **resize),
        helper.make_node("Sigmoid", ["second"], ["d"]),
        helper.make_node("Concat", ["c", "d"], ["y"], axis=1),
    ]
    maps = {name: np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for name, a in (("x", x), ("second", second))}
    inputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, a.shape) for name, a in maps.items()]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 4)
    initial = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, [output], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, maps)[0].transpose(0, 2, 3, 1)


def test_equals_onnxruntime():
    x, second = numbers(2, 3, 4, 5, seed=1), numbers(2, 6, 8, 2, seed=2)
    scale, shift = 1 + np.abs(numbers(5, seed=3)), numbers(5, seed=4)
    spec = TileSpec.covering((6, 8), 4)
    tiles = random_tiles(np.random.default_rng(0), spec, 1.1, images=2)
    out = np.empty((2, 6, 8, 7), np.float32)
    tile_pointwise(x, tiles, out, scale=scale, shift=shift, activation="relu", upsample=2)
    tile_pointwise(second, tiles, out, activation="sigmoid", first_channel=5)
    np.testing.assert_allclose(out, in_onnxruntime(x, second, scale, shift), rtol=0, atol=2e-6)


@st.composite
def cases(draw):
    """Arguments of any geometry: tiles that stick out, gaps between them, no tiles at all."""
    rng, small, side = np.random.default_rng(draw(st.integers(0, 2**32 - 1))), st.integers(0, 3), st.integers(1, 5)
    size, count = (draw(side), draw(side)), (draw(small), draw(small))
    stride = tuple(cells + draw(st.integers(0, 2)) for cells in size)
    spec = TileSpec(size, stride, (draw(st.integers(-6, 4)), draw(st.integers(-6, 4))), count)
    images, rows, cols, channels = draw(side), draw(side), draw(side), draw(st.sampled_from([1, 3, 8, 17]))
    upsample, first, more = draw(st.integers(1, 3)), draw(small), draw(small)
    shape = (rows * upsample - draw(st.integers(0, upsample - 1)), cols * upsample - draw(st.integers(0, upsample - 1)))
    arguments = {
        "x": rng.standard_normal((images, rows, cols, channels), np.float32),
        "tiles": random_tiles(rng, spec, draw(st.sampled_from([0.3, 1.1])), images),
        "out": rng.standard_normal((images, *shape, first + channels + more), np.float32),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "upsample": upsample,
        "first_channel": first,
    }
    for name, wanted in (("scale", (channels,)), ("shift", (channels,)), ("residual", (images, *shape, channels))):
        if draw(st.booleans()):
            arguments[name] = rng.standard_normal(wanted, np.float32)
    return arguments


def assert_equal(found, expected, activation):
    if activation == "sigmoid":
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    else:
        assert np.array_equal(found, expected)


@given(cases())
def test_equals_reference(arguments):
    expected = tile_pointwise_reference(**arguments)
    assert_equal(tile_pointwise(**arguments), expected, arguments["activation"])


@given(cases(), st.sampled_from([("x",), ("residual",), ("x", "residual")]))
def test_in_place(arguments, names):
    out = numbers(*arguments["x"].shape, seed=5)
    changes = {"out": out, "upsample": 1, "first_channel": 0, "residual": numbers(*out.shape, seed=6)}
    arguments = {**arguments, **changes, **dict.fromkeys(names, out)}
    expected = tile_pointwise_reference(**arguments)
    assert_equal(tile_pointwise(**arguments), expected, arguments["activation"])


@pytest.mark.parametrize("backend", COMPILED[1:])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_half_precision_on_the_device(op, backend):
    inputs = op.make_inputs(np.random.default_rng(0), "small")
    halves = {name: inputs[name].astype(np.float16) for name in ("x", "out", "residual") if name in inputs}
    inputs = {**inputs, **halves}
    expected = call("reference", op, **inputs)
    found = call(backend, op, **inputs)
    assert found.dtype == expected.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=1e-3, atol=1e-3)


WHOLE = numbers(2, 4, 6, 3)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": numbers(1, 4, 6, 3).astype(np.float64)}, TypeError, "x is float64, expected float32"),
        ({"x": numbers(1, 4, 6, 3).astype(np.float16)}, TypeError, "x is float16, expected float32"),
        ({"x": SimpleNamespace(dtype=np.dtype(np.float32))}, TypeError, "expected all of them NumPy arrays, or all on"),
        ({"scale": [1, 2, 3]}, TypeError, "arrays are list; expected"),
        ({"x": numbers(4, 6, 3)}, ValueError, r"x has shape \(4, 6, 3\), expected \(N, H, W, C\)"),
        ({"x": numbers(2, 4, 6, 3)}, ValueError, r"out has shape \(1, 4, 6, 3\), expected \(2, rows, cols, K\)"),
        ({"x": numbers(1, 3, 6, 3)}, ValueError, "expected at most 3 rows and 6 columns and at least 3 channels"),
        ({"x": numbers(1, 2, 2, 3), "upsample": 2}, ValueError, "expected at most 4 rows and 4 columns"),
        ({"first_channel": 1}, ValueError, "and at least 4 channels"),
        ({"first_channel": -1}, ValueError, "first channel -1; expected at least 1 and at least 0"),
        ({"upsample": 0}, ValueError, "upsample 0, first channel 0; expected at least 1"),
        ({"scale": numbers(4)}, ValueError, r"scale has shape \(4,\), expected \(3,\)"),
        ({"shift": np.zeros(3)}, TypeError, "shift is float64, expected float32"),
        ({"residual": numbers(1, 4, 6, 4)}, ValueError, r"residual has shape .*, expected \(1, 4, 6, 3\)"),
        ({"activation": "tanh"}, ValueError, "activation is 'tanh', expected one of none, relu, sigmoid"),
        ({"x": numbers(1, 6, 4, 3).transpose(0, 2, 1, 3)}, ValueError, "an array is not contiguous; expected C order"),
        ({"scale": numbers(6)[::2]}, ValueError, "an array is not contiguous; expected C order"),
        ({"x": WHOLE[:1], "out": WHOLE[:1]}, ValueError, "out shares memory with an array of shape"),
        ({"tiles": ActiveTiles.all(TileSpec((3, 3), (2, 3), (0, 0), (2, 2)))}, ValueError, "overlap; expected none to"),
        ({"tiles": ActiveTiles(np.array([[1, 0, 0]], np.int32), ALL.spec)}, ValueError, "image 1, expected images 0"),
    ],
)
def test_bad_arguments_touch_nothing(change, error, words):
    arguments = {"x": numbers(1, 4, 6, 3), "tiles": ALL, "out": np.ones((1, 4, 6, 3), np.float32), **change}
    before = arguments["out"].copy()
    with pytest.raises(error, match=words):
        tile_pointwise(**arguments)
    assert np.array_equal(arguments["out"], before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upsample": 2}, "upsample 2; expected a map of its own"),
        ({"upsample": 2, "x": numbers(1, 2, 3, 3)}, "upsample 2; expected a map of its own"),
        ({"x": numbers(1, 4, 6, 2)}, r"residual has shape \(1, 4, 6, 3\), expected \(1, 4, 6, 2\)"),
    ],
)
def test_in_place_where_cells_would_be_read_after_writing(change, words):
    out = np.ones((1, 4, 6, 3), np.float32)
    with pytest.raises(ValueError, match=words):
        tile_pointwise(**{"x": out, "residual": out, "tiles": ALL, "out": out, **change})
    assert np.all(out == 1)


@pytest.mark.parametrize("backend", COMPILED[1:])
def test_only_counted_tiles_run_on_the_device(backend):
    x, out = numbers(2, 4, 6, 3), numbers(2, 4, 6, 3, seed=1)
    index = np.array([[0, 1, 0], [1, 0, 1], [-1, 0, 0], [2, 0, 0], [0, 0, 0]], np.int32)  # images -1 and 2: none
    spec = TileSpec.covering((4, 6), 2)
    tiles = DeviceTiles(to_device(index), to_device(np.array([4], np.int32)), spec)
    found = to_host(tile_pointwise(to_device(x), tiles, to_device(out)))
    assert np.array_equal(found, tile_pointwise_reference(x, ActiveTiles(index[:2], spec), out)), backend


@pytest.mark.parametrize("backend", COMPILED[1:])
def test_in_place_on_the_device(backend):
    out = to_device(numbers(1, 4, 6, 3))
    with pytest.raises(ValueError, match="upsample 2; expected a map of its own"):
        tile_pointwise(out, ALL.to_device(), out, upsample=2)
    with pytest.raises(TypeError, match="expected all of them NumPy arrays, or all on the device"):
        tile_pointwise(out, ALL.to_device(), out, scale=np.ones(3, np.float32))
    assert np.array_equal(to_host(out), numbers(1, 4, 6, 3)), backend
    found = to_host(tile_pointwise(out, ALL.to_device(), out, residual=out))
    assert np.array_equal(found, 2 * numbers(1, 4, 6, 3))
