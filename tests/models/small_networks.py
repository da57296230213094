"""Small random BEV networks in ONNX, with everything that the planner knows and something that it does not."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from models.grid import BevSpec
from models.network import INPUT_NAME, METADATA_KEY, REGRESSION_NAME, SCORE_NAME, Network, NetworkInfo


class Builder:
    """Nodes and weights, one method per layer; every method returns the name of what it makes."""

    def __init__(self, rng, rows, cols, channels):
        self.rng, self.shape = rng, [1, channels, rows, cols]
        self.nodes, self.weights, self.channels = [], [], {INPUT_NAME: channels}

    def node(self, kind, inputs, channels, name=None, **attributes):
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        self.channels[name] = channels
        return name

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def conv(self, x, columns, size=3, stride=1, padding=None, name=None, **attributes):
        channels = self.channels[x] // attributes.get("group", 1)
        weights = self.rng.standard_normal((columns, channels, size, size)) / (size * channels**0.5)
        inputs = [x, self.constant(weights), self.constant(self.rng.standard_normal(columns) / 4)]
        pad = size // 2 if padding is None else padding
        return self.node("Conv", inputs, columns, name, strides=[stride] * 2, pads=[pad] * 4, **attributes)

    def norm(self, x):
        n = self.channels[x]
        draws = [1 + self.rng.random(n), *self.rng.standard_normal((2, n)) / 4, 0.5 + self.rng.random(n)]
        return self.node("BatchNormalization", [x, *(self.constant(draw) for draw in draws)], n)

    def relu(self, x):
        return self.node("Relu", [x], self.channels[x])

    def add(self, x, y):
        return self.node("Add", [x, y], self.channels[x])

    def basic_unit(self, x):
        n = self.channels[x]
        inner = self.relu(self.norm(self.conv(x, n)))
        return self.relu(self.add(x, self.norm(self.conv(inner, n))))

    def bottleneck_unit(self, x, inner):
        """Pre-activation: BN, ReLU, convolution, three times, then the addition."""
        y = self.conv(self.relu(self.norm(x)), inner, 1)
        y = self.conv(self.relu(self.norm(y)), inner, 3)
        y = self.conv(self.relu(self.norm(y)), self.channels[x], 1)
        return self.add(y, x)

    def up(self, x, columns, stride=2):
        weights = self.rng.standard_normal((self.channels[x], columns, stride, stride)) / self.channels[x] ** 0.5
        return self.node("ConvTranspose", [x, self.constant(weights)], columns, strides=[stride] * 2)

    def heads(self, x):
        self.node("Sigmoid", [self.conv(x, 1, 1)], 1, SCORE_NAME)
        self.conv(x, 8, 1, name=REGRESSION_NAME)

    def network(self, output_stride=2):
        """The network with the metadata that a pipeline wants."""
        _, channels, rows, cols = self.shape
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (SCORE_NAME, REGRESSION_NAME)],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        spec = BevSpec(
            x_max_m=float(rows), y_min_m=0.0, y_max_m=float(cols), z_min_m=0.0, z_max_m=float(channels - 3),
            cell_m=1.0, z_bin_m=1.0,
        )  # fmt: skip
        info = NetworkInfo("small", spec, output_stride, ("Car",), 0.5, "none")
        model.metadata_props.add(key=METADATA_KEY, value=info.to_json())
        return Network(None, model.SerializeToString(), info)


def residual_network(seed, rows, cols, channels=5, width=6, units=("basic", "bottleneck"), stride=2):
    """Stem, residual units, one level down and up again by transposed convolution, heads."""
    net = Builder(np.random.default_rng(seed), rows, cols, channels)
    x = net.relu(net.norm(net.conv(INPUT_NAME, width, 3, stride)))
    for unit in units:
        x = net.basic_unit(x) if unit == "basic" else net.bottleneck_unit(x, width // 2)
    down = net.relu(net.conv(x, 2 * width, 3, 2))
    down = net.basic_unit(down)
    if rows % (2 * stride) == 0 and cols % (2 * stride) == 0:
        x = net.relu(net.add(net.up(down, width), x))
    net.heads(x)
    return net.network(stride)


def everything_network(seed, rows=64, cols=48):
    """Every operator that tiles know, and three that they do not: grouped convolution, LeakyRelu, bilinear resize."""
    net = Builder(np.random.default_rng(seed), rows, cols, 4)
    x = net.relu(net.norm(net.conv(INPUT_NAME, 8, 3, 2)))
    pooled = net.node("MaxPool", [x], 8, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    grouped = net.conv(pooled, 8, 3, group=2)
    leaky = net.node("LeakyRelu", [grouped], 8, alpha=0.1)
    scales = net.constant([1, 1, 2, 2])
    repeated = net.node("Resize", [leaky, "", scales], 8, mode="nearest", coordinate_transformation_mode="asymmetric",
                        nearest_mode="floor")  # fmt: skip
    smooth = net.node("Resize", [pooled, "", scales], 8, mode="linear")
    joined = net.node("Concat", [x, repeated, smooth], 24, axis=1)
    x = net.basic_unit(net.relu(net.conv(joined, 8, 1)))
    net.heads(net.add(net.relu(x), repeated))
    return net.network()
