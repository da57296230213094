"""The simulated sensor: shutter, frames, edges, losses, intensities, settings; the ray caster has tests of its own."""

import dataclasses

import numba
import numpy as np
import pytest

from detector.errors import ConfigError
from tests.tools.simulated_scenes import actor_of, quiet_sensor, world_of
from tools.simulation.actors import Motion
from tools.simulation.echo import NO_GROUND
from tools.simulation.materials import OPTICS, Material
from tools.simulation.sensor import Sensor, load_sensor, sensor_names
from tools.simulation.solids import Solids, box, cylinder
from tools.simulation.surface import Ground, level_surface
from tools.simulation.sweep import actor_poses, lidar_from_world, sweep, world_from_lidar

WHITE = Material.PLASTER
ROOM = Solids.join([box((0, s * 20, -9), (60, 1, 30), WHITE) for s in (-1, 1)])
ROOM = Solids.join([ROOM, *(box((s * 20, 0, -9), (1, 60, 30), WHITE) for s in (-1, 1))])


def points_of(sensor, world, time_s=0.0, seed=0, **more):
    return sweep(sensor, world, time_s, np.random.default_rng(seed), **more)


def column_times(sensor, points):
    """When the columns of points fire, from the definition of the shutter."""
    return -np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi) / sensor.rate_hz


def in_world(points, poses, height_m):
    """Points of a level sensor, each in the frame of its own pose (N, 3)."""
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    x = poses[:, 0] + cos * points[:, 0] - sin * points[:, 1]
    return np.stack([x, poses[:, 1] + sin * points[:, 0] + cos * points[:, 1], points[:, 2] + height_m], axis=1)


def test_points_lie_on_what_was_hit():
    found = points_of(quiet_sensor([5, -2, -12, -30]), world_of(ROOM))
    points, on_ground = found.points.astype(float), found.ground == Ground.ROAD
    assert len(points) == 4 * 720 and found.points.dtype == np.float32
    np.testing.assert_allclose(points[on_ground, 2], -2, atol=6e-4)  # whole millimetres
    np.testing.assert_allclose(np.abs(points[~on_ground, :2]).max(axis=1), 19.5, atol=6e-4)
    assert (found.ground[~on_ground] == NO_GROUND).all() and (found.owner == -1).all()
    assert found.ring.tolist() == sorted(found.ring) and np.bincount(found.ring).tolist() == [720] * 4
    azimuth = np.arctan2(points[:720, 1], points[:720, 0]) % (2 * np.pi)
    assert (np.diff(azimuth) > 0).all(), "a ring starts ahead and goes on to the left"


@pytest.mark.parametrize("clockwise", [True, False])
def test_rolling_shutter_of_a_driving_and_turning_sensor(clockwise):
    sensor = quiet_sensor([3, -1], clockwise=clockwise)
    times = np.array([-1.0, 1.0])
    ego = Motion(times, np.array([[-12.0, 0.5, -0.8], [12.0, 0.5, 0.8]]))  # 12 m/s and 0.8 rad/s
    found = points_of(sensor, world_of(ROOM, ego=ego)).points.astype(float)
    late = column_times(sensor, found) * (1 if clockwise else -1)
    world = in_world(found, ego.at(late), 2.0)
    on_wall = world[:, 2] > 0.01
    np.testing.assert_allclose(np.abs(world[on_wall, :2]).max(axis=1), 19.5, atol=2e-3)
    # Without the shutter the walls bend: at the seam, half a turn from the stamp, by 0.6 m.
    still = in_world(found, np.tile(ego.at(0.0), (len(found), 1)), 2.0)
    bent = np.abs(np.abs(still[on_wall, :2]).max(axis=1) - 19.5)
    assert bent.max() > 0.5 and bent[np.abs(late[on_wall]) < 1e-3].max() < 0.03


