"""`decode`: score and regression maps to candidate boxes.

Equation, for every output cell (row, col) whose score is at least the threshold, ``r`` its regression::

    x = x_min + (row + 0.5) * cell + r[0]        length, width, height = exp(clip(r[3:6], LOG_SIZE_RANGE))
    y = y_min + (col + 0.5) * cell + r[1]        z = r[2]        yaw = atan2(r[7], r[6])

The best ``max_candidates`` are returned, best score first, equal scores by cell (row, then column). A NaN score is no
candidate.
After PIXOR (Yang et al., CVPR 2018, section 3.2), with height added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.checks import check_array
from kernels.jit import cpu_kernel
from kernels.launch import THREADS, blocks, cuda, on_device, stream, to_host
from kernels.op import Close, CudaKernel, Op
from kernels.ordering import SCAN_THREADS, rank_of, sort_scores, sum_before
from kernels.workspace import Workspace

Float32 = NDArray[np.float32]

BOX_COLUMNS = 7
REGRESSION_CHANNELS = 8
# 5 cm to 55 m: keeps a network that is fed nonsense from making infinite boxes.
LOG_SIZE_RANGE = (-3.0, 4.0)
_LEAST_LOG_SIZE, _LARGEST_LOG_SIZE = np.float32(LOG_SIZE_RANGE[0]), np.float32(LOG_SIZE_RANGE[1])


@dataclass(frozen=True)
class DeviceCandidates:
    """Candidate boxes on the device. Their number stays there too, so that no frame waits for the host.

    Attributes:
        boxes: (capacity, 7) float32 device array, columns as in `decode`, best score first.
        scores: (capacity,) float32 device array.
        count: (1,) int32 device array: so many rows mean something.
    """

    boxes: Any
    scores: Any
    count: Any

    def to_host(self) -> tuple[Float32, Float32]:
        """Boxes and scores as `decode` returns them on the CPU; waits for the device."""
        count = int(to_host(self.count)[0])
        return to_host(self.boxes)[:count], to_host(self.scores)[:count]


def decode_reference(
    score: Float32,
    regression: Float32,
    origin_m: tuple[float, float],
    cell_m: float,
    threshold: float,
    max_candidates: int,
) -> tuple[Float32, Float32]:
    """The equation in NumPy. Arguments and results as in `decode`."""
    row, col = np.nonzero(score >= np.float32(threshold))
    order = np.argsort(-score[row, col], kind="stable")[:max_candidates]
    row, col = row[order], col[order]
    values = regression[row, col].astype(np.float64)
    x = origin_m[0] + (row + 0.5) * cell_m + values[:, 0]
    y = origin_m[1] + (col + 0.5) * cell_m + values[:, 1]
    sizes = np.exp(np.clip(values[:, 3:6], *LOG_SIZE_RANGE))
    yaw = np.arctan2(values[:, 7], values[:, 6])
    return np.column_stack([x, y, values[:, 2], sizes, yaw]).astype(np.float32), score[row, col]


def _write_box(regression: Any, row: Any, col: Any, x_min: Any, y_min: Any, cell: Any, boxes: Any, index: Any) -> None:
    """Row ``index`` of the boxes; x and y in the precision of x_min, y_min and cell."""
    half = np.float32(0.5)
    boxes[index, 0] = x_min + (np.float32(row) + half) * cell + regression[row, col, 0]
    boxes[index, 1] = y_min + (np.float32(col) + half) * cell + regression[row, col, 1]
    boxes[index, 2] = regression[row, col, 2]
    for axis in range(3):
        log_size = regression[row, col, 3 + axis]
        if log_size < _LEAST_LOG_SIZE:
            log_size = _LEAST_LOG_SIZE
        elif log_size > _LARGEST_LOG_SIZE:
            log_size = _LARGEST_LOG_SIZE
        boxes[index, 3 + axis] = math.exp(log_size)
    boxes[index, 6] = math.atan2(regression[row, col, 7], regression[row, col, 6])


_write_box_cpu = cpu_kernel(inline=True)(_write_box)
_write_box_cuda = cuda.jit(device=True, inline="always")(_write_box)


@cpu_kernel()
def _decode_cpu(
    score: Float32,
    regression: Float32,
    numbers: tuple[float, float, float],
    threshold: np.float32,
    cells: NDArray[np.int64],
    candidates: Float32,
    order: NDArray[np.int64],
    boxes: Float32,
    best: Float32,
) -> int:
    """Writes boxes and their scores as long as there is room; returns how many. ``cells`` to ``order`` are scratch."""
    x_min, y_min, cell = numbers
    found, cols = 0, score.shape[1]
    for row in range(score.shape[0]):
        for col in range(cols):
            if score[row, col] >= threshold:
                cells[found], candidates[found] = row * cols + col, score[row, col]
                found += 1
    order = sort_scores(candidates[:found], order[:, :found])
    count: int = min(found, boxes.shape[0])
    for rank in range(count):
        index = order[rank]
        best[rank] = candidates[index]
        _write_box_cpu(regression, cells[index] // cols, cells[index] % cols, x_min, y_min, cell, boxes, rank)
    return count


@cuda.jit
def _candidates_cuda(score: Any, threshold: Any, cells: Any, candidates: Any, found: Any) -> None:
    """One block: every thread lists a run of cells behind those of the threads before it."""
    sums = cuda.shared.array(SCAN_THREADS, np.int32)
    cols = score.shape[1]
    run = (score.size + cuda.blockDim.x - 1) // cuda.blockDim.x
    first = cuda.threadIdx.x * run
    last, here = min(first + run, score.size), 0
    for cell in range(first, last):
        if score[cell // cols, cell % cols] >= threshold:
            here += 1
    place = sum_before(here, sums)
    for cell in range(first, last):
        value = score[cell // cols, cell % cols]
        if value >= threshold:
            cells[place], candidates[place] = cell, value
            place += 1
    if cuda.threadIdx.x == cuda.blockDim.x - 1:
        found[0] = place


@cuda.jit
def _decode_cuda(
    candidates: Any,
    cells: Any,
    found: Any,
    regression: Any,
    x_min: Any,
    y_min: Any,
    cell: Any,
    boxes: Any,
    best: Any,
    count: Any,
) -> None:
    """One candidate per thread: it counts the better ones, which gives its place."""
    total, cols = found[0], regression.shape[1]
    for index in range(cuda.grid(1), total, cuda.gridsize(1)):
        rank = rank_of(index, candidates, total)
        if rank < boxes.shape[0]:
            best[rank] = candidates[index]
            _write_box_cuda(regression, cells[index] // cols, cells[index] % cols, x_min, y_min, cell, boxes, rank)
    if cuda.grid(1) == 0:
        count[0] = min(total, boxes.shape[0])


def decode(
    score: Any,
    regression: Any,
    origin_m: tuple[float, float],
    cell_m: float,
    threshold: float,
    max_candidates: int,
    workspace: Workspace | None = None,
) -> Any:
    """Candidate boxes of one frame.

    Args:
        score: (rows, cols) float32 in [0, 1].
        regression: (rows, cols, 8) float32: dx, dy, z [m], log length, log width, log height, cos, sin of yaw.
        origin_m: x, y of the lower edges of row 0 and column 0, LiDAR frame.
        cell_m: side of an output cell.
        threshold: least score of a candidate.
        max_candidates: how many are returned at most.
        workspace: where scratch and results are kept, until the next call with it; None makes a new one.

    Returns:
        (N, 7) float32 boxes: centre x, y, z, length, width, height [m], yaw [rad]; (N,) float32 scores. For maps on
        the device `DeviceCandidates` with room for ``max_candidates``, or for all cells where those are fewer.

    Raises:
        TypeError: if a map is not float32, or the maps are not in one place.
        ValueError: if the maps' shapes do not fit, or max_candidates is below 1.
    """
    device = on_device(score, regression)
    check_array("score", score, np.float32, ("rows", "cols"))
    check_array("regression", regression, np.float32, (*score.shape, REGRESSION_CHANNELS))
    if max_candidates < 1:
        raise ValueError(f"max_candidates is {max_candidates}, expected at least 1")
    workspace = workspace or Workspace(device)
    size = score.shape[0] * score.shape[1]
    index_type = np.int32 if device else np.int64
    cells = workspace.array("decode.cells", (size,), index_type)
    candidates = workspace.array("decode.candidates", (size,), np.float32)
    boxes = workspace.array("decode.boxes", (min(max_candidates, size), BOX_COLUMNS), np.float32)
    best = workspace.array("decode.scores", boxes.shape[:1], np.float32)
    if not device:
        numbers = (float(origin_m[0]), float(origin_m[1]), float(cell_m))
        order = workspace.array("decode.order", (2, size), np.int64)
        scratch = (cells, candidates, order)
        count = _decode_cpu(score, regression, numbers, np.float32(threshold), *scratch, boxes, best)
        return boxes[:count], best[:count]
    found, count = (workspace.array(f"decode.{name}", (1,), np.int32) for name in ("found", "count"))
    _candidates_cuda[1, SCAN_THREADS, stream()](score, np.float32(threshold), cells, candidates, found)
    singles = (np.float32(value) for value in (*origin_m, cell_m))
    _decode_cuda[blocks(), THREADS, stream()](candidates, cells, found, regression, *singles, boxes, best, count)
    return DeviceCandidates(boxes, best, count)


def _make_inputs(rng: np.random.Generator, scale: str) -> Mapping[str, Any]:
    """Scores in steps, so that many are equal; about 50 cells of the small map and 550 of the frame qualify."""
    shape, threshold, most = ((9, 11), 0.5, 30) if scale == "small" else ((176, 200), 0.98, 500)
    score = rng.integers(0, 64, shape).astype(np.float32) / 64
    regression = rng.normal(0, 1.5, (*shape, REGRESSION_CHANNELS)).astype(np.float32)
    numbers = {"origin_m": (0.0, -40.0), "cell_m": 0.4, "threshold": threshold, "max_candidates": most}
    return {"score": score, "regression": regression, **numbers}


_MAPS = ("float32[:,::1]", "float32[:,:,::1]")
OPS = (
    Op(
        name="decode",
        function=decode,
        reference=decode_reference,
        make_inputs=_make_inputs,
        equality=Close(4e-6, "exp and atan2 come from another library on every backend; CUDA adds in float32"),
        cuda=(
            CudaKernel(
                _candidates_cuda,
                f"void({_MAPS[0]}, float32, int32[::1], float32[::1], int32[::1])",
                threads=SCAN_THREADS,
            ),
            CudaKernel(
                _decode_cuda,
                f"void(float32[::1], int32[::1], int32[::1], {_MAPS[1]}, float32, float32, float32, {_MAPS[0]}, "
                "float32[::1], int32[::1])",
            ),
        ),
        summary="score and regression maps → the best candidate boxes, best first",
    ),
)
