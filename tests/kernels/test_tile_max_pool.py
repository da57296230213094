"""`tile_max_pool` against its equation, by hand, by reference and against onnxruntime's MaxPool."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from kernels.launch import to_device, to_host
from kernels.tile_max_pool import OPS, tile_max_pool, tile_max_pool_reference
from kernels.tiles import ActiveTiles, DeviceTiles, TileSpec, random_tiles
from tests.kernels.backends import COMPILED, call


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def pooled(cells, shape, **geometry):
    """Pooling of one channel over a whole map."""
    x = np.array(cells, np.float32)[None, :, :, None]
    tiles = ActiveTiles.all(TileSpec.covering(shape, 2))
    return tile_max_pool(x, tiles, np.empty((1, *shape, 1), np.float32), **geometry)[0, :, :, 0].tolist()


def test_by_hand():
    cells = [[-1, -2, -3], [-4, -5, -6], [-7, -8, -9]]
    assert pooled(cells, (1, 1), size=2, stride=2) == [[-1]]
    assert pooled(cells, (2, 2), size=2, stride=1) == [[-1, -2], [-4, -5]]
    assert pooled(cells, (2, 2), size=2, stride=2) == [[-1, -3], [-7, -9]], "the last windows stick out"
    assert pooled(cells, (2, 2), size=2, stride=2, padding=(1, 1)) == [[-1, -2], [-4, -5]], "no zeros from outside"
    assert pooled(cells, (3, 2), size=2, stride=1, padding=(0, 1)) == [[-1, -1], [-4, -4], [-7, -7]]


def test_nan_spreads_over_its_windows():
    cells = np.arange(16, dtype=np.float32).reshape(4, 4)
    cells[1, 1] = np.nan
    found = np.array(pooled(cells, (3, 3), size=2, stride=1))
    assert np.isnan(found[:2, :2]).all() and np.isfinite(found[2]).all() and np.isfinite(found[:, 2]).all()


def test_infinities():
    assert pooled([[-np.inf, -np.inf], [-np.inf, np.inf]], (1, 2), size=2, stride=1) == [[np.inf, np.inf]]
    assert pooled([[-np.inf]], (1, 1), size=1, stride=1) == [[-np.inf]]


def test_cells_outside_the_tiles_keep_their_values():
    x, out = numbers(1, 8, 10, 3), np.full((1, 4, 5, 3), 9, np.float32)
    tiles = ActiveTiles(np.array([[0, 0, 0]], np.int32), TileSpec((2, 3), (2, 3), (1, 1), (1, 1)))
    tile_max_pool(x, tiles, out, size=2, stride=2)
    expected = x[0, 2:6, 2:8].reshape(2, 2, 3, 2, 3).max(axis=(1, 3))
    assert np.array_equal(out[0, 1:3, 1:4], expected) and (out == 9).sum() == out.size - expected.size


@st.composite
def geometries(draw, most_after):
    """Size of x's map, window, stride, padding before, padding after and the shape of the result."""
    size, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    cells = (draw(st.integers(size, 9)), draw(st.integers(size, 9)))
    before, after = ([draw(st.integers(0, most(size))) for _ in "rc"] for most in (lambda size: size - 1, most_after))
    shape = tuple((cells[a] + before[a] + after[a] - size) // stride + 1 for a in (0, 1))
    most = tuple((cells[a] + before[a] - 1) // stride + 1 for a in (0, 1))
    return cells, size, stride, tuple(before), tuple(after), tuple(map(min, shape, most))


@given(geometries(lambda size: size + 2), st.integers(0, 2**32 - 1), st.data())
def test_equals_reference(geometry, seed, data):
    cells, size, stride, padding, _, shape = geometry
    rng, side = np.random.default_rng(seed), st.integers(1, 5)
    tile, images, channels = (data.draw(side), data.draw(side)), data.draw(side), data.draw(st.sampled_from([1, 3, 17]))
    apart = tuple(cells + data.draw(st.integers(0, 2)) for cells in tile)
    offset, count = (data.draw(st.tuples(*[st.integers(*ends)] * 2)) for ends in ((-6, 4), (0, 3)))
    tiles = random_tiles(rng, TileSpec(tile, apart, offset, count), data.draw(st.sampled_from([0.3, 1.1])), images)
    x = rng.standard_normal((images, *cells, channels), np.float32)
    x[rng.random(x.shape) < 0.03] = np.nan
    out = rng.standard_normal((images, *shape, channels), np.float32)
    chosen = {"size": size, "stride": stride, "padding": padding}
    expected = tile_max_pool_reference(x, tiles, out, **chosen)
    assert np.array_equal(tile_max_pool(x, tiles, out, **chosen), expected, equal_nan=True)


def in_onnxruntime(x, size, stride, pads):
    """ONNX's MaxPool of an NHWC map."""
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[size] * 2, strides=[stride] * 2, pads=pads)
    maps = {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))}
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, maps["x"].shape)]
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, maps)[0].transpose(0, 2, 3, 1)


