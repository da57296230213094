"""`RerunLog`: results of a stream or an output folder in Rerun, as a live window or a recording.

Entities, on the timelines `frame` (number in the stream, frames that were dropped included) and `stamp` (the sweep's)::

    world/points      points by height [m, LiDAR frame]
    world/boxes       boxes with class and score; world/headings: where their fronts are
    world/tiles       outlines of the active tiles, on the floor of the grid
    bev/cells         the grid from above, forward up: class ids of `CELL_CLASSES`; bev/boxes: boxes in its pixels
    time_ms/STAGE     milliseconds per stage; time_ms/latency
    counts/tiles_run, counts/dropped_before
    frame             name of the frame
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.canvas import ACTIVE_BORDER, BACKGROUND, FAINT, HEADING_M, Canvas, active_cells
from detector.errors import MissingExtraError, RoadblocksError
from detector.types import Detections, FrameResult
from detector.view import DETECTION
from detector.viewers.scene import has_display, point_colours, tile_corners
from models.grid import BevSpec

log = logging.getLogger("roadblocks")

# Class ids of `bev/cells`, with name and colour.
CELL_CLASSES = ((0, "left out", BACKGROUND), (1, "computed", ACTIVE_BORDER), (2, "points", FAINT))
_LEFT_OUT, _COMPUTED, _POINTS = (number for number, _, _ in CELL_CLASSES)
_PORT = 9876  # Rerun's own; a window that is already open there is used
# How a log ends without an error: all frames, Ctrl-C, or nobody reads the stream's lines any more.
ENDINGS = (KeyboardInterrupt, BrokenPipeError, GeneratorExit)
_CLOSE_S = 5.0  # how long the end waits for a window that does not take what is left


class RerunLog:
    """Logs frame results to Rerun. Use as a context manager.

    A recording grows as ``FILE.part`` and gets its name when the log is closed, also after Ctrl-C.

    Args:
        spec: the grid.
        recording: the .rrd file to write, or None to open Rerun's window.

    Raises:
        MissingExtraError: if Rerun is not installed.
        RoadblocksError: if a window is wanted and none can be opened.
        OSError: if the recording cannot be written.
    """

    def __init__(self, spec: BevSpec, recording: Path | None = None) -> None:
        self._rerun = rerun = _import_rerun()
        self._spec, self._recording = spec, recording
        self._next_number = 0
        if recording is None and not has_display():
            raise RoadblocksError(
                "the viewer rerun opens a window, and neither DISPLAY nor WAYLAND_DISPLAY names a display; "
                "record with --recording FILE.rrd and open that elsewhere: rerun FILE.rrd"
            )
        self._stream = rerun.RecordingStream("roadblocks")
        if recording is None:
            self._open_window()
        else:
            self._partial.open("wb").close()  # Rerun's own error would not say what is wrong with the file
            self._stream.save(self._partial, default_blueprint=_blueprint())
        self._log_static()

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._recording is None:
            try:
                self._stream.flush(timeout_sec=_CLOSE_S)
            except RuntimeError:
                log.warning("Rerun's window was closed or did not keep up: its last frames are lost")
            self._stream.disconnect()
        else:
            self._stream.disconnect()
            if kind is None or issubclass(kind, ENDINGS):
                os.replace(self._partial, self._recording)
            else:
                log.warning("%s holds the frames up to the error", self._partial)

    def log(self, result: FrameResult, least_score: float) -> None:
        """Logs one frame.

        Args:
            result: its points, boxes from ``least_score`` on, tiles where they are known, times and counts.
            least_score: of the boxes, 0..1.
        """
        rerun, send = self._rerun, self._stream.log
        self._set_time(result)
        send("frame", rerun.TextLog(result.frame_id))
        points = result.frame.points
        colours, radius = point_colours(points, self._spec), rerun.Radius.ui_points(1.5)
        send("world/points", rerun.Points3D(points[:, :3], colors=colours, radii=radius))
        self._log_boxes(result.detections.above(least_score))
        self._log_tiles(result)
        for stage, value_ms in result.stage_ms.items():
            send(f"time_ms/{stage}", rerun.Scalars(value_ms))
        if result.latency_ms is not None:
            send("time_ms/latency", rerun.Scalars(result.latency_ms))
        send("counts/tiles_run", rerun.Scalars(result.tiles_run))
        send("counts/dropped_before", rerun.Scalars(result.dropped_before))

    @property
    def _partial(self) -> Path:
        assert self._recording is not None
        return self._recording.with_name(f"{self._recording.name}.part")

    def _open_window(self) -> None:
        # The window of this environment, which need not be in PATH, is the one that fits the SDK; else any.
        executable = shutil.which("rerun", path=sysconfig.get_path("scripts"))
        try:
            self._rerun.spawn(port=_PORT, connect=False, executable_path=executable, recording=self._stream)
            # Without this a window that never came would be waited for at the end, and for ever.
            socket.create_connection(("127.0.0.1", _PORT), timeout=1).close()
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise RoadblocksError(
                f"Rerun's window does not open ({reason}); record with --recording FILE.rrd"
            ) from error
        self._stream.connect_grpc(f"rerun+http://127.0.0.1:{_PORT}/proxy", default_blueprint=_blueprint())

    def _log_static(self) -> None:
        rerun = self._rerun
        self._stream.log("world", rerun.ViewCoordinates.FLU, static=True)
        self._stream.log("bev", rerun.AnnotationContext(CELL_CLASSES), static=True)

    def _set_time(self, result: FrameResult) -> None:
        number = self._next_number + result.dropped_before
        self._next_number = number + 1
        self._stream.set_time("frame", sequence=number)
        if result.frame.stamp_ns is None:
            self._stream.disable_timeline("stamp")
        else:
            self._stream.set_time("stamp", timestamp=np.datetime64(result.frame.stamp_ns, "ns"))

    def _log_boxes(self, shown: Detections) -> None:
        rerun, boxes, colour = self._rerun, shown.boxes, DETECTION.colour
        names = [f"{label} {score:.2f}" for label, score in zip(shown.labels, shown.scores, strict=True)]
        poses = {"centers": boxes[:, :3], "half_sizes": boxes[:, 3:6] / 2, "quaternions": quaternions(boxes[:, 6])}
        self._stream.log("world/boxes", rerun.Boxes3D(**poses, labels=names, colors=colour, show_labels=True))
        heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), 0 * boxes[:, 6]], axis=1)
        reach_m = boxes[:, 3:4] / 2 + np.float32(HEADING_M)
        arrows = rerun.Arrows3D(origins=boxes[:, :3], vectors=heading * reach_m, colors=colour)
        self._stream.log("world/headings", arrows)
        pixels = Canvas(self._spec, 1 / self._spec.cell_m)
        # From the tail of the heading once around to the front: one strip, as in the pictures.
        strips = [pixels.footprint(box)[[0, 1, 2, 3, 0, 4, 5]] for box in boxes]
        self._stream.log("bev/boxes", rerun.LineStrips2D(strips, colors=colour, labels=names, show_labels=False))

    def _log_tiles(self, result: FrameResult) -> None:
        rerun, spec = self._rerun, self._spec
        cells = np.full((spec.rows, spec.cols), _LEFT_OUT, np.uint8)
        if result.tiles is not None:
            cells[active_cells(result.tiles, spec)] = _COMPUTED
            strips = tile_corners(result.tiles, spec)[:, [0, 1, 2, 3, 0]]
            self._stream.log("world/tiles", rerun.LineStrips3D(strips, colors=ACTIVE_BORDER))
        x_m, y_m = result.frame.points[:, 0], result.frame.points[:, 1]
        row, col = np.floor((x_m - spec.x_min_m) / spec.cell_m), np.floor((y_m - spec.y_min_m) / spec.cell_m)
        inside = (row >= 0) & (row < spec.rows) & (col >= 0) & (col < spec.cols)
        cells[row[inside].astype(np.intp), col[inside].astype(np.intp)] = _POINTS
        self._stream.log("bev/cells", rerun.SegmentationImage(np.ascontiguousarray(cells[::-1, ::-1])))


def quaternions(yaw_rad: NDArray[np.floating]) -> NDArray[np.floating]:
    """(N, 4) quaternions x, y, z, w of (N,) turns about +z [rad]."""
    return np.stack([0 * yaw_rad, 0 * yaw_rad, np.sin(yaw_rad / 2), np.cos(yaw_rad / 2)], axis=1)


def _blueprint() -> Any:
    """Space and grid side by side, below them the times and the counts."""
    import rerun.blueprint as blueprint

    return blueprint.Blueprint(
        blueprint.Vertical(
            blueprint.Horizontal(
                blueprint.Spatial3DView(origin="world", name="LiDAR frame"),
                blueprint.Spatial2DView(origin="bev", name="Bird's-eye view"),
                column_shares=[3, 2],
            ),
            blueprint.Horizontal(
                blueprint.TimeSeriesView(origin="time_ms", name="Milliseconds"),
                blueprint.TimeSeriesView(origin="counts", name="Tiles run, frames dropped"),
                blueprint.TextLogView(origin="frame", name="Frames"),
                column_shares=[3, 2, 1],
            ),
            row_shares=[3, 1],
        ),
        blueprint.TimePanel(timeline="frame", state="collapsed"),
        collapse_panels=True,
    )


def _import_rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise MissingExtraError(
            f"the viewer rerun needs Rerun, which is not installed ({error}): pip install 'roadblocks[viewer]'"
        ) from error
    return rerun
