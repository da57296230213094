"""The spinning LiDAR: which rays it casts when, and the points that it gives.

Shutter: a column at azimuth a fires at ``stamp - a / (2 pi) / rate`` if the sensor spins clockwise seen from above, as
Velodynes do: the stamp is when the beam looks forward, as in KITTI, and the sweep's seam is behind. Its points are in
the frame of the sensor at that very moment; nothing is made up for the motion during the sweep, as in KITTI's raw
files. So a wall that the sensor drives past is bent, and a labelled box, which is where the actor is at the stamp, fits
the points of an actor ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.config import config_folder, load_config
from detector.errors import ConfigError

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Sensor:
    """A LiDAR, where it is mounted, and how it errs. Defaults are KITTI's HDL-64E, but for the beams.

    Attributes:
        elevation_deg: of each beam, the uppermost first.
        beam_height_m: of each beam's origin above the sensor's; empty: 0.
        beam_gain: factor of each beam on intensity; empty: 1.
        blind_deg: (from, to, below) triples: between two azimuths, beams below an elevation see the own vehicle only.
        rays_per_turn: columns.
        rate_hz: turns per second.
        clockwise: the way it spins, seen from above.
        x_m, y_m: place on the vehicle, ahead and to the left of the ego's origin.
        height_m: above the ground under the vehicle.
        roll_deg, pitch_deg, yaw_deg: about x, y, z of the vehicle, yaw last; positive pitch looks down.
        min_range_m, max_range_m: between which it measures.
        range_noise_m, range_noise_per_m: standard deviation of a range, and its growth with range.
        range_bias_m: standard deviation of the beams' constant errors, which are drawn once for all sweeps.
        divergence_mrad: full angle of a beam.
        merge_m: echoes of one beam that are closer give one range, the mean weighted by power.
        split_m: up to here the range of two echoes may be a mixture.
        mixed_share: how often it is.
        lost_share: of echoes, for no reason of range or surface.
        half_lost_m: range at which half of the echoes of strength 0.1 are lost.
        intensity_floor: strength that reads 0.
        fade_from_m, fade_per_m: range from which intensity falls, and by how much.
        smear_from_m, smear_per_m: length of a footprint along the ray from which intensity falls, and by how much.
        intensity_noise: standard deviation.
    """

    elevation_deg: tuple[float, ...] = ()
    beam_height_m: tuple[float, ...] = ()
    beam_gain: tuple[float, ...] = ()
    blind_deg: tuple[tuple[float, ...], ...] = ()
    rays_per_turn: int = 2083
    rate_hz: float = 10.0
    clockwise: bool = True
    x_m: float = 0.0
    y_m: float = 0.0
    height_m: float = 1.73
    roll_deg: float = 0.0
    pitch_deg: float = 0.0
    yaw_deg: float = 0.0
    # Neighbouring points of KITTI's rings scatter by 9 mm near by and by 14 mm at 40 m; planes fitted to its road leave
    # constant errors of 3 cm between rings.
    min_range_m: float = 1.3
    max_range_m: float = 80.0
    range_noise_m: float = 0.008
    range_noise_per_m: float = 0.00015
    range_bias_m: float = 0.03
    divergence_mrad: float = 2.0  # data sheet
    merge_m: float = 0.4
    split_m: float = 2.0
    mixed_share: float = 0.3
    lost_share: float = 0.003
    half_lost_m: float = 65.0
    intensity_floor: float = 0.06
    fade_from_m: float = 17.0
    fade_per_m: float = 0.0105
    smear_from_m: float = 0.35
    smear_per_m: float = 0.25
    intensity_noise: float = 0.03

    def __post_init__(self) -> None:
        beams = len(self.elevation_deg)
        if not beams or not all(-80 <= angle <= 80 for angle in self.elevation_deg):
            raise ConfigError(f"elevation_deg has {beams} beams; expected at least 1, each from -80 to 80 degrees")
        for name in ("beam_height_m", "beam_gain"):
            if len(getattr(self, name)) not in (0, beams):
                raise ConfigError(f"{name} has {len(getattr(self, name))} numbers, expected {beams} or none")
        if any(len(triple) != 3 for triple in self.blind_deg):
            raise ConfigError("blind_deg: expected triples of from, to, below [degrees]")
        if self.rays_per_turn < 1 or self.rate_hz <= 0:
            raise ConfigError(f"rays_per_turn {self.rays_per_turn}, rate_hz {self.rate_hz}: expected more than 0")
        if not 0 < self.min_range_m < self.max_range_m <= 1000:
            raise ConfigError(
                f"min_range_m {self.min_range_m}, max_range_m {self.max_range_m}: expected 0 < min < max <= 1000"
            )
        if not 0 <= self.divergence_mrad <= 20:
            raise ConfigError(f"divergence_mrad is {self.divergence_mrad}, expected 0 to 20")
        for name in ("mixed_share", "lost_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        positive = ("half_lost_m", "height_m")
        others = [f.name for f in fields(self) if f.name.startswith(("range_n", "range_b", "fade", "smear", "intens"))]
        for name in (*positive, *others):
            if getattr(self, name) < 0 or (name in positive and getattr(self, name) == 0):
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, expected {'more than 0' if name in positive else '0 or more'}"
                )


def sensor_names() -> list[str]:
    """Names of the shipped sensors."""
    return sorted(path.stem for path in (config_folder() / "sensors").glob("*.yaml"))


def load_sensor(name_or_path: str | Path) -> Sensor:
    """A shipped sensor by its name ("hdl64e"), or the one of a YAML file.

    Raises:
        ConfigError: if there is none such, or a key or value of the file is wrong.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = config_folder() / "sensors" / f"{name_or_path}.yaml"
        if not path.is_file():
            raise ConfigError(
                f"{name_or_path}: no such sensor; expected a .yaml file or one of: {', '.join(sensor_names())}"
            )
    try:
        return load_config(path, Sensor)
    except ConfigError as error:
        raise error if str(path) in str(error) else ConfigError(f"{path}: {error}") from error


def rings(points: NDArray[np.floating], sensor: Sensor) -> NDArray[np.int64]:
    """(N,) int64: the beam that each point (N, 3 or more) [m, LiDAR frame] is of, 0 the uppermost."""
    distance_m = np.hypot(points[:, 0], points[:, 1]).astype(np.float64)
    height_m = np.asarray(sensor.beam_height_m or np.zeros(len(sensor.elevation_deg)))
    line_m = height_m + distance_m[:, None] * np.tan(np.radians(sensor.elevation_deg))
    nearest: NDArray[np.int64] = np.abs(line_m - points[:, 2, None]).argmin(axis=1)
    return nearest