def test_a_moving_car_is_where_it_is_when_the_beam_gets_there():
    sensor = quiet_sensor(np.linspace(2, -8, 30), rays_per_turn=2000)
    body = box((0, 0, 0.2), (4, 2, 1.3), WHITE)
    motion = Motion(np.array([-1.0, 1.0]), np.array([[2.0, -15.0, np.pi / 2 - 0.4], [2.0, 15.0, np.pi / 2 + 0.4]]))
    ahead = Motion(motion.times_s, motion.poses + np.array([10, 2, 0]))
    world = world_of(actors=[actor_of(body, motion), actor_of(body, ahead)])
    found = points_of(sensor, world, -0.35)
    for index, moved in enumerate((motion, ahead)):
        points = found.points[found.owner == index].astype(float)
        late = column_times(sensor, points)
        poses = moved.at(-0.35 + late)
        away = points[:, :2] - poses[:, :2]
        local = np.stack(
            [
                np.cos(poses[:, 2]) * away[:, 0] + np.sin(poses[:, 2]) * away[:, 1],
                np.cos(poses[:, 2]) * away[:, 1] - np.sin(poses[:, 2]) * away[:, 0],
            ],
            axis=1,
        )
        gap = np.maximum(np.abs(local[:, 0]) - 2, np.abs(local[:, 1]) - 1)
        side = (points[:, 2] > -1.79) & (points[:, 2] < -0.51)
        # Its turning is linear in a sweep for each part: off by the square of 0.4 rad/s * 12 ms at most.
        assert side.sum() > 50 and np.abs(gap[side]).max() < 2e-3
    late = column_times(sensor, found.points[found.owner == 0]).mean()
    assert abs(late) * 15 > 0.1, "the case moves by more than the tolerance"


def test_slope_lifts_what_stands_on_it():
    grade = np.array([0.03, -0.05])
    table = box((12, 1, 0), (4, 3, 0.8), WHITE)
    ego = Motion.standing(np.array([0.0, 0.0, 0.4]))
    world = world_of(table, ego=ego, grade=grade)
    sensor = quiet_sensor(np.linspace(-2, -20, 40), pitch_deg=3.0, roll_deg=-2.0, yaw_deg=5.0, x_m=0.3, y_m=-0.2)
    found = points_of(sensor, world)
    # Back to the level scene by the inverse of lidar_from_world, solved numerically from four points.
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    moved = lidar_from_world(sensor, world, 0.0, corners)
    level = np.linalg.solve((moved[1:] - moved[0]).T, (found.points[:, :3] - moved[0]).T).T
    beside = (np.abs(level[:, 0] - 12) > 2.01) | (np.abs(level[:, 1] - 1) > 1.51)
    assert beside.sum() > 10_000 and (level[:, 2] > 0.79).sum() > 50
    np.testing.assert_allclose(level[beside, 2], 0, atol=2e-3)
    assert level[:, 2].min() > -2e-3 and level[:, 2].max() < 0.802
    # The pose's rotation has the ground where the shear has it; a shear leaves x and y alone, so they part by slope
    # times height below the sensor, and by half the slope's square times the range.
    pose = world_from_lidar(sensor, world, 0.0)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(pose[:3, 3], np.linalg.solve((moved[1:] - moved[0]).T, -moved[0]), atol=1e-9)
    by_pose = found.points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
    slope = np.hypot(*grade)
    assert np.abs(by_pose - level).max() < slope * sensor.height_m + slope**2 / 2 * sensor.max_range_m
    assert np.abs(by_pose[beside, 2]).max() < slope**2 / 2 * sensor.height_m + 2e-3


def test_actors_stand_on_the_ground_under_them():
    flat = level_surface()
    raised = dataclasses.replace(flat, height_m=flat.height_m + np.float32(0.12))
    car = actor_of(box((0, 0, 0), (4, 2, 1.5), WHITE), Motion.standing(np.array([9.0, 1.0, 0.7])))
    world = world_of(actors=[car], surface=raised)
    np.testing.assert_allclose(actor_poses(world, 0.0), [[9, 1, 0.12, 0.7]], atol=1e-6)
    found = points_of(quiet_sensor([-1.0, -12.0, -13.0]), world)
    assert found.points[:, 2].min() == pytest.approx(-2.0, abs=1e-3), "so does the sensor"
    assert found.points[found.owner == 0, 2].min() > -2.001


