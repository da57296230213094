"""Weights that a run starts from: those of another run, or of a network that was exported, such as the shipped ones.

An exported network has its batch norms folded. To learn on, it needs them back: each gets the statistics that its
convolution has on samples, and the scale and shift that undo them. The function stays the same, and training, which
normalises by the statistics of its batch, starts where the exported network was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from detector.errors import ConfigError
from models.network import load_network
from tools.training.export import fold_batch_norm
from tools.training.network import REGRESSION_MEAN, REGRESSION_STD, BevDetector, ExportedDetector

EXPORTED = ".onnx"
SAMPLES = 16  # from which the statistics of batch norms are taken


def exported_weights(file: Path, network: BevDetector, grids: Iterable[Tensor]) -> dict[str, Tensor]:
    """What `BevDetector.load_state_dict` takes, from a file of `tools.train export`.

    Args:
        file: the ONNX file.
        network: an untrained network of the same channels and units; used up.
        grids: of samples, (1, channels, rows, cols) each.

    Raises:
        ConfigError: if the file holds another network.
        ModelError: if it is no network.
    """
    tensors = onnx.load_from_string(load_network(file).content).graph.initializer
    values = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in tensors}
    _check(file, values, network)
    network.eval()
    norms = []
    with torch.no_grad():
        for name, convolution, norm in _convolutions(network, "network"):
            convolution.weight.copy_(values[f"{name}.weight"])
            norms.append((norm, values[f"{name}.bias"]))
            _let_add(*norms[-1], torch.zeros_like(norm.bias), torch.ones_like(norm.bias))
        _set_head(network.head, values)
        statistics = _statistics(network, [norm for norm, _ in norms], grids)
        for (norm, bias), (mean, variance) in zip(norms, statistics, strict=True):
            _let_add(norm, bias, mean, variance)
    return network.state_dict()


def _check(file: Path, values: dict[str, Tensor], network: BevDetector) -> None:
    exported = ExportedDetector(copy.deepcopy(network)).eval()
    fold_batch_norm(exported)
    state = exported.state_dict().items()
    wanted = {name: tuple(value.shape) for name, value in state if not name.startswith("network.head.")}
    found = {name: tuple(value.shape) for name, value in values.items()}
    if found != wanted:
        first = min(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise ConfigError(
            f"{file}: holds another network than the configuration's; found {first} {found.get(first)}, expected "
            f"{wanted.get(first)}: set `network` to its widths and units"
        )


def _convolutions(module: nn.Module, name: str) -> Iterator[tuple[str, Any, nn.BatchNorm2d]]:
    """Every convolution that a batch norm follows, with its name in the exported network."""
    for key, child in module.named_children():
        yield from _convolutions(child, f"{name}.{key}")
    if isinstance(module, nn.Sequential):
        for position, (convolution, norm) in enumerate(pairwise(module)):
            if isinstance(norm, nn.BatchNorm2d):
                yield f"{name}.{position}", convolution, norm


def _let_add(norm: nn.BatchNorm2d, bias: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Lets a batch norm with these statistics do nothing but add ``bias``."""
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(torch.sqrt(variance + norm.eps))
    norm.bias.copy_(bias + mean)


def _set_head(head: nn.Conv2d, values: dict[str, Tensor]) -> None:
    """Undoes what `ExportedDetector` does to the heads."""
    mean, std = torch.tensor(REGRESSION_MEAN), torch.tensor(REGRESSION_STD)
    weight, bias = values["regression_head.weight"] / std.view(-1, 1, 1, 1), values["regression_head.bias"]
    head.weight.copy_(torch.cat([values["score_head.weight"], weight]))
    head.bias.copy_(torch.cat([values["score_head.bias"], (bias - mean) / std]))


def _statistics(
    network: BevDetector, norms: list[nn.BatchNorm2d], grids: Iterable[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Mean and variance of what comes into every batch norm, by channel, over all cells of all grids."""
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms}

    def look(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[norm].append((inputs[0].mean((0, 2, 3)), inputs[0].square().mean((0, 2, 3))))

    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    for grid in grids:
        network(grid)
    for hook in hooks:
        hook.remove()
    means = [[torch.stack(each).mean(0) for each in zip(*seen[norm], strict=True)] for norm in norms]
    return [(mean, square - mean.square()) for mean, square in means]
