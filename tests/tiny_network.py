"""A network small enough to know by heart: it finds a car wherever a cell's lowest height bin is full."""

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from kernels.cell_features import FEATURES
from models.grid import BevSpec
from models.mask_network import CLASSES, MASK_NAME, SUFFIX, mask_spec
from models.network import INPUT_NAME, METADATA_KEY, REGRESSION_NAME, SCORE_NAME, NetworkInfo

# 8 x 12 cells of 0.8 m, 2 x 3 output cells of 3.2 m.
SPEC = BevSpec(x_max_m=6.4, y_min_m=-4.8, y_max_m=4.8, z_min_m=-2, z_max_m=0, cell_m=0.8, z_bin_m=1.0)
INFO = NetworkInfo("tiny", SPEC, 4, ("Car",), 0.4, "none", {"steps": 1}, {"Car": {}})
WIDE = replace(SPEC, x_max_m=51.2, y_min_m=-38.4, y_max_m=38.4)  # 4 x 6 tiles, where SPEC's grid is a part of one
CAR_SIZE = (3.0, 1.5, 1.4)


def tiny_model(score_name=SCORE_NAME, spec=SPEC):
    """score = sigmoid(cells with channel 0 in the 4x4 patch - 4.5); regression = a car at the patch's centre."""
    score_weight = np.zeros((1, spec.channels, 4, 4), np.float32)
    score_weight[0, 0] = 1
    regression_bias = np.array([0, 0, -1, *np.log(CAR_SIZE), 1, 0], np.float32)
    nodes = [
        helper.make_node("Conv", [INPUT_NAME, "w", "a"], ["logit"], strides=[4, 4]),
        helper.make_node("Sigmoid", ["logit"], [score_name]),
        helper.make_node("Conv", [INPUT_NAME, "v", "b"], [REGRESSION_NAME], strides=[4, 4]),
    ]
    shape = [1, spec.channels, spec.rows, spec.cols]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (score_name, REGRESSION_NAME)],
        [
            numpy_helper.from_array(score_weight, "w"),
            numpy_helper.from_array(np.array([-4.5], np.float32), "a"),
            numpy_helper.from_array(np.zeros((8, spec.channels, 4, 4), np.float32), "v"),
            numpy_helper.from_array(regression_bias, "b"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def write_model(path, model=None, info=INFO):
    """Writes a model (default: the tiny one) with its metadata; returns the path."""
    model = model or tiny_model()
    if info is not None:
        model.metadata_props.add(key=METADATA_KEY, value=info.to_json())
    path.write_bytes(model.SerializeToString())
    return path


def write_wide_model(path):
    """Writes the tiny model for the grid `WIDE`; returns the path."""
    return write_model(path, tiny_model(spec=WIDE), replace(INFO, grid=WIDE))


def tiny_mask_model(spec=WIDE):
    """Road wherever a 2 x 2 patch of coarse cells holds a point, vehicles where one is higher than a metre."""
    coarse = mask_spec(spec)
    weight = np.zeros((2, FEATURES, 2, 2), np.float32)
    weight[0, 5], weight[1, 3] = 10, 10  # occupied; highest
    nodes = [
        helper.make_node("Conv", [INPUT_NAME, "w", "b"], ["logit"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["logit"], [MASK_NAME]),
    ]
    shape = [1, FEATURES, coarse.rows, coarse.cols]
    graph = helper.make_graph(
        nodes,
        "tiny mask",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(MASK_NAME, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([-5, -10], np.float32), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def write_mask_model(detector_path, spec=WIDE, name=None):
    """Writes the tiny mask network beside a detector; returns the path."""
    path = detector_path.with_name(name or detector_path.name.removesuffix(".onnx") + SUFFIX)
    info = NetworkInfo(path.stem, mask_spec(spec), 2, CLASSES, 0.5, "none")
    return write_model(path, tiny_mask_model(spec), info)


def patch_points(row=0, col=1):
    """(16, 4) float32 points, one in every cell of one output cell's patch: one car there."""
    x, y = np.meshgrid(0.4 + 0.8 * np.arange(4) + 3.2 * row, -4.4 + 0.8 * np.arange(4) + 3.2 * col)
    return np.column_stack([x.ravel(), y.ravel(), np.full(16, -1.5), np.full(16, 0.5)]).astype(np.float32)
