"""How a LiDAR is mounted and scaled: simulated sensors of known height, real recordings, made-up intensities."""

from dataclasses import replace

import numpy as np
import pytest

from detector.config import SensorConfig
from detector.ground import GroundPlane
from detector.sensor_estimate import estimate_sensor
from tests.detector.test_ground import made_up_ground
from tools.simulation.drive import simulate_drive
from tools.simulation.sensor import load_sensor

TRAINED_M = 1.73


def simulated(name, **mounting):
    sensor = replace(load_sensor(name), **mounting)
    drive = simulate_drive(3, seed=11, sensor=sensor, full=True, step_s=2.0, frames_per_world=1)
    return [found.frame.points for found in drive]


@pytest.mark.parametrize(("name", "height_m"), [("hdl64e", 1.2), ("hdl32e", 2.4), ("os1_128", 1.9)])
def test_simulated_sensors(name, height_m):
    found = estimate_sensor(simulated(name, height_m=height_m))
    assert found.height_m == pytest.approx(height_m, abs=0.05) and found.height_spread_m < 0.05
    assert found.settings(TRAINED_M) == {"height_m": pytest.approx(height_m, abs=0.05)}
    assert found.intensity_scale == 1 and found.warnings == []


def test_axes_and_tilt_are_told():
    found = estimate_sensor(simulated("hdl32e", yaw_deg=90.0, pitch_deg=4.0))
    tilt, axes = found.warnings
    assert "tilted by" in tilt and found.tilt_deg == pytest.approx(4, abs=1) and "run along y" in axes


@pytest.mark.parametrize(
    ("pattern", "height_m", "settings"),
    [
        ("kitti_raw/*/*/velodyne_points/data/*.bin", TRAINED_M, {}),
        ("kitti/training/velodyne/00000?.bin", TRAINED_M, {}),
        ("argoverse/*/velodyne.bin", 0.32, {"height_m": pytest.approx(0.32, abs=0.03)}),
        ("nuscenes/*/velodyne.bin", 1.78, {}),
    ],
)
def test_real_recordings(shared, pattern, height_m, settings):
    files = sorted(shared.glob(pattern))[:6]
    found = estimate_sensor([np.fromfile(file, np.float32).reshape(-1, 4) for file in files])
    assert found.height_m == pytest.approx(height_m, abs=0.08)
    assert found.settings(TRAINED_M) == settings
    assert [warning[:20] for warning in found.warnings] == (["the road seems to ru"] if "nuscenes" in pattern else [])


def with_intensities(values):
    points = made_up_ground(GroundPlane(0, 0, TRAINED_M))
    points[:, 3] = np.resize(np.asarray(values, np.float32), len(points))
    return points


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        (np.linspace(0, 1, 100), 1.0),
        (np.linspace(0, 0.45, 100), 1.0),  # a dull scene
        (np.linspace(0, 255, 256), 1 / 255),
        (np.linspace(0, 65535, 500), 1 / 65535),
        (np.linspace(0, 0.1, 100), 10.0),
        (np.linspace(0, 70, 100), 1 / 70),  # percent, or a little of 8 bits
        ([0.0], None),
        ([0.7], None),
        ([np.nan, 0.2, 0.9], 1.0),
    ],
)
def test_intensities(values, scale):
    found = estimate_sensor([with_intensities(values)])
    if scale is None:
        assert found.intensity_scale is None and any("intensities are the same" in text for text in found.warnings)
        assert found.settings(TRAINED_M) == {}
    else:
        assert found.intensity_scale == pytest.approx(scale, rel=0.02)


def test_what_is_applied():
    raised = made_up_ground(GroundPlane(0, 0, 0.9))
    found = estimate_sensor([raised])
    sensor = found.applied_to(SensorConfig(crop_to_camera=False, intensity_scale=3.0), TRAINED_M)
    assert sensor.height_m == pytest.approx(0.9, abs=0.04) and not sensor.crop_to_camera
    assert found.intensity_scale is None and sensor.intensity_scale == 3.0, "what cannot be measured stays"
    as_trained = estimate_sensor([with_intensities([0.1, 0.9])]).applied_to(SensorConfig(height_m=0.2), TRAINED_M)
    assert as_trained == SensorConfig(), "what was set wrong goes back to what the network knows"


def test_one_bad_frame_of_many_does_not_count():
    frames = [made_up_ground(GroundPlane(0, 0, height_m), seed) for seed, height_m in enumerate([1.7, 1.7, 0.4, 1.7])]
    assert estimate_sensor(frames).height_m == pytest.approx(1.7, abs=0.04)


@pytest.mark.parametrize("frames", [[], [np.zeros((0, 4), np.float32)]])
def test_nothing_to_look_at(frames):
    found = estimate_sensor(frames)
    assert found.height_m is None and found.settings(TRAINED_M) == {}
    assert found.applied_to(SensorConfig(height_m=0.5), TRAINED_M) == SensorConfig(height_m=0.5)
    assert "no ground found" in found.warnings[0]
