"""LiDAR 3D vehicle detection on sparse blocks of bird's-eye-view grids.

Example::

    from detector import Pipeline
    pipeline = Pipeline.from_config("kitti")
    for result in pipeline.stream("drive/"):
        print(result.frame_id, result.detections.boxes)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.calibration import Calibration as Calibration
    from detector.config import Config as Config
    from detector.config import load_config as load_config
    from detector.errors import RoadblocksError as RoadblocksError
    from detector.pipeline import Pipeline as Pipeline
    from detector.sources import Source as Source
    from detector.sources import open_sources as open_sources
    from detector.stages import STAGES as STAGES
    from detector.stages import Stage as Stage
    from detector.stages import StageClock as StageClock
    from detector.types import Detections as Detections
    from detector.types import Frame as Frame
    from detector.types import FrameResult as FrameResult
    from kernels.tiles import ActiveTiles as ActiveTiles
    from kernels.tiles import TileSpec as TileSpec
    from models.grid import BevSpec as BevSpec

# Name to home. Imported on first use, so that `roadblocks --help` does not wait for Numba.
_HOMES = {
    "ActiveTiles": "kernels.tiles",
    "BevSpec": "models.grid",
    "Calibration": "detector.calibration",
    "Config": "detector.config",
    "Detections": "detector.types",
    "Frame": "detector.types",
    "FrameResult": "detector.types",
    "Pipeline": "detector.pipeline",
    "RoadblocksError": "detector.errors",
    "STAGES": "detector.stages",
    "Source": "detector.sources",
    "Stage": "detector.stages",
    "StageClock": "detector.stages",
    "TileSpec": "kernels.tiles",
    "load_config": "detector.config",
    "open_sources": "detector.sources",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'detector' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
