"""Whether a second profile is slower or faster than a first, or only measured on another day.

Both ran on the same frames, so frame is paired with frame, and what a typical frame takes more is the median of the
ratios of pairs; that frames hold more or less cancels out. Stretches of neighbouring pairs are drawn again and again
with replacement, and the spread of that median over the draws says what the frames can tell (the moving-block
bootstrap: Künsch, "The jackknife and the bootstrap for general stationary observations", 1989; stretches rather than
single pairs, because what else a machine does lasts longer than a frame). That interval knows nothing of how one run
of a program differs from the next, so a change must also be larger than a tolerance, and large enough to be felt in
the frame. The 95th percentile, and frames that differ, are compared by the ratio of the percentiles.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from detector.errors import RoadblocksError
from detector.machine import BUSY

DRAWS = 2000
CONFIDENCE = 0.99  # some twenty rows are judged at once
TOLERANCE = 0.05
# A stage counts if it moved by this share of the frame: microseconds of a mask slow nobody down.
LEAST_SHARE = 0.01

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """One row of a comparison.

    Attributes:
        mode: way of running.
        stage: name of a stage, or "total".
        percentile: of the frames: 50 is the median.
        before_ms, after_ms: that percentile in the two profiles.
        ratio: after over before, of a typical frame at percentile 50, of the percentiles at another.
        low, high: interval of the ratio.
        verdict: "slower", "faster" or "same".
    """

    mode: str
    stage: str
    percentile: int
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    verdict: str


def read_record(path: Path) -> dict[str, Any]:
    """A profile that `roadblocks profile --json` wrote.

    Raises:
        RoadblocksError: if it is none.
        OSError: if the file cannot be read.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for mode in record["modes"].values():
            lists = [mode["frame_ms"], *mode["stage_ms"].values()]
            if {len(values) for values in lists} != {record["frames"] * record["loop"]}:
                raise ValueError("lists of different lengths")
        _setting(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise RoadblocksError(
            f"{path}: no profile ({reason}), expected a file written by roadblocks profile SOURCE --json FILE"
        ) from error
    return record


def check_comparable(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Refuses to compare times of different machines, devices or frames.

    Raises:
        RoadblocksError: if one of them differs.
    """
    one, other = _setting(before), _setting(after)
    for name in one:
        if one[name] != other[name]:
            raise RoadblocksError(
                f"the profiles differ in {name}: {one[name]} and {other[name]}, expected the same; "
                "profile again, or compare all the same with --force"
            )


def _setting(record: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same, so that times can be compared."""
    return {
        "processor": record["machine"]["cpu"],
        "number of cores": record["machine"]["cores"],
        "device": record["device"],
        "number of threads": record["threads"] or "all",
        "frames": f"{record['frames']} frames {record['frames_sha256'][:12]}",
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What else is not the same: revision, versions, configuration, in words; and other programs, if any ran."""
    loads = before["load"], after["load"]
    lines = []
    if max(loads) > BUSY:
        lines.append(f"load: {loads[0]} → {loads[1]}; other programs ran, and part of the change may be theirs")
    for key in ("revision", "machine", "versions", "model", "config"):
        one, other = (dict(_flat(record[key], key)) for record in (before, after))
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                lines.append(f"{name}: {one.get(name)} → {other.get(name)}")
    return lines


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """``("config.mask.margin_m", 0.8)`` for every leaf of nested mappings."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}")
    else:
        yield name, value


def compare(
    before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = TOLERANCE, seed: int = 0
) -> list[Change]:
    """What became slower or faster, per mode and stage, and for the total also at its 95th percentile.

    Args:
        before: a profile, from `read_record`.
        after: another one of the same modes.
        tolerance: a ratio this close to 1 is not told from noise.
        seed: of the draws.
    """
    same_frames = before["frames_sha256"] == after["frames_sha256"]
    rng = np.random.default_rng(seed)
    changes = []
    for mode in (mode for mode in before["modes"] if mode in after["modes"]):
        one, other = before["modes"][mode], after["modes"][mode]
        frame_ms = float(np.median(one["frame_ms"]))
        rows = [(stage, 50, one["stage_ms"][stage], other["stage_ms"].get(stage)) for stage in one["stage_ms"]]
        rows += [("total", percentile, one["frame_ms"], other["frame_ms"]) for percentile in (50, 95)]
        for stage, percentile, first, second in rows:
            if second is not None:
                lists = np.array(first), np.array(second)
                found = ratio_interval(*lists, percentile, same_frames, rng)
                changes.append(_judge(mode, stage, percentile, *lists, found, tolerance, frame_ms))
    return changes


def ratio_interval(
    before: Float64, after: Float64, percentile: int, same_frames: bool, rng: np.random.Generator
) -> tuple[float, float, float]:
    """How much longer the second list is than the first: the ratio, and the interval around it.

    Args:
        before: (N,) float64 milliseconds, in the order of the run.
        after: (M,) float64.
        percentile: which one; 50 of the same frames is the median of the ratios of pairs.
        same_frames: whether N and M name the same frames; then the longer list is cut.
        rng: of the draws.
    """
    if same_frames:
        before, after = before[: len(after)], after[: len(before)]  # one may have looped more often
    draws = _block_draws(len(before), rng)
    other_draws = draws if same_frames else _block_draws(len(after), rng)
    if same_frames and percentile == 50:
        pairs = after / before
        ratio, drawn = np.median(pairs), np.median(pairs[draws], axis=1)
    else:
        ratio = np.percentile(after, percentile) / np.percentile(before, percentile)
        drawn = np.percentile(after[other_draws], percentile, axis=1) / np.percentile(before[draws], percentile, axis=1)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(ratio), float(low), float(high)


def _block_draws(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(DRAWS, count) int64 indices: stretches of neighbours, of about the cube root of their number, end to end."""
    length = math.ceil(count ** (1 / 3))
    starts = rng.integers(0, count, (DRAWS, math.ceil(count / length)))
    indices = (starts[:, :, None] + np.arange(length)) % count
    return indices.reshape(DRAWS, -1)[:, :count]


def _judge(
    mode: str,
    stage: str,
    percentile: int,
    before: Float64,
    after: Float64,
    found: tuple[float, float, float],
    tolerance: float,
    frame_ms: float,
) -> Change:
    one, other = float(np.percentile(before, percentile)), float(np.percentile(after, percentile))
    ratio, low, high = found
    felt = abs(other - one) > LEAST_SHARE * frame_ms
    verdict = "same"
    if felt and low > 1 + tolerance:
        verdict = "slower"
    elif felt and high < 1 / (1 + tolerance):
        verdict = "faster"
    return Change(mode, stage, percentile, one, other, ratio, low, high, verdict)


def comparison_table(changes: list[Change]) -> Table:
    """One row per change."""
    table = Table(title=f"After against before, interval {CONFIDENCE:.0%}")
    for name in ("mode", "stage"):
        table.add_column(name)
    for name in ("before ms", "after ms", "ratio", "interval"):
        table.add_column(name, justify="right")
    table.add_column("")
    styles = {"slower": "bold red", "faster": "green", "same": ""}
    for change in changes:
        name = change.stage if change.percentile == 50 else f"{change.stage}, p{change.percentile}"
        interval = f"{change.low:.2f}–{change.high:.2f}"
        times = (f"{change.before_ms:.2f}", f"{change.after_ms:.2f}", f"{change.ratio:.3f}")
        table.add_row(change.mode, name, *times, interval, change.verdict, style=styles[change.verdict])
    return table


def verdict_line(changes: list[Change], tolerance: float) -> str:
    """What the table says, in one sentence."""
    counts = {verdict: sum(change.verdict == verdict for change in changes) for verdict in ("slower", "faster", "same")}
    return (
        f"{counts['slower']} slower, {counts['faster']} faster, {counts['same']} the same: told only if the whole "
        f"interval is beyond {tolerance:.0%} and the change is {LEAST_SHARE:.0%} of the frame or more"
    )


def comparison_json(changes: list[Change], notes: list[str]) -> dict[str, Any]:
    """The comparison as plain values."""
    regression = any(change.verdict == "slower" for change in changes)
    return {"regression": regression, "differences": notes, "changes": [asdict(change) for change in changes]}