@pytest.mark.parametrize(("wall_height", "low", "high"), [(0.01, 1.0, 1.0), (1.1, 0.2, 0.8), (4.0, 0.0, 0.0)])
def test_occlusion_is_counted_in_rays(wall_height, low, high):
    car = actor_of(box((0, 0, 0), (4, 2, 1.5), Material.GLASS), Motion.standing(np.array([20.0, 0, 0])))
    wall = box((10, 0, 0), (0.5, 9, wall_height), WHITE)
    for lost in (0.0, 0.9):
        sensor = dataclasses.replace(quiet_sensor(np.linspace(1, -7, 60), rays_per_turn=2000), lost_share=lost)
        found = points_of(sensor, world_of(wall, [car]))
        assert found.possible.tolist()[0] > 300
        assert low <= found.met[0] / found.possible[0] <= high
    assert (found.owner == 0).sum() < 0.2 * max(found.met[0], 1), "lost echoes are no occlusion"


def edges(**changes):
    """A pole before a wall: points, and which of them lie on neither."""
    scene = Solids.join([cylinder((8, 0, 0), 0.3, 9, WHITE), box((10.3, 0, 0), (1, 30, 9), WHITE)])
    sensor = quiet_sensor(np.linspace(5, -5, 40), rays_per_turn=3000, **changes)
    points = points_of(sensor, world_of(scene), half_view_rad=0.3).points.astype(float)
    on_pole = np.abs(np.hypot(points[:, 0] - 8, points[:, 1]) - 0.3) < 0.03
    return points, ~on_pole & (np.abs(points[:, 0] - 9.8) > 0.03)


def test_mixed_pixels_stand_behind_edges_only():
    _, stray = edges()
    assert not stray.any(), "lines have no edges"
    wide = {"divergence_mrad": 4.0, "split_m": 3.0}
    points, stray = edges(**wide, mixed_share=0.5)
    off_edge = np.abs(np.abs(np.arctan2(points[:, 1], points[:, 0])) - np.arcsin(0.3 / 8))
    assert 20 < stray.sum() < 0.02 * len(points)
    assert off_edge[stray].max() < 0.5 * 4e-3 and (points[stray, 0] > 7.7).all() and (points[stray, 0] < 9.9).all()
    assert stray.sum() > 1.5 * edges(**wide, mixed_share=0.2)[1].sum()
    assert not edges(**wide, mixed_share=0.0)[1].any(), "the stronger echo wins"
    _, merged = edges(divergence_mrad=4.0, merge_m=4.0)
    assert merged.sum() > 20, "echoes closer than a pulse give their mean"


def wall_points(material=WHITE, x_m=15.0, angle_rad=0.0, seed=0, shade=1.0, **changes):
    """Echoes of a wall ahead, turned by an angle."""
    wall = box((x_m, 0, -20), (0.01, 200, 60), material, shade, angle_rad)
    sensor = quiet_sensor(np.linspace(3, -3, 50), rays_per_turn=3600, **changes)
    return points_of(sensor, world_of(wall), seed=seed, half_view_rad=0.1).points


def test_range_noise_and_beam_errors():
    points = wall_points(Material.PLASTER, range_noise_m=0.02)
    flat = np.hypot(points[:, 0], points[:, 1])
    error = (points[:, 0] - 15 + 0.005) / (points[:, 0] / np.hypot(flat, points[:, 2]))
    assert error.std() == pytest.approx(0.02, rel=0.03) and abs(error.mean()) < 1e-3
    biased = [wall_points(range_bias_m=0.05, seed=seed) for seed in (0, 1)]
    assert biased[0][:, 0].std() == pytest.approx(0.05, rel=0.3), "50 beams"
    np.testing.assert_allclose(biased[0][:, :3], biased[1][:, :3], atol=2e-3, err_msg="a beam keeps its error")


def test_drop_out_follows_the_law():
    total = len(wall_points())
    strength = OPTICS[WHITE].reflectance / 1.02
    for half, x_m in ((20.0, 15.0), (20.0, 45.0), (60.0, 45.0)):
        kept = len(wall_points(x_m=x_m, half_lost_m=half, max_range_m=200.0)) / total
        odds = (0.1 / strength * (x_m / half) ** 2) ** 2
        assert kept == pytest.approx(1 / (1 + odds), abs=0.02)
    assert len(wall_points(lost_share=0.3)) / total == pytest.approx(0.7, abs=0.02)
    rubber = OPTICS[Material.RUBBER].dropout
    assert len(wall_points(Material.RUBBER)) / total == pytest.approx(1 - rubber, abs=0.02)
    assert len(wall_points(max_range_m=14.0)) == 0 and len(wall_points(min_range_m=16.0)) == 0


