"""Correctness on the GPU: every op of the kernel table, and the whole pipeline, against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.config import Config
from detector.pipeline import Pipeline
from detector.types import Detections, FrameResult
from kernels.launch import to_device, to_host
from kernels.op import Exact, Op
from kernels.tiles import ActiveTiles
from tools.gpu_check.half import FLOAT32, Ends, half_tolerance, laid_out, padded_map, rounded

SEED = 369  # of inputs: with it no hidden channel of a small unit is zero everywhere, so that every weight counts
SCORE = 0.1  # boxes from here on have to be found by both
OTHER_TILES = 0.005  # share of tiles that a mask network's rounding may switch: probabilities next to the threshold
# Largest difference of a box's numbers [m, rad, score] between the GPU and the CPU: sums in another order; a network's
# depth of roundings to 11 bits.
PIPELINE_TOLERANCE = {"float32": 2e-3, "float16": 0.15}


@dataclass(frozen=True)
class Outcome:
    """What came of a comparison.

    Attributes:
        ok: whether it was equal enough.
        max_error: largest difference, relative where numbers are above 1, in float16 above the map's spread; None where
            there is none to tell.
        note: what was wrong, or strange.
    """

    ok: bool
    max_error: float | None
    note: str = ""


def check_op(op: Op, scale: str, ends: Ends = FLOAT32) -> Outcome:
    """An op on the GPU: on small inputs against the NumPy reference, on those of a frame against the CPU kernel.

    Args:
        op: of the kernel table.
        scale: of its inputs.
        ends: kinds of maps; with float16, inputs and weights are rounded to it before either side sees them.
    """
    inputs = op.make_inputs(np.random.default_rng(SEED), scale)
    inputs = inputs if ends == FLOAT32 else rounded(inputs)
    oracle = op.reference if scale == "small" else op.function
    expected = _arrays(oracle(**copy.deepcopy(dict(inputs))))
    there = {key: to_device(value) for key, value in laid_out(inputs, ends).items()}
    found = _arrays(to_host(op.function(**there)))
    tolerance, floor = (0.0 if isinstance(op.equality, Exact) else op.equality.tolerance), 1.0
    if ends.target == "float16":
        if found[0].shape != expected[0].shape:
            expected = tuple(map(padded_map, expected))
        tolerance, floor = tolerance and half_tolerance(inputs), float(expected[0].std())
    if [one.shape for one in found] != [one.shape for one in expected]:
        return Outcome(False, None, f"shapes {[one.shape for one in found]}")
    error = max((_error(one, other, floor) for one, other in zip(found, expected, strict=True)), default=0.0)
    note = "" if error <= tolerance else f"expected at most {tolerance:g}"
    return Outcome(error <= tolerance, error if np.isfinite(error) else None, note)


def _arrays(result: Any) -> tuple[Any, ...]:
    if isinstance(result, ActiveTiles):
        return (result.index,)
    return result if isinstance(result, tuple) else (result,)


def _error(one: NDArray[Any], other: NDArray[Any], floor: float) -> float:
    """Largest difference, over ``floor`` or the number if that is larger; NaN where only one is counts as infinite."""
    if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
        return 0.0
    difference = np.abs(one.astype(np.float64) - other) / np.maximum(floor, np.abs(other.astype(np.float64)))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0))


def check_pipeline(config: Config, frames: Sequence[NDArray[np.float32]]) -> Outcome:
    """Frames from points to boxes on the GPU, against the CPU.

    They run three times: kernels are queued, then recorded as a graph, then launched as one.
    """
    expected = _detect(replace(config, device="cpu"), frames)
    found = _detect(replace(config, device="cuda"), [*frames, *frames, *frames])
    return _compare(found, 3 * expected, PIPELINE_TOLERANCE[config.precision])


def _detect(config: Config, frames: Sequence[NDArray[np.float32]]) -> list[FrameResult]:
    pipeline = Pipeline(config)
    return [pipeline.detect(points) for points in frames]


def _compare(found: Sequence[FrameResult], expected: Sequence[FrameResult], tolerance: float) -> Outcome:
    worst, lost, other_tiles = 0.0, 0, 0.0
    for one, other in zip(found, expected, strict=True):
        tiles = [{tuple(tile) for tile in result.tiles.index.tolist()} for result in (one, other)]
        other_tiles = max(other_tiles, len(tiles[0] ^ tiles[1]) / one.tiles_total)
        for first, second in ((one, other), (other, one)):
            error, missing = _match(first.detections, second.detections, tolerance)
            worst, lost = max(worst, error), lost + missing
    notes = [f"{lost} boxes have no partner within {tolerance:g}"] if lost else []
    notes += [f"{100 * other_tiles:.2f}% of the tiles differ"] if other_tiles else []
    return Outcome(not lost and other_tiles <= OTHER_TILES, worst, "; ".join(notes))


def _match(found: Detections, expected: Detections, tolerance: float) -> tuple[float, int]:
    """Largest difference of matched boxes, and how many of ``expected`` have no partner.

    A box on the verge of the score, or of suppression by a neighbour, may be in one list only: it counts if its score
    is clearly above `SCORE`.
    """
    worst, lost = 0.0, 0
    there = np.column_stack([found.boxes, found.scores])
    for box, score in zip(expected.boxes, expected.scores, strict=True):
        if score < SCORE + tolerance:
            continue
        if not len(there):
            lost += 1
            continue
        difference = np.abs(there - np.append(box, score))
        difference[:, 6] = np.abs((difference[:, 6] + np.pi) % (2 * np.pi) - np.pi)
        error = float(difference.max(axis=1).min())
        if error <= tolerance:
            worst = max(worst, error)
        else:
            lost += 1
    return worst, lost
