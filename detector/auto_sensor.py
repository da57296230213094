"""`auto_sensor`: the sensor settings of recordings, measured on their first frames."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from detector.config import Config, SensorConfig
from detector.errors import ConfigError, FrameError, SourceError
from detector.sensor_estimate import SAME_HEIGHT_M, SensorEstimate, estimate_sensor
from detector.sources import FrameFile, Source
from models.network import load_network

log = logging.getLogger("roadblocks")

FRAMES = 10  # a second; the median forgives frames on ramps


def trained_height_m(config: Config) -> float:
    """How high above the ground the LiDAR stood whose points the configured network was trained on [m]."""
    return -load_network(config.model).info.ground_z_m


def read_good(files: Iterable[FrameFile], count: int = FRAMES) -> list[NDArray[np.float32]]:
    """Points of the first good frames, (N, 4) float32 each; bad ones are passed over, whoever runs them tells.

    Raises:
        SourceError: if none is good.
    """
    points, reason = [], "there are none"
    for file in itertools.islice(files, 10 * count):
        try:
            points.append(file.load().points)
        except FrameError as error:
            reason = str(error)
        if len(points) == count:
            break
    if not points:
        raise SourceError(f"no frame to estimate the sensor from: {reason}; expected at least one")
    return points


def auto_sensor(config: Config, sources: Sequence[Source]) -> tuple[SensorConfig, SensorEstimate]:
    """Settings with which the network sees recordings as those that it was trained on, and the estimate behind them.

    Args:
        config: what is set otherwise, and the network.
        sources: recordings of one sensor.

    Raises:
        ConfigError: if the recordings come from sensors of different mounting.
        SourceError: if a recording has no good frame.
    """
    frames = {source.name: read_good(source.frames) for source in sources}
    heights_m = {name: estimate_sensor(points).height_m for name, points in frames.items()}
    known = {name: height_m for name, height_m in heights_m.items() if height_m is not None}
    if known and max(known.values()) - min(known.values()) > 2 * SAME_HEIGHT_M:
        found = ", ".join(f"{name} {height_m:.2f} m" for name, height_m in known.items())
        raise ConfigError(
            f"--auto-sensor: heights above the ground are {found}, expected one sensor; run them one by one"
        )
    estimate = estimate_sensor([points for each in frames.values() for points in each])
    for warning in estimate.warnings:
        log.warning("sensor: %s", warning)
    return estimate.applied_to(config.sensor, trained_height_m(config)), estimate


def applied_line(sensor: SensorConfig, estimate: SensorEstimate, trained_m: float) -> str:
    """What `auto_sensor` measured and applies, in words.

    Args:
        sensor: the settings that are applied.
        estimate: what they come from.
        trained_m: height of the training LiDAR above the ground.
    """
    if estimate.height_m is None:
        height = "no ground found, heights stay"
    elif sensor.height_m is None:
        height = f"{estimate.height_m:.2f} m above the ground, as the network was trained ({trained_m:.2f} m)"
    else:
        height = (
            f"{sensor.height_m:.2f} m above the ground, the network was trained with {trained_m:.2f} m: "
            f"points are shifted by {sensor.height_m - trained_m:+.2f} m"
        )
    return f"sensor, from {estimate.frames} frames: {height}; intensities × {sensor.intensity_scale:g}"
