"""Where the computation mask comes from: one class per source, chosen by name in the configuration.

A source gives a value per mask cell; tiles run where it is above the threshold, or within the margin of where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kernels.height_above_ground import height_above_ground
from kernels.launch import to_device
from kernels.spread_cells import spread_cells
from kernels.transfers import Upload
from kernels.voxelize import voxelize
from kernels.workspace import Workspace
from models.errors import ModelError
from models.grid import BevSpec
from models.mask_network import CLASSES, MaskNetwork, mask_input, mask_spec
from models.network import Network

GROUND_REACH_M = 2.0  # how near the ground under an object has to be seen

Float32 = NDArray[np.float32]
Pose = NDArray[np.float64] | None


@dataclass(frozen=True)
class Limits:
    """What a source's values mean: tiles run above ``threshold``, and within ``margin_m`` of where they do."""

    threshold: float
    margin_m: float


MAP = "map:FILE"
# Measured by `python -m tools.benchmark masks`; see docs/masks.md.
LIMITS = {
    "all": Limits(0.0, 0.0),
    "occupancy": Limits(-0.5, 1.2),  # metres above the ground: any point at all
    "road": Limits(0.1, 1.2),
    "road+occupancy": Limits(0.1, 1.2),
    "foreground": Limits(0.2, 1.2),
    "foreground+occupancy": Limits(0.2, 1.2),
    MAP: Limits(0.5, 1.2),
}
SOURCES = tuple(LIMITS)
PREFERRED = "foreground"  # where a model ships a mask network
OCCUPIED_ABOVE_M = 0.1  # what "+occupancy" asks for: more than the ground itself


def kind_of(source: str) -> str:
    """The key of a source in `LIMITS`: all maps have one."""
    return MAP if source.startswith("map:") else source


class MaskSource(Protocol):
    """Says where vehicles can be, for frames on one grid."""

    ranks: bool  # whether a higher value is a likelier vehicle, so that budgets go by it

    def __call__(self, points: Any, pose: Pose = None) -> Any:
        """A value per mask cell, (rows / 4, cols / 4) float32, which the next call overwrites.

        Values are where the points are. On the device they are only queued, on this thread's stream.

        Args:
            points: (N, 4) float32, columns x, y, z [m] and intensity, frame of the grid.
            pose: (4, 4) float64 from that frame to the world's, where known.
        """


class AllCells:
    """Everything is computed."""

    ranks = False

    def __init__(self, spec: BevSpec, device: bool = False) -> None:
        ones = np.ones(mask_spec(spec).shape[:2], np.float32)
        self._mask: Any = to_device(ones) if device else ones

    def __call__(self, points: Any, pose: Pose = None) -> Any:
        """Ones."""
        return self._mask


class Occupancy:
    """How far points rise above the ground near them [m]; -1 where there are none."""

    ranks = False

    def __init__(self, spec: BevSpec, device: bool = False) -> None:
        self.spec = mask_spec(spec)
        self._reach = round(GROUND_REACH_M / self.spec.cell_m)
        self._workspace = Workspace(device)

    def __call__(self, points: Any, pose: Pose = None) -> Any:
        """Heights above the ground."""
        spec = self.spec
        origin = (spec.x_min_m, spec.y_min_m, spec.z_min_m)
        grid = voxelize(points, origin, spec.cell_m, spec.z_bin_m, spec.shape, workspace=self._workspace)
        return height_above_ground(grid, spec.z_bin_m, self._reach, self._workspace)


class Predicted:
    """Probability of road or of vehicles, from the mask network; 0 where ``occupied`` asks for points in vain.

    Args:
        spec: the detector's grid.
        network: the mask network's file.
        name: one of `CLASSES`.
        occupied: whether something has to rise above the ground as well.
        threads: CPU threads, None for all cores.
        device: whether points are on the device.
        graph: whether the network is launched there as a CUDA graph.
    """

    def __init__(
        self,
        spec: BevSpec,
        network: Network,
        name: str,
        occupied: bool,
        threads: int | None,
        device: bool = False,
        graph: bool = True,
    ) -> None:
        self.ranks = name == "foreground"
        self._spec, self._channel = mask_spec(spec), CLASSES.index(name)
        self._occupancy = Occupancy(spec, device) if occupied else None
        self._network, self._workspace = MaskNetwork(network, threads, device, graph), Workspace(device)
        zeros = np.zeros(self._spec.shape[:2], np.float32)
        self._mask: Any = to_device(zeros) if device else zeros

    def __call__(self, points: Any, pose: Pose = None) -> Any:
        """Probabilities."""
        found = self._network(mask_input(points, self._spec, self._workspace))
        height = None if self._occupancy is None else self._occupancy(points)
        return spread_cells(found, self._channel, self._mask, height, OCCUPIED_ABOVE_M)


class Uploaded:
    """A source that is made on the host from the pose alone, its values on the device.

    Args:
        source: which.
        spec: the detector's grid.
    """

    def __init__(self, source: MaskSource, spec: BevSpec) -> None:
        self.ranks, self._source = source.ranks, source
        self._upload = Upload(mask_spec(spec).cols)

    def __call__(self, points: Any, pose: Pose = None) -> Any:
        """The source's values."""
        return self._upload(self._source(points, pose))


def mask_source(
    name: str,
    spec: BevSpec,
    network: Network | None,
    threads: int | None = None,
    device: bool = False,
    graph: bool = True,
) -> MaskSource:
    """The source of a name.

    Args:
        name: one of `SOURCES`, FILE being a path.
        spec: the detector's grid.
        network: the mask network's file, where there is one.
        threads: CPU threads for it, None for all cores.
        device: whether points are, and values shall be, on the device.
        graph: whether a mask network is launched there as a CUDA graph.

    Raises:
        ModelError: if it needs a mask network and there is none.
        MapError: if the map cannot be used.
    """
    base, _, joined = name.partition("+")
    if name == "all":
        return AllCells(spec, device)
    if name == "occupancy":
        return Occupancy(spec, device)
    if base.startswith("map:"):
        from models.map_mask import MapCells  # imported here: tools.gpu_check runs without SciPy

        found = MapCells(spec, Path(name.removeprefix("map:")))
        return Uploaded(found, spec) if device else found
    if network is None:
        raise ModelError(f"mask {name}: the model has no mask network beside it; expected mask occupancy or all")
    return Predicted(spec, network, base, bool(joined), threads, device, graph)
