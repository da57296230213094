"""What a recording says of its sensor: `roadblocks doctor SOURCE`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import yaml

from detector.auto_sensor import FRAMES, read_good, trained_height_m
from detector.config import Config
from detector.doctor import Finding, State
from detector.sensor_estimate import SAME_HEIGHT_M, SensorEstimate, estimate_sensor
from detector.sources import Source

SAME_SCALE = 0.1  # intensities of two recordings of one sensor end that near to one another


def estimate_source(source: Source) -> SensorEstimate:
    """The estimate from frames spread over a recording.

    Raises:
        SourceError: if it has no good frame.
    """
    chosen = np.linspace(0, len(source.frames) - 1, min(FRAMES, len(source.frames))).astype(int)
    return estimate_sensor(read_good([source.frames[index] for index in chosen]))


def recording_findings(name: str, estimate: SensorEstimate, config: Config) -> Iterator[Finding]:
    """Height, intensities, axes, each with what to set.

    Args:
        name: of the recording.
        estimate: from `estimate_source`.
        config: what is set now, and the network.
    """
    sensor = config.sensor
    if estimate.height_m is not None:
        now_m = trained_height_m(config) if sensor.height_m is None else sensor.height_m
        found = f"{estimate.height_m:.2f} m above the ground, ± {estimate.height_spread_m:.2f} between frames"
        fits = abs(estimate.height_m - now_m) <= SAME_HEIGHT_M
        yield _setting(name, "height_m", found, fits, f"{estimate.height_m:.2f}")
    if estimate.intensity_scale is not None:
        found = f"one point in 1000 has {estimate.intensity_high:.4g} or more"
        fits = abs(estimate.intensity_scale / sensor.intensity_scale - 1) <= SAME_SCALE
        yield _setting(name, "intensity_scale", found, fits, f"{estimate.intensity_scale:.4g}")
    for warning in estimate.warnings:
        found, advice = warning.split(": ", 1)
        yield Finding(name, "sensor", found, State.WARNING, advice)


def _setting(name: str, key: str, found: str, fits: bool, value: str) -> Finding:
    """What was measured, and what to set where that does not fit what is set."""
    if fits:
        return Finding(name, f"sensor.{key}", f"{found}: as it is set")
    return Finding(name, f"sensor.{key}", found, State.WARNING, f"set sensor.{key} to {value}, or use --auto-sensor")


def settings_yaml(estimates: Sequence[SensorEstimate], config: Config) -> str:
    """The lines of a configuration file that say what was measured; empty where there is nothing to set."""
    if len(estimates) != 1:
        return ""
    wanted = estimates[0].settings(trained_height_m(config))
    return yaml.safe_dump({"model": config.model, "sensor": wanted}, sort_keys=False) if wanted else ""


def recording_json(source: Source, estimate: SensorEstimate, config: Config) -> dict[str, Any]:
    """The estimate as plain values, with the settings that follow from it."""
    wanted = estimate.settings(trained_height_m(config))
    return {"source": source.name, **asdict(estimate), "warnings": estimate.warnings, "sensor": wanted}
