"""A window of Open3D in which one leafs through frames: points by height, boxes, active tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.boxes import BOX_EDGES, box_corners
from detector.canvas import ACTIVE_BORDER, BACKGROUND, Colour
from detector.errors import RoadblocksError
from detector.point_files import import_open3d
from detector.types import FrameResult
from detector.view import DETECTION
from detector.viewers.scene import point_colours, tile_corners
from kernels.tiles import ActiveTiles, TileSpec
from models.grid import BevSpec

# GLFW's numbers of the keys → frames to go.
KEYS = {262: 1, 32: 1, 263: -1}  # right, space, left
_TILE_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0)])


class FrameWindow:
    """A window that shows one frame at a time. Use as a context manager.

    Args:
        count: number of frames, at least 1.
        load: gives the frame of a number; called when it is turned to.
        spec: the grid.
        least_score: of the boxes, 0..1.
        visible: off for a window that is drawn and never shown.

    Raises:
        MissingExtraError: if Open3D is not installed or cannot be loaded.
        RoadblocksError: if no window can be opened.
    """

    def __init__(
        self,
        count: int,
        load: Callable[[int], FrameResult],
        spec: BevSpec,
        least_score: float,
        visible: bool = True,
    ) -> None:
        self._open3d = open3d = import_open3d("the viewer open3d needs Open3D")
        self._count, self._load, self._spec, self._least_score = count, load, spec, least_score
        # Its outline is in every frame, so that the first view is the same whatever the first frame holds.
        self._whole_grid = ActiveTiles.all(TileSpec.covering((spec.rows, spec.cols), max(spec.rows, spec.cols)))
        self.number = 0
        self.window = open3d.visualization.VisualizerWithKeyCallback()
        if not self.window.create_window("roadblocks: left and right turn, Q ends", 1280, 800, visible=visible):
            raise RoadblocksError(
                "Open3D cannot open a window here, expected a display with OpenGL; use --viewer picture"
            )
        options = self.window.get_render_option()
        options.background_color, options.point_size = np.array(BACKGROUND) / 255, 2.0
        for key, step in KEYS.items():
            self.window.register_key_callback(key, lambda _, step=step: self.turn(step))
        self.turn(0)
        self._look_ahead()

    def __enter__(self) -> FrameWindow:
        return self

    def __exit__(self, *_: object) -> None:
        self.window.destroy_window()

    def run(self) -> None:
        """Shows frames until the window is closed."""
        self.window.run()

    def turn(self, step: int) -> bool:
        """Goes ``step`` frames on, round and round; True, which tells Open3D to draw."""
        self.number = (self.number + step) % self._count
        result, first = self._load(self.number), step == 0
        shown = [
            tile_lines(self._open3d, self._whole_grid, self._spec),
            point_cloud(self._open3d, result.frame.points, self._spec),
            box_lines(self._open3d, result.detections.above(self._least_score).boxes),
        ]
        if result.tiles is not None:
            shown.append(tile_lines(self._open3d, result.tiles, self._spec))
        self.window.clear_geometries()
        for geometry in shown:
            if not geometry.is_empty():
                self.window.add_geometry(geometry, reset_bounding_box=first)
        return True

    def _look_ahead(self) -> None:
        """From behind and above the sensor, along x."""
        view, spec = self.window.get_view_control(), self._spec
        view.set_lookat([(spec.x_min_m + spec.x_max_m) / 2, (spec.y_min_m + spec.y_max_m) / 2, spec.z_min_m])
        view.set_front([-0.8, 0.0, 0.6])
        view.set_up([0.0, 0.0, 1.0])
        view.set_zoom(0.28)


def point_cloud(open3d: Any, points: NDArray[np.float32], spec: BevSpec) -> Any:
    """Open3D's point cloud of (N, 4) points [m, LiDAR frame], coloured by height."""
    cloud = open3d.geometry.PointCloud(_vectors(open3d, points[:, :3]))
    cloud.colors = _vectors(open3d, point_colours(points, spec) / 255)
    return cloud


def box_lines(open3d: Any, boxes: NDArray[np.floating]) -> Any:
    """Open3D's line set of the edges of (N, 7) boxes; its points are their corners, in the order of `box_corners`."""
    return _line_set(open3d, box_corners(boxes), BOX_EDGES, DETECTION.colour)


def tile_lines(open3d: Any, tiles: ActiveTiles, spec: BevSpec) -> Any:
    """Open3D's line set of the outlines of active tiles; its points are those of `tile_corners`."""
    return _line_set(open3d, tile_corners(tiles, spec), _TILE_EDGES, ACTIVE_BORDER)


def _line_set(open3d: Any, corners: NDArray[np.float64], edges: NDArray[np.int_], colour: Colour) -> Any:
    """Lines between (N, K, 3) corners, the same (E, 2) edges for every shape."""
    count, per_shape = corners.shape[:2]
    lines = (edges + per_shape * np.arange(count)[:, None, None]).reshape(-1, 2)
    shape = open3d.geometry.LineSet(
        _vectors(open3d, corners.reshape(-1, 3)), open3d.utility.Vector2iVector(lines.astype(np.int32))
    )
    shape.paint_uniform_color(np.array(colour) / 255)
    return shape


def _vectors(open3d: Any, values: NDArray[Any]) -> Any:
    return open3d.utility.Vector3dVector(np.ascontiguousarray(values, np.float64))
