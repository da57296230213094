"""The road-mask network: a small CNN on a coarse grid that says where the road is, and where vehicles are.

It reads `kernels.cell_features` over cells of `MASK_STRIDE` times the detector's, in which a kerb shows that height
bins of 20 cm hide, and answers at twice their size. Every tile of it is active: it is small enough.
It plays the part of SBNet's predicted masks (Ren et al., CVPR 2018, section 4.1).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kernels.cell_features import FEATURES, cell_features
from kernels.tiles import ActiveTiles
from kernels.workspace import Workspace
from models.errors import ModelError
from models.grid import BevSpec
from models.network import INPUT_NAME, Network, load_network
from models.sparse import TileExecutor
from models.sparse_cuda import CudaTileExecutor

MASK_STRIDE = 4  # grid cells per mask cell: 0.4 m on KITTI's grid, the step in which a margin can be chosen
OUTPUT_STRIDE = 2  # mask cells per cell of the network's output
MASK_NAME = "mask"  # the output, (1, 2, h, w), probabilities
CLASSES = ("road", "foreground")
SUFFIX = ".mask.onnx"


def mask_spec(spec: BevSpec) -> BevSpec:
    """The coarse grid over a detector's grid."""
    return replace(spec, cell_m=spec.cell_m * MASK_STRIDE)


def mask_input(points: Any, spec: BevSpec, workspace: Workspace) -> Any:
    """What the network reads, (rows, cols, FEATURES) float32; the next call with this workspace overwrites it.

    Args:
        points: (N, 4) float32, columns x, y, z [m] and intensity [0, 1].
        spec: the coarse grid, from `mask_spec`.
        workspace: where the result lies, on the CPU or on the device as the points.
    """
    origin, height_m = (spec.x_min_m, spec.y_min_m, spec.z_min_m), spec.z_max_m - spec.z_min_m
    return cell_features(points, origin, height_m, spec.cell_m, spec.shape[:2], workspace=workspace)


def mask_network_of(network: Network) -> Network | None:
    """The mask network that lies beside a detector: ``NAME.mask.onnx``; None where there is none.

    Raises:
        ModelError: if it cannot be read, or is for another grid.
    """
    path = Path(network.path)
    path = path.with_name(path.name.removesuffix(".onnx") + SUFFIX)
    if not path.is_file():
        return None
    found = load_network(path)
    expected = mask_spec(network.info.grid)
    if found.info.grid != expected or found.info.classes != CLASSES:
        raise ModelError(
            f"{path}: for {found.info.grid} and {found.info.classes}; {network.path} expects {expected} and {CLASSES}"
        )
    return found


class MaskNetwork:
    """Runs a mask network.

    Args:
        network: from `mask_network_of`.
        threads: CPU threads, None for all cores.
        device: whether it runs on CUDA, in float32.
        graph: whether its kernels are launched there as a CUDA graph.

    Raises:
        ModelError: if the network cannot be planned, or its input or output has another size.
        NoGpuError: if the device lacks memory for it.
    """

    def __init__(self, network: Network, threads: int | None = None, device: bool = False, graph: bool = True) -> None:
        self._executor: TileExecutor | CudaTileExecutor
        if device:
            self._executor = CudaTileExecutor(network, precision="float32", outputs=(MASK_NAME,), graph=graph)
        else:
            self._executor = TileExecutor(network, threads=threads, outputs=(MASK_NAME,))
        every = ActiveTiles.all(self._executor.grid_tiles)
        self._tiles: Any = every.to_device() if device else every
        rows, cols, _ = network.info.grid.shape
        maps = self._executor.plan.maps
        found = maps[INPUT_NAME].shape[1:], maps[MASK_NAME].shape[1:]
        expected = (rows, cols, FEATURES), (rows // OUTPUT_STRIDE, cols // OUTPUT_STRIDE, len(CLASSES))
        if found != expected:
            raise ModelError(f"{network.path}: reads {found[0]} and makes {found[1]}; expected {expected}")

    def __call__(self, grid: Any) -> Any:
        """Probabilities of `CLASSES`, (rows / 2, cols / 2, 2) float32, which the next call overwrites.

        Args:
            grid: (rows, cols, FEATURES) float32, from `mask_input`, where the network runs.
        """
        (mask,) = self._executor.run_maps(grid, self._tiles)
        return mask