def test_wet_roads_lose_more_and_look_darker():
    sensor = quiet_sensor([-20.0, -15.0], rays_per_turn=4000)
    dry, wet = (points_of(sensor, world_of(wet=wet)).points for wet in (0.0, 1.0))
    assert len(dry) > 0.99 * 8000 > 8000 * 0.75 > len(wet) > 4000
    assert wet[:, 3].mean() < 0.3 * dry[:, 3].mean()


def test_intensity_follows_the_law():
    def mean(*args, **more):
        return wall_points(*args, **more)[:, 3].mean()

    near = OPTICS[WHITE].reflectance / 1.02
    assert mean() == pytest.approx(near, abs=0.01)
    assert mean(shade=0.5) == pytest.approx(near / 2, abs=0.01)
    assert mean(intensity_floor=0.1) == pytest.approx(near - 0.1, abs=0.01)
    assert mean(x_m=30.0, fade_per_m=0.01, fade_from_m=20.0) == pytest.approx(near - 0.1, abs=0.01)
    assert mean(beam_gain=(0.5,) * 50) == pytest.approx(near / 2, abs=0.01)
    # Beams of 2 mrad on a wall at 80 degrees are smeared over some 15 m * 2e-3 * tan(80°) = 0.17 m.
    oblique = wall_points(angle_rad=np.radians(80), divergence_mrad=2.0, smear_per_m=1.0, smear_from_m=0.07)
    away = np.linalg.norm(oblique[:, :3], axis=1)
    cosine = oblique[:, :2] @ np.array([np.cos(np.radians(80)), np.sin(np.radians(80))]) / away
    level = OPTICS[WHITE].reflectance * cosine / (cosine + 0.02) - (away * 2e-3 * np.sqrt(1 / cosine**2 - 1) - 0.07)
    bright = level > 0.1  # the noise takes none of these below 0
    assert bright.sum() > 1000 and oblique[bright, 3].mean() == pytest.approx(level[bright].mean(), abs=0.01)
    assert mean(Material.SIGN) == pytest.approx(0.99, abs=1e-3), "saturated"
    dark = wall_points(Material.PAINT, shade=0.1, angle_rad=0.6, intensity_floor=0.05)
    assert (dark[:, 3] == 0).all(), "a dark car from the side"
    hundredths = wall_points()[:, 3] * 100
    np.testing.assert_allclose(hundredths, np.round(hundredths), atol=1e-4)


def test_the_own_vehicle_hides_what_is_below():
    sensor = quiet_sensor([-5.0, -20.0, -25.0], blind_deg=((170.0, 190.0, -15.0), (-10.0, 10.0, -22.0)))
    found = points_of(sensor, world_of())
    azimuth = np.degrees(np.arctan2(found.points[:, 1], found.points[:, 0]))
    behind, ahead = np.abs(azimuth) > 170.1, np.abs(azimuth) < 9.9
    assert set(found.ring[behind]) == {0} and set(found.ring[ahead]) == {0, 1}
    assert set(found.ring[~behind & ~ahead]) == {0, 1, 2}


def test_beams_start_at_their_own_heights():
    sensor = quiet_sensor([-10.0, -10.0], beam_height_m=(0.0, 0.2))
    found = points_of(sensor, world_of())
    reach = [np.hypot(*found.points[found.ring == ring, :2].T).mean() for ring in (0, 1)]
    np.testing.assert_allclose(reach, np.array([2.0, 2.2]) / np.tan(np.radians(10)), atol=2e-3)


def busy_world():
    rng = np.random.default_rng(5)
    solids = [
        box((*rng.uniform(-40, 40, 2), 0), tuple(rng.uniform(0.3, 5, 3)), Material(int(rng.integers(18))), 1.0, 0.4)
        for _ in range(150)
    ]
    ego = Motion(np.array([0.0, 2.0]), np.array([[0.0, 0, 0], [20, 1, 0.2]]))
    car = actor_of(
        box((0, 0, 0.2), (4, 2, 1.3), Material.PAINT), Motion(ego.times_s, ego.poses + np.array([9.0, 3.0, 0.1]))
    )
    return world_of(Solids.join(solids), [car], ego, wet=0.3)