@given(geometries(lambda size: size - 1), st.integers(0, 2**32 - 1))
def test_equals_onnxruntime(geometry, seed):
    cells, size, stride, before, after, shape = geometry
    x = np.random.default_rng(seed).standard_normal((2, *cells, 3), np.float32)
    tiles = random_tiles(np.random.default_rng(0), TileSpec.covering(shape, 3), 1.1, images=2)
    found = tile_max_pool(x, tiles, np.empty((2, *shape, 3), np.float32), size=size, stride=stride, padding=before)
    assert np.array_equal(found, in_onnxruntime(x, size, stride, [*before, *after]))


@pytest.mark.parametrize("backend", COMPILED[1:])
@pytest.mark.parametrize("chosen", [{}, {"size": 2, "padding": (0, 1)}, {"size": 1, "stride": 2, "padding": (0, 0)}])
@pytest.mark.parametrize("number", [np.float16, np.float32])
def test_windows_on_the_device(number, chosen, backend):
    (op,) = OPS
    inputs = {**op.make_inputs(np.random.default_rng(0), "small"), **chosen}
    inputs = {**inputs, "x": inputs["x"].astype(number), "out": inputs["out"].astype(number)}
    inputs["x"][0, 3:5, 2] = np.nan
    found, expected = call(backend, op, **inputs), call("reference", op, **inputs)
    assert found.dtype == number and np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("backend", COMPILED[1:])
def test_only_counted_tiles_run_on_the_device(backend):
    x, out = numbers(2, 8, 10, 3), numbers(2, 4, 5, 3, seed=1)
    index = np.array([[0, 1, 0], [1, 0, 1], [-1, 0, 0], [2, 0, 0], [0, 0, 0]], np.int32)  # images -1 and 2: none
    tiles = DeviceTiles(to_device(index), to_device(np.array([4], np.int32)), ALL.spec)
    found = to_host(tile_max_pool(to_device(x), tiles, to_device(out), **GEOMETRY))
    assert np.array_equal(found, tile_max_pool_reference(x, ActiveTiles(index[:2], ALL.spec), out, **GEOMETRY)), backend


WHOLE = numbers(2, 8, 10, 3)
GEOMETRY = {"size": 2, "stride": 2, "padding": (0, 0)}
ALL = ActiveTiles.all(TileSpec.covering((4, 5), 2))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.zeros((1, 8, 10, 3))}, TypeError, "x is float64, expected float32"),
        ({"x": numbers(1, 8, 10, 3).astype(np.float16)}, TypeError, "x is float16, expected float32"),
        ({"x": SimpleNamespace(dtype=np.dtype(np.float32))}, TypeError, "expected all of them NumPy arrays, or all on"),
        ({"x": numbers(8, 10, 3)}, ValueError, r"x has shape \(8, 10, 3\), expected \(N, H, W, C\)"),
        ({"x": numbers(1, 8, 10, 4)}, ValueError, r"out has shape \(1, 4, 5, 3\), expected \(1, rows, cols, 4\)"),
        ({"x": numbers(1, 6, 10, 3)}, ValueError, r"out has \(4, 5\) cells, expected at most \(3, 5\)"),
        ({"x": numbers(1, 8, 8, 3)}, ValueError, r"out has \(4, 5\) cells, expected at most \(4, 4\)"),
        ({"padding": (0, 2)}, ValueError, r"padding \(0, 2\); expected .* less than the window"),
        ({"padding": (-1, 0)}, ValueError, "expected .* at least 0"),
        ({"size": 0}, ValueError, "window 0, stride 2, .* expected window and stride of at least 1"),
        ({"stride": 0}, ValueError, "window 2, stride 0, .* expected window and stride of at least 1"),
        (
            {"x": WHOLE[:1], "out": WHOLE[:1, :4], "stride": 1},
            ValueError,
            "out shares memory with x; expected a map of its own",
        ),
        ({"x": numbers(1, 10, 8, 3).transpose(0, 2, 1, 3)}, ValueError, "a map is not contiguous; expected C order"),
        ({"tiles": ActiveTiles.all(TileSpec((3, 3), (2, 3), (0, 0), (2, 2)))}, ValueError, "overlap; expected none to"),
        ({"tiles": ActiveTiles(np.array([[1, 0, 0]], np.int32), ALL.spec)}, ValueError, "image 1, expected images 0"),
    ],
)
def test_bad_arguments_touch_nothing(change, error, words):
    arguments = {
        "x": numbers(1, 8, 10, 3),
        "tiles": ALL,
        "out": np.ones((1, 4, 5, 3), np.float32),
        **GEOMETRY,
        **change,
    }
    before = arguments["out"].copy()
    with pytest.raises(error, match=words):
        tile_max_pool(**arguments)
    assert np.array_equal(arguments["out"], before)
