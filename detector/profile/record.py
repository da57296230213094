"""What a profile says: its JSON, and the tables that are printed of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from detector.machine import BUSY
from detector.profile.measure import Measurement
from detector.profile.meter import Sample
from detector.stages import Stage, summarize

PERCENTILES = ("p50", "p95", "p99", "max")
MODE_NAMES = {"sparse": "sparse", "dense": "dense (onnxruntime)", "tiles_all": "sparse, all tiles"}
P99_FRAMES = 1000  # so that ten frames lie beyond it


def make_record(measured: Measurement, sources: Sequence[str]) -> dict[str, Any]:
    """The profile as plain values. Everything is computed from the lists that it holds, so it can be computed again.

    Args:
        measured: from `measure`.
        sources: names of the recordings.
    """
    facts, frames = measured.facts["sparse"], measured.frames
    modes = {
        mode: _mode_record(samples, measured.peak_mb[mode], measured.facts[mode].device)
        for mode, samples in measured.samples.items()
    }
    tiles = [sample.tiles for sample in measured.samples["sparse"][: len(frames.files)]]
    p50, p95 = np.percentile(tiles, [50, 95]) / max(facts.tiles_total, 1)
    record: dict[str, Any] = {
        "device": facts.device,
        **measured.origin,
        "config": dict(facts.config),
        "model": dict(facts.model),
        "threads": measured.settings.get("threads"),
        "sources": list(sources),
        "frames": len(frames.files),
        "loop": measured.loop,
        "frame_ids": list(frames.names),
        "frames_sha256": frames.sha256,
        "skipped": [dict(row) for row in frames.skipped],
        "warm_up": {"frames": facts.warmed, "removed": 0},
        "tile_fraction": {"p50": float(p50), "p95": float(p95)},
        "computed_fraction": facts.computed_fraction or 0.0,
        "tiles": {"total": facts.tiles_total, "active": tiles},
        "modes": modes,
        "speedup": _speedup(modes, "sparse"),
        "speedup_tiles_all": _speedup(modes, "tiles_all"),
    }
    record["gflop"] = facts.gflop or 0.0
    record["dense_gflops"] = 1e3 * record["gflop"] / _median(modes["dense"], Stage.BACKBONE.value)
    record["overhead"] = _overhead(measured, _median(modes["sparse"], "total"))
    return record


def _mode_record(samples: Sequence[Sample], peak_mb: float, device: str) -> dict[str, Any]:
    rows = [{stage: round(ms, 4) for stage, ms in sample.stage_ms.items()} for sample in samples]
    summary = {name: row for name, row in summarize(rows).items() if name in rows[0] or name == "total"}
    total = summary.pop("total")
    frame_ms = [round(sum(row.values()), 4) for row in rows]
    return {
        "device": device,
        "stages": summary,
        "total": total,
        "fps": round(1e3 / float(np.mean(frame_ms)), 3),
        "peak_mb": round(peak_mb, 1),
        "frame_ms": frame_ms,
        "stage_ms": {stage: [row[stage] for row in rows] for stage in rows[0]},
    }


def _median(mode: Mapping[str, Any], stage: str) -> float:
    """Median [ms] of a stage or of "total", from the lists."""
    return float(np.median(mode["frame_ms"] if stage == "total" else mode["stage_ms"][stage]))


def _speedup(modes: Mapping[str, Any], mode: str) -> dict[str, float]:
    """Dense over ``mode``: ratios of medians."""
    return {
        stage: _median(modes["dense"], stage) / _median(modes[mode], stage) for stage in (Stage.BACKBONE.value, "total")
    }


def _overhead(measured: Measurement, total_ms: float) -> dict[str, float]:
    """What measuring itself takes of a sparse frame: the number of timed stages times the cost of timing one."""
    calls = len(measured.samples["sparse"][0].spans)
    cost_us = measured.facts["sparse"].clock_us
    return {
        "clock_us": cost_us,
        "calls_per_frame": calls,
        "fraction": calls * cost_us / 1e3 / total_ms,
    }


def stage_table(record: Mapping[str, Any]) -> Table:
    """Milliseconds per mode and stage."""
    table = Table(title="Milliseconds per frame")
    table.add_column("")
    for name in PERCENTILES:
        table.add_column(name, justify="right")
    for mode, values in record["modes"].items():
        table.add_section()
        table.add_row(f"[bold]{MODE_NAMES[mode]}[/bold]")
        for stage, row in {**values["stages"], "total": values["total"]}.items():
            name = "total, load to nms" if stage == "total" else stage
            table.add_row(f"  {name}", *(f"{row[f'{key}_ms']:.2f}" for key in PERCENTILES))
    return table


def machine_line(record: Mapping[str, Any]) -> str:
    """What the numbers belong to."""
    machine = record["machine"]
    parts = (
        f"{machine['cores']} cores of {machine['cpu']}",
        machine["system"],
        f"Python {machine['python']}",
        f"roadblocks {record['versions']['roadblocks']}, revision {record['revision']}",
        record["date"].replace("T", " ").replace("+00:00", " UTC"),
        f"load {record['load']} before the run" + (", the numbers suffer" if record["load"] > BUSY else ""),
    )
    return " · ".join(parts)


def mode_table(record: Mapping[str, Any]) -> Table:
    """One row per mode: rate, memory, speed-up."""
    table = Table("", title="Rate, memory, and speed-up against dense")
    for name in ("frames/s", "peak MB", "network", "whole frame"):
        table.add_column(name, justify="right")
    ratios = {"sparse": record["speedup"], "tiles_all": record["speedup_tiles_all"]}
    for mode, values in record["modes"].items():
        words = [f"{ratio:.2f}×" for ratio in ratios.get(mode, {}).values()]
        table.add_row(MODE_NAMES[mode], f"{values['fps']:.2f}", f"{values['peak_mb']:.0f}", *words)
    return table


def fact_lines(record: Mapping[str, Any]) -> list[str]:
    """How it was measured, in sentences."""
    overhead, tiles = record["overhead"], record["tile_fraction"]
    count = record["frames"] * record["loop"]
    looped = f", each {record['loop']} times" if record["loop"] > 1 else ""
    threads = record["threads"] or "all"
    lines = [
        f"{record['frames']} frames{looped}, on {record['device']}, {threads} threads; warm-up: the first "
        f"{record['warm_up']['frames']} of them before anything counts, the first of every turn again, none removed",
        f"tile fraction p50 {tiles['p50']:.3f}, p95 {tiles['p95']:.3f}; "
        f"computed fraction {record['computed_fraction']:.3f}",
        f"dense: {record['gflop']:.1f} GFLOP at {record['dense_gflops']:.0f} GFLOP/s",
        f"timing takes {overhead['calls_per_frame']} × {overhead['clock_us']:.1f} µs, "
        f"{overhead['fraction']:.3%} of a sparse frame",
    ]
    if count < P99_FRAMES:
        loops = math.ceil(P99_FRAMES / record["frames"])
        lines.insert(1, f"a p99 needs {P99_FRAMES:,} frames and this one has {count}: --loop {loops} gives them")
    return lines