def test_same_seed_same_bytes_for_any_thread_count():
    sensor, world = load_sensor("hdl64e"), busy_world()
    first, other = (points_of(sensor, world, 1.0, seed).points for seed in (7, 8))
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again = points_of(sensor, world, 1.0, 7)
    finally:
        numba.set_num_threads(threads)
    assert first.tobytes() == again.points.tobytes() and first.tobytes() != other.tobytes()
    assert len(first) > 50_000 and again.met.tolist() <= again.possible.tolist()


def test_half_views_are_part_of_the_turn():
    sensor, world = load_sensor("hdl32e"), busy_world()
    whole, half = (points_of(sensor, world, 1.0, half_view_rad=view).points for view in (np.pi, 0.7))
    ahead = np.abs(np.arctan2(whole[:, 1], whole[:, 0])) < 0.7
    assert len(half) == pytest.approx(ahead.sum(), rel=0.02) and len(half) > 1000


@pytest.mark.parametrize("name", sensor_names())
def test_shipped_sensors(name):
    sensor = load_sensor(name)
    elevation = np.array(sensor.elevation_deg)
    assert (np.diff(elevation) < 0).all(), "the uppermost first"
    beams, top, bottom = {"hdl64e": (64, 2, -24.9), "hdl32e": (32, 10.67, -30.67), "os1_128": (128, 22.5, -22.5)}[name]
    assert len(elevation) == beams and elevation[0] == pytest.approx(top, abs=0.15)
    assert elevation[-1] == pytest.approx(bottom, abs=0.15)
    if name == "hdl64e":  # two blocks of 32: thirds and halves of a degree
        steps = -np.diff(elevation)
        assert np.mean(steps[:31]) == pytest.approx(1 / 3, abs=0.02)
        assert np.mean(steps[32:]) == pytest.approx(0.5, abs=0.03)


def test_points_of_kitti_lie_on_the_beams_of_the_sensor(shared):
    sensor = load_sensor("hdl64e")
    path = next((shared / "kitti_raw").rglob("velodyne_points/data/*.bin"))
    points = np.fromfile(path, np.float32).reshape(-1, 4)
    reach = np.hypot(points[:, 0], points[:, 1])[:, None]
    lines = sensor.beam_height_m + reach * np.tan(np.radians(sensor.elevation_deg))
    gap = np.abs(points[:, 2:3] - lines)
    assert np.median(gap.min(axis=1)) < 1e-3 and np.quantile(gap.min(axis=1), 0.99) < 3e-3
    azimuth = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    ring = np.cumsum(np.diff(azimuth, prepend=azimuth[0]) < -np.pi)  # a ring of the file starts ahead
    assert np.mean(gap.argmin(axis=1) == ring) > 0.98


BAD = {
    "elevation_dge: [1.0]": "unknown key 'elevation_dge'; did you mean 'elevation_deg'",
    "elevation_deg: []": "elevation_deg has 0 beams",
    "elevation_deg: [95.0]": "each from -80 to 80",
    "elevation_deg: 3": "expected a list",
    "elevation_deg: [1.0, 2.0]\nbeam_gain: [1.0]": "beam_gain has 1 numbers, expected 2",
    "elevation_deg: [1.0]\nrate_hz: 0": "rate_hz 0.0: expected more than 0",
    "elevation_deg: [1.0]\nmax_range_m: 0.5": "expected 0 < min < max",
    "elevation_deg: [1.0]\nmixed_share: 2.0": "mixed_share is 2.0, expected 0 to 1",
    "elevation_deg: [1.0]\nrange_noise_m: -1.0": "range_noise_m is -1.0, expected 0 or more",
    "elevation_deg: [1.0]\nheight_m: 0.0": "height_m is 0.0, expected more than 0",
    "elevation_deg: [1.0]\ndivergence_mrad: 90.0": "divergence_mrad is 90.0",
    "elevation_deg: [1.0]\nblind_deg: [[1.0, 2.0]]": "triples",
    "elevation_deg: !!python/object/apply:os.getcwd []": "not a readable YAML file",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=range(len(BAD)))
def test_wrong_sensor_files_say_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_sensor(path)
    assert message in str(caught.value) and "mine.yaml" in str(caught.value)


def test_unknown_sensors_name_those_that_are_there():
    with pytest.raises(ConfigError, match=r"hdl99: no such sensor; .*hdl32e, hdl64e"):
        load_sensor("hdl99")
    assert Sensor((0.0,)).height_m == 1.73
