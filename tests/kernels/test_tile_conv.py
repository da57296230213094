"""`tile_conv` on the CPU: every method and geometry against the equation, and against onnxruntime's convolution."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.filters import Filters
from kernels.tile_conv import active_cells, dense_conv, tile_conv, tile_conv_reference
from kernels.tiles import ActiveTiles, TileSpec, random_tiles
from kernels.workspace import Workspace

TOLERANCE = 1e-4


def random_case(rng, shape, channels, columns, kernel, stride, padding, tile, offset=(0, 0), transposed=False):
    """x, filters, tiles, out, residual of one geometry."""
    images, rows, cols = shape
    weights = rng.standard_normal((*kernel, channels, columns), np.float32) / np.float32(np.sqrt(channels * kernel[0]))
    filters = Filters(weights, rng.standard_normal(columns, np.float32), stride, padding, transposed)
    if transposed:
        size = rows * stride, cols * stride
    else:
        size = tuple(max(1, -(-(cells + p) // stride)) for cells, p in zip((rows, cols), padding, strict=True))
    count = tuple(max(0, -(-(size[a] - offset[a]) // tile[a])) for a in (0, 1))
    tiles = random_tiles(rng, TileSpec(tile, tile, offset, count), 0.6, images)
    x = rng.standard_normal((images, rows, cols, channels), np.float32)
    out, residual = rng.standard_normal((2, images, *size, columns), np.float32)
    return x, filters, tiles, out, residual


def assert_equals_reference(x, filters, tiles, out, residual, method):
    for relu, added in ((False, None), (True, residual)):
        expected = tile_conv_reference(x, filters, tiles, out, relu, added)
        found = tile_conv(x, filters, tiles, out.copy(), relu, added, method)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=TOLERANCE)
        idle = ~active_cells(tiles, out.shape)
        assert np.array_equal(found[idle], out[idle]), "inactive cells keep their bytes"


shapes = st.tuples(st.integers(1, 2), st.integers(1, 14), st.integers(1, 14))
pairs = st.tuples(st.integers(1, 7), st.integers(1, 7))
offsets = st.tuples(st.integers(-4, 4), st.integers(-4, 4))
channels = st.sampled_from([1, 3, 16, 17, 33])


@settings(max_examples=60)
@given(
    st.integers(0, 99), shapes, channels, channels, st.tuples(st.integers(1, 4), st.integers(1, 4)), st.integers(1, 3),
    st.tuples(st.integers(0, 3), st.integers(0, 3)), pairs, offsets,
    st.sampled_from(["direct", "nonzero"]),
)  # fmt: skip
def test_any_geometry(seed, shape, inside, outside, kernel, stride, padding, tile, offset, method):
    case = random_case(np.random.default_rng(seed), shape, inside, outside, kernel, stride, padding, tile, offset)
    assert_equals_reference(*case, method)


@settings(max_examples=40)
@given(
    st.integers(0, 99), shapes, channels, channels, st.tuples(st.integers(0, 3), st.integers(0, 3)), pairs,
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)  # fmt: skip
def test_winograd(seed, shape, inside, outside, padding, tile, offset):
    case = random_case(np.random.default_rng(seed), shape, inside, outside, (3, 3), 1, padding, tile, offset)
    assert_equals_reference(*case, "winograd")


@settings(max_examples=30)
@given(
    st.integers(0, 99),
    shapes,
    channels,
    channels,
    st.integers(1, 4),
    pairs,
    st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
)
def test_transposed(seed, shape, inside, outside, stride, tile, offset):
    rng = np.random.default_rng(seed)
    case = random_case(rng, shape, inside, outside, (stride, stride), stride, (0, 0), tile, offset, transposed=True)
    assert_equals_reference(*case, "auto")


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_dense_conv_equals_onnxruntime(kernel, stride):
    """The oracle itself, against an independent library."""
    runtime, helper = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx.helper")
    rng = np.random.default_rng(kernel)
    x, filters, *_ = random_case(rng, (1, 11, 13), 5, 7, (kernel, kernel), stride, (kernel // 2,) * 2, (4, 4))
    pads = [kernel // 2] * 4
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[stride] * 2, pads=pads)
    values = [helper.make_tensor_value_info(name, 1, None) for name in ("x", "w", "b")]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", 1, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"x": x.transpose(0, 3, 1, 2), "w": filters.weights.transpose(3, 2, 0, 1), "b": filters.bias}
    expected = session.run(None, feed)[0].transpose(0, 2, 3, 1)
    found = dense_conv(x, filters, expected.shape[1:3])
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
@pytest.mark.parametrize("method", ["direct", "winograd", "nonzero"])
def test_any_number_of_threads_gives_the_same_bytes(method):
    case = random_case(np.random.default_rng(0), (1, 40, 36), 17, 33, (3, 3), 1, (1, 1), (8, 8))
    x, filters, tiles, out, residual = case
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        try:
            results.append(tile_conv(x, filters, tiles, out.copy(), True, residual, method).tobytes())
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert results[0] == results[1]


def test_a_workspace_is_asked_only_once():
    case = random_case(np.random.default_rng(0), (1, 40, 36), 16, 16, (3, 3), 1, (1, 1), (8, 8))
    x, filters, tiles, out, _ = case
    workspace = Workspace()
    for method in ("direct", "winograd", "nonzero"):
        tile_conv(x, filters, tiles, out, method=method, workspace=workspace)
    before = workspace.allocations
    for method in ("direct", "winograd", "nonzero"):
        fewer = ActiveTiles(tiles.index[::2], tiles.spec)
        tile_conv(x, filters, fewer, out, method=method, workspace=workspace)
    assert workspace.allocations == before


def bad_calls():
    """Arguments that must be refused, with the error and its words."""
    x, filters, tiles, out, residual = random_case(np.random.default_rng(0), (2, 9, 9), 3, 4, (3, 3), 2, (1, 1), (4, 4))
    near = TileSpec((4, 4), (2, 2), (0, 0), (3, 3))
    third = np.array([[2, 0, 0]], np.int32)
    good = {"x": x, "filters": filters, "tiles": tiles, "out": out, "residual": residual}
    yield good | {"x": x.astype(np.float64)}, TypeError, "x is float64, expected float32"
    yield good | {"x": x[..., :2]}, ValueError, "x has shape .* expected"
    yield good | {"out": out[..., :3]}, ValueError, "out has shape .* expected"
    yield good | {"out": out.astype(np.float16)}, TypeError, "out is float16, expected float32"
    yield good | {"residual": residual[:, 1:]}, ValueError, "residual has shape"
    yield good | {"residual": out}, ValueError, "out is also the input or the residual"
    yield good | {"out": out[:, ::-1]}, ValueError, "not contiguous"
    yield good | {"tiles": ActiveTiles(tiles.index[:0], near)}, ValueError, "overlap; expected none"
    yield good | {"tiles": ActiveTiles(third, tiles.spec)}, ValueError, "names image 2, expected"
    yield good | {"method": "fast"}, ValueError, "method is 'fast', expected one of"
    yield good | {"method": "winograd"}, ValueError, "Winograd's method expects"
    yield good | {"x": x.tolist()}, TypeError, "expected all of them NumPy arrays"


@pytest.mark.parametrize(("arguments", "error", "words"), list(bad_calls()))
def test_bad_arguments_touch_nothing(arguments, error, words):
    before = arguments["out"].copy()
    with pytest.raises(error, match=words):
        tile_conv(**arguments)
    assert np.array_equal(arguments["out"], before)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"weights": np.zeros((3, 3, 2, 2))}, TypeError, "weights is float64"),
        ({"weights": np.zeros((3, 3, 2), np.float32)}, ValueError, "weights has shape"),
        ({"bias": np.zeros(3, np.float32)}, ValueError, "bias has shape"),
        ({"stride": 0}, ValueError, "stride 0"),
        ({"padding": (-1, 0)}, ValueError, "padding"),
        ({"stride": 2, "transposed": True}, ValueError, "transposed: kernel"),
    ],
)
def test_bad_filters(changes, error, words):
    good = {"weights": np.zeros((3, 3, 2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    with pytest.raises(error, match=words):
        Filters(**(good | changes))
