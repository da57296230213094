"""Correctness on the GPU: every op of the kernel table, and the whole pipeline, against the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.config import Config
from detector.pipeline import Pipeline
from detector.types import Detections
from kernels.launch import to_device, to_host
from kernels.op import Exact, Op
from kernels.tiles import ActiveTiles

Frames = Iterable[NDArray[np.float32]]
SCORE = 0.1  # boxes from here on have to be found by both
# Largest difference of a box's numbers [m, rad, score] between the GPU and the CPU: sums in another order; a network's
# depth of roundings to 11 bits.
PIPELINE_TOLERANCE = {"float32": 2e-3, "float16": 0.15}


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        name: of what was compared.
        ok: whether it was equal enough.
        max_error: largest difference, relative where numbers are above 1; infinity where nothing came of it.
        note: what went wrong.
    """

    name: str
    ok: bool
    max_error: float
    note: str = ""


def guarded(name: str, run: Callable[[], Check]) -> Check:
    """The check, failed if it raises: one broken kernel must not hide what the others do."""
    try:
        return run()
    except Exception as error:  # a driver's and a compiler's errors share no base class
        return Check(name, False, float("inf"), f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def check_ops(ops: Iterable[Op], scale: str) -> Iterator[Check]:
    """Every op on the GPU: small inputs against the NumPy reference, those of a frame against the CPU kernels."""
    for op in ops:
        name = f"{op.name} ({scale})"
        yield guarded(name, lambda op=op, name=name: _check_op(op, scale, name))  # type: ignore[misc]


def _check_op(op: Op, scale: str, name: str) -> Check:
    inputs = op.make_inputs(np.random.default_rng(0), scale)
    oracle = op.reference if scale == "small" else op.function
    expected = _arrays(oracle(**copy.deepcopy(dict(inputs))))
    found = _arrays(to_host(op.function(**{key: to_device(value) for key, value in inputs.items()})))
    if [one.shape for one in found] != [one.shape for one in expected]:
        return Check(name, False, float("inf"), f"shapes {[one.shape for one in found]}")
    error = max((_error(one, other) for one, other in zip(found, expected, strict=True)), default=0.0)
    tolerance = 0.0 if isinstance(op.equality, Exact) else op.equality.tolerance
    return Check(name, error <= tolerance, error, "" if error <= tolerance else f"expected at most {tolerance:g}")


def _arrays(result: Any) -> tuple[Any, ...]:
    if isinstance(result, ActiveTiles):
        return (result.index,)
    return result if isinstance(result, tuple) else (result,)


def _error(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Largest difference, relative to what is above 1; NaN where only one is counts as infinite."""
    if np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
        return 0.0
    difference = np.abs(one.astype(np.float64) - other) / np.maximum(1, np.abs(other.astype(np.float64)))
    return float(np.nan_to_num(difference, nan=np.inf).max(initial=0))


def check_pipeline(frames: Frames, config: Config) -> Iterator[Check]:
    """Every frame from points to boxes on the GPU, in both precisions, with tiles and with all of them."""
    for mask in ("occupancy", "all"):
        settings = replace(config, mask=replace(config.mask, source=mask))
        expected = _detect(replace(settings, device="cpu"), frames)
        for precision in PIPELINE_TOLERANCE:
            name = f"pipeline, {precision}, mask {mask}"
            changed = replace(settings, device="cuda", precision=precision)

            def run(name: str = name, changed: Config = changed, expected: Any = expected) -> Check:
                return _compare(name, _detect(changed, frames), expected, PIPELINE_TOLERANCE[changed.precision])

            yield guarded(name, run)


def _detect(config: Config, frames: Frames) -> list[Mapping[str, Any]]:
    pipeline = Pipeline(config)
    results = [pipeline.detect(points) for points in frames]
    return [{"detections": result.detections, "tiles": result.tiles} for result in results]


def _compare(name: str, found: Any, expected: Any, tolerance: float) -> Check:
    worst, lost = 0.0, 0
    for one, other in zip(found, expected, strict=True):
        if not np.array_equal(one["tiles"].index, other["tiles"].index):
            return Check(name, False, float("inf"), "other tiles are active")
        for first, second in ((one, other), (other, one)):
            error, missing = _match(first["detections"], second["detections"], tolerance)
            worst, lost = max(worst, error), lost + missing
    note = f"{lost} boxes have no partner within {tolerance:g}" if lost else ""
    return Check(name, not lost, worst, note)


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
