"""The opponent: the same layers dense in PyTorch, that is cuDNN: channels_last, float16, captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kernels.filters import Filters
from kernels.unit import Unit
from models.plan import Plan
from models.steps import ConvStep, PointwiseStep

Call = Callable[[], Any]
WARM_UP = 3  # before the capture: cuDNN chooses its algorithms


class Dense:
    """Layers in PyTorch.

    Args:
        device: "cuda" or "cpu".
        half: whether numbers are float16.
    """

    def __init__(self, device: str = "cuda", half: bool = True) -> None:
        torch.backends.cudnn.benchmark = True
        self.device, self.dtype = device, torch.float16 if half else torch.float32

    def put(self, nhwc: NDArray[np.float32]) -> Tensor:
        """A map (N, rows, cols, channels), as PyTorch's NCHW in memory order channels_last."""
        tensor = torch.from_numpy(nhwc).permute(0, 3, 1, 2).to(self.device, self.dtype)
        return tensor.contiguous(memory_format=torch.channels_last)

    def get(self, tensor: Tensor) -> NDArray[np.float32]:
        """A map back, (N, rows, cols, channels)."""
        nhwc: NDArray[np.float32] = tensor.detach().permute(0, 2, 3, 1).float().cpu().numpy()
        return nhwc

    def conv(self, filters: Filters) -> Callable[[Tensor], Tensor]:
        """A convolution, or a transposed one."""
        # (rows, cols, C, K) to (K, C, rows, cols), transposed (C, K, rows, cols).
        order = (2, 3, 0, 1) if filters.transposed else (3, 2, 0, 1)
        weights = torch.from_numpy(filters.weights.transpose(order).copy()).to(self.device, self.dtype)
        weights = weights.contiguous(memory_format=torch.channels_last)
        bias = torch.from_numpy(filters.bias).to(self.device, self.dtype)
        if filters.transposed:
            return lambda x: functional.conv_transpose2d(x, weights, bias, filters.stride)
        return lambda x: functional.conv2d(x, weights, bias, filters.stride, filters.padding)

    def unit(self, unit: Unit) -> Callable[[Tensor], Tensor]:
        """A residual unit."""
        layers = [self.conv(layer) for layer in unit.layers]
        scale, shift = (
            None if numbers is None else torch.from_numpy(numbers).to(self.device, self.dtype).view(1, -1, 1, 1)
            for numbers in (unit.scale, unit.shift)
        )

        def run(x: Tensor) -> Tensor:
            hidden = x if scale is None else functional.relu(torch.addcmul(shift, x, scale))
            for layer in layers[:-1]:
                hidden = functional.relu(layer(hidden))
            y = layers[-1](hidden) + x
            return functional.relu(y) if unit.relu else y

        return run

    def layers(self, layers: Sequence[Unit | Filters]) -> Callable[[Tensor], Tensor]:
        """Layers one after the other."""
        calls = [self.unit(layer) if isinstance(layer, Unit) else self.conv(layer) for layer in layers]

        def run(x: Tensor) -> Tensor:
            for call in calls:
                x = call(x)
            return x

        return run

    def network(self, plan: Plan) -> Callable[[Tensor], Mapping[str, Tensor]]:
        """A planned network of convolutions and pointwise steps, from its input to all its maps.

        Raises:
            ValueError: if the plan has other steps.
        """
        calls: list[tuple[Any, Any]] = []
        for line in plan.steps:
            step = line.step
            plain = isinstance(step, PointwiseStep) and step.upsample == 1 and step.scale is None
            if not isinstance(step, ConvStep) and not plain:
                raise ValueError(f"{step.operator}: not known to the dense comparison")
            calls.append((step, self.conv(step.filters) if isinstance(step, ConvStep) else None))

        def run(grid: Tensor) -> Mapping[str, Tensor]:
            maps = {plan.graph.input_name: grid}
            for step, conv in calls:
                y = maps[step.source] if conv is None else conv(maps[step.source])
                if step.residual is not None:
                    y = y + maps[step.residual]
                if step.relu if conv is not None else step.activation == "relu":
                    y = functional.relu(y)
                elif conv is None and step.activation == "sigmoid":
                    y = torch.sigmoid(y)
                maps[step.target] = y
            return maps

        return run

    def captured(self, call: Call) -> Call:
        """The call as one CUDA graph; on the CPU as it is."""
        if self.device != "cuda":
            return call
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        replay: Call = graph.replay
        return replay
