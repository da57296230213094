"""A trained network to the ONNX file that ships: BatchNorm folded, real units, metadata inside."""

from __future__ import annotations

import copy
import io
import logging
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from detector.files import write_whole
from kernels.cell_features import FEATURES
from models.mask_network import MASK_NAME
from models.network import INPUT_NAME, METADATA_KEY, REGRESSION_NAME, SCORE_NAME, NetworkInfo
from tools.training.mask_network import ExportedMaskNetwork, RoadMaskNetwork
from tools.training.network import BevDetector, ExportedDetector

OPSET = 17


def export_detector(network: BevDetector, info: NetworkInfo, path: Path) -> None:
    """Writes the ONNX file of a trained detector; the network itself stays as it is.

    The file has one input, ``grid`` (1, channels, rows, cols), and two outputs, ``score`` (1, 1, h, w) in 0..1
    and ``regression`` (1, 8, h, w) in the units of `kernels.decode`.
    """
    exported = ExportedDetector(copy.deepcopy(network).cpu().eval())
    export_onnx(exported, info, info.grid.channels, [SCORE_NAME, REGRESSION_NAME], path)


def export_mask_network(network: RoadMaskNetwork, info: NetworkInfo, path: Path) -> None:
    """Writes the ONNX file of a trained mask network: as `export_detector`, with one output, ``mask`` (1, 2, h, w)."""
    export_onnx(ExportedMaskNetwork(copy.deepcopy(network).cpu().eval()), info, FEATURES, [MASK_NAME], path)


def export_onnx(exported: nn.Module, info: NetworkInfo, channels: int, outputs: list[str], path: Path) -> None:
    """Writes a module that reads a grid; batch norm is folded in the module itself."""
    exported.eval()
    fold_batch_norm(exported)
    spec = info.grid
    grid = torch.zeros(1, channels, spec.rows, spec.cols)
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        exported,
        (grid,),
        buffer,
        dynamo=False,
        opset_version=OPSET,
        input_names=[INPUT_NAME],
        output_names=outputs,
    )
    model = onnx.load_from_string(buffer.getvalue())
    model.metadata_props.add(key=METADATA_KEY, value=info.to_json())
    onnx.checker.check_model(model)
    write_whole(path, model.SerializeToString())


def fold_batch_norm(module: nn.Module) -> None:
    """Folds every batch norm into the convolution before it, in place."""
    for child in module.children():
        fold_batch_norm(child)
    if not isinstance(module, nn.Sequential):
        return
    for position in range(len(module) - 1):
        convolution, norm = module[position], module[position + 1]
        if isinstance(norm, nn.BatchNorm2d):
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            module[position] = fuse_conv_bn_eval(convolution, norm, transpose=transposed)
            module[position + 1] = nn.Identity()
